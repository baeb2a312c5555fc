//! Asking for work: one call at a time, only while there is room.

use std::{sync::Arc, time::Duration};

use gristmill_client::node::Backoff;
use gristmill_protocol::{
    JobId,
    node_api::{AcquireGrant, AcquireRequest, AttemptChange, LeaseGrant},
};
use rand::RngExt;
use tokio::task::JoinHandle;

use crate::{
    attempt::{self, AttemptEnd},
    clock::Moment,
    heartbeat::fail_if_refused,
    lease::ACQUIRE_HOLD_MAX,
    room::Free,
    services::Services,
};

/// How long the server holds the call of a node that is partly busy. A call says how much was free
/// when it was made; this bounds how long larger jobs have to wait for more to be offered. The call
/// is never given up for that: the server may just be granting a lease in answer to it.
const BUSY_HOLD: Duration = Duration::from_secs(5);
/// The beat of calls that carry several leases or reports. Every such call costs the server a durable
/// write, which takes an ordinary disk some 5 ms. Both kinds of calls are made on the same beat, so that
/// one write does for both: a node takes some 20 writes a second, a tenth of such a disk, however many
/// small jobs it runs; and no start and no end is known later than people notice. A node that runs
/// one job at a time never waits.
const PACE: Duration = Duration::from_millis(50);
/// Most leases of one call.
const LEASES_MAX: i64 = 64;
/// How long a call may go on after the node began to drain; the server answers it when it hears.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);
/// Pause after an answer that brought nothing although it came at once.
const EMPTY_PAUSE: Duration = Duration::from_millis(50);
/// Pause after leases for which there is no room: server and node do not count alike.
const MISFIT_PAUSE: Duration = Duration::from_secs(1);

/// Asks for work and starts attempts until the node drains.
pub(crate) async fn run(services: Arc<Services>) {
    let mut backoff = Backoff::between(Duration::from_millis(250), Duration::from_secs(15));
    let mut mode = services.mode.subscribe();
    loop {
        if mode.wait_for(|mode| mode.takes_work() || mode.is_draining).await.is_err()
            || mode.borrow().is_draining
        {
            return;
        }
        let free = services.room.any().await;
        let hold = if services.room.is_idle() { ACQUIRE_HOLD_MAX } else { BUSY_HOLD };
        let request = request(&services, free, hold, None);
        match ask(&services, &request).await {
            Some(Ok((grant, sent))) => {
                backoff.reset();
                services.pause_if(grant.drain);
                let granted = grant.leases.len();
                let accepted =
                    grant.leases.into_iter().filter_map(|lease| accept(&services, lease, sent)).count();
                if granted > 0 && accepted == 0 {
                    tokio::time::sleep(MISFIT_PAUSE).await;
                } else if granted > 1 && !services.room.is_idle() {
                    tokio::time::sleep(pace(granted, sent).saturating_sub(Moment::now().since(sent))).await;
                } else if granted == 0 && Moment::now().since(sent) < EMPTY_PAUSE {
                    tokio::time::sleep(EMPTY_PAUSE).await;
                }
            }
            Some(Err(error)) if fail_if_refused(&services, &error) => return,
            Some(Err(error)) => {
                tracing::debug!(%error, "asking for work failed; trying again");
                tokio::time::sleep(backoff.next_delay(error.retry_after())).await;
            }
            None => return,
        }
    }
}

/// How long after a call made at `sent` the next one may be made, when it carried `count` leases or
/// reports: until the next beat, but for one that is so near that few would come along.
pub(crate) fn pace(count: usize, sent: Moment) -> Duration {
    if count <= 1 {
        return Duration::ZERO;
    }
    let beat = PACE.as_micros() as u64;
    let left = beat - sent.since_start().as_micros() as u64 % beat;
    Duration::from_micros(if left < beat / 2 { left + beat } else { left })
}

/// A request for what is free now.
pub(crate) fn request(services: &Services, free: Free, hold: Duration, job: Option<JobId>) -> AcquireRequest {
    let hold_ms = hold.as_millis() as u64;
    AcquireRequest {
        incarnation: services.incarnation.clone(),
        cpus_milli_free: u32::try_from(free.cpus_milli).unwrap_or(0),
        memory_bytes_free: u64::try_from(free.memory_bytes).unwrap_or(0),
        leases_max: free.attempts.clamp(0, LEASES_MAX) as u32,
        wait_ms: hold_ms - rand::rng().random_range(0..=hold_ms / 10),
        job,
    }
}

type Answer = Result<(AcquireGrant, Moment), gristmill_client::node::CallError>;

/// Makes one call. `None` when the node drains and the call did not end soon after.
pub(crate) async fn ask(services: &Services, request: &AcquireRequest) -> Option<Answer> {
    let sent = Moment::now();
    let drained = async {
        services.released().await;
        tokio::time::sleep(DRAIN_PATIENCE).await;
    };
    tokio::select! {
        answer = services.client.acquire(request) => Some(answer.map(|grant| (grant, sent))),
        () = drained => None,
    }
}

/// Starts the attempt of a lease. `None` if this node holds it already, or has no room for it and
/// gives it back.
pub(crate) fn accept(
    services: &Arc<Services>,
    grant: LeaseGrant,
    sent: Moment,
) -> Option<JoinHandle<AttemptEnd>> {
    let lease = services.keeper.hold(&grant, sent, Moment::now())?;
    let Some(reserved) = services.room.reserve(&grant.limits) else {
        tracing::warn!(job = %grant.job, "the server granted a lease for which there is no room");
        let verdict = services.outbox.post(lease.reference(), AttemptChange::Released);
        services.tasks.spawn(async move {
            let _ = verdict.await;
            drop(lease);
        });
        return None;
    };
    tracing::debug!(job = %grant.job, attempt = grant.attempt, "leased");
    Some(services.tasks.spawn(attempt::run(Arc::clone(services), grant, lease, reserved)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_carry_several_are_made_on_the_beat() {
        let beat = PACE.as_millis() as u64;
        let at = |ms: u64| Moment::at_ms(100 * beat + ms);
        assert_eq!(pace(1, at(3)), Duration::ZERO, "a lone one never waits");
        assert_eq!(pace(2, at(0)), PACE);
        assert_eq!(pace(2, at(3)), Duration::from_millis(beat - 3));
        let near = pace(2, at(beat - 1));
        assert_eq!(near, PACE + Duration::from_millis(1), "a beat that is too near is left out");
    }
}
