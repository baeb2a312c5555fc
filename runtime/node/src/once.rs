//! A node for exactly one job: the form in which a site's batch system starts nodes.

use std::{sync::Arc, time::Duration};

use anyhow::bail;
use gristmill_client::node::Backoff;
use gristmill_protocol::JobId;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    Node, NodeConfig,
    attempt::AttemptEnd,
    heartbeat::fail_if_refused,
    poller::{accept, ask, request},
    services::Services,
};

/// How one call is held while waiting for the job.
const HOLD: Duration = Duration::from_secs(5);

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub enum RunOnceEnd {
    /// There was no job to run within the waiting time, or the caller gave up before one came.
    NoJob,
    /// One attempt was made.
    Ran(Box<AttemptEnd>),
}

/// Takes one job, or the job named, runs it, reports it and returns.
///
/// `wait` bounds the time until a job is found. When `cancel` is cancelled before the guest has
/// started, nothing is run; afterwards the guest is stopped and the job goes back to the queue.
/// Errors are those of [`Node::start`], and an identity that the server refuses.
pub async fn run_once(
    config: NodeConfig,
    job: Option<JobId>,
    wait: Duration,
    cancel: CancellationToken,
) -> anyhow::Result<RunOnceEnd> {
    let started = cancel.run_until_cancelled(Node::start_idle(config)).await;
    let Some(node) = started.transpose()? else { return Ok(RunOnceEnd::NoJob) };
    let ended = node.services().asking_ended.clone().drop_guard();
    let taking = tokio::time::timeout(wait, take_one(node.services(), job));
    let taken = tokio::select! {
        taken = taking => taken.ok(),
        () = cancel.cancelled() => None,
        why = node.failed() => {
            drop(ended);
            node.stop().await;
            bail!(why);
        }
    };
    drop(ended);
    let Some(mut running) = taken else {
        node.stop().await;
        return Ok(RunOnceEnd::NoJob);
    };
    let early = tokio::select! {
        end = &mut running => Some(end),
        () = cancel.cancelled() => None,
    };
    node.stop().await;
    let end = match early {
        Some(end) => end?,
        None => running.await?,
    };
    Ok(RunOnceEnd::Ran(Box::new(end)))
}

/// Asks until a lease comes, and starts its attempt. Dropping the future may lose a lease that is
/// just being granted; the server gives it to another node when it has run out.
async fn take_one(services: &Arc<Services>, job: Option<JobId>) -> JoinHandle<AttemptEnd> {
    let mut backoff = Backoff::between(Duration::from_millis(250), Duration::from_secs(15));
    let mut mode = services.mode.subscribe();
    loop {
        let _ = mode.wait_for(|mode| mode.takes_work()).await;
        let mut request = request(services, services.room.free(), HOLD, job);
        request.leases_max = 1;
        match ask(services, &request).await {
            Some(Ok((grant, sent))) => {
                backoff.reset();
                services.pause_if(grant.drain);
                for lease in grant.leases {
                    if let Some(running) = accept(services, lease, sent) {
                        return running;
                    }
                }
            }
            // The caller hears of the failure and drops this.
            Some(Err(error)) if fail_if_refused(services, &error) => std::future::pending().await,
            Some(Err(error)) => {
                tracing::warn!(%error, "asking for the job failed; trying again");
                tokio::time::sleep(backoff.next_delay(error.retry_after())).await;
            }
            None => std::future::pending().await,
        }
    }
}
