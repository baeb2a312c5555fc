//! One attempt from its lease to its report.
//!
//! stage → compile → run → collect → report; a file for each step. Whatever happens ends in exactly
//! one of three ways: a report, the lease given back before the start, or silence when it is lost.

pub(crate) mod collect;
pub(crate) mod layout;
mod log;
pub(crate) mod placed;
mod report;
mod run_guest;
pub(crate) mod scratch_dirs;
mod spans;
mod stage;
mod store_outputs;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use gristmill_executor::request::StopReason;
use gristmill_protocol::{
    JobId, Outcome, Reason,
    node_api::{AttemptReport, LeaseGrant},
};
use tokio::sync::watch;
use tracing::Instrument as _;

use self::scratch_dirs::ScratchDir;
use crate::{clock::Moment, code::node_failed, keeper::Lease, room::Reserved, services::Services};

/// What became of an attempt on this node.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptEnd {
    /// The job.
    pub job: JobId,
    /// The attempt's number.
    pub attempt: u32,
    /// How it ended; absent when it was given back or its lease was lost.
    pub outcome: Option<Outcome>,
    /// Whether the server took the report.
    pub is_accepted: bool,
}

/// How the steps ended.
enum End {
    /// The lease is lost: nothing is reported.
    Silent,
    /// Given back before the start.
    Released,
    /// The attempt ended.
    Report(Box<AttemptReport>),
}

impl End {
    fn failed(outcome: Outcome) -> Self {
        Self::Report(Box::new(AttemptReport {
            outcome,
            outputs: Vec::new(),
            log_tail: Vec::new(),
            log_truncated: false,
        }))
    }
}

/// Why a step did not succeed.
enum Halt {
    /// The attempt ends with this outcome.
    Outcome(Box<Outcome>),
    /// The lease is lost.
    LeaseLost,
}

impl From<Outcome> for Halt {
    fn from(outcome: Outcome) -> Self {
        Self::Outcome(Box::new(outcome))
    }
}

/// One attempt at work.
struct Attempt {
    services: Arc<Services>,
    grant: LeaseGrant,
    lease: Lease,
    dir: Arc<ScratchDir>,
}

/// Runs an attempt. Its room is free again when the guest has ended, its outputs are stored, and every
/// process that worked for it has rested or is gone; the lease is kept until the report is answered.
pub(crate) async fn run(
    services: Arc<Services>,
    mut grant: LeaseGrant,
    lease: Lease,
    reserved: Arc<Reserved>,
) -> AttemptEnd {
    let traced = spans::attempt(&mut grant, services.client.node(), &services.zone);
    let span = tracing::info_span!(
        parent: &traced, "attempt", job = %grant.job, attempt = grant.attempt, fence = grant.fence
    );
    let work = run_in_span(services, grant, lease, reserved).instrument(span).instrument(traced.clone());
    let ended = work.await;
    spans::end(&traced, &ended);
    ended
}

async fn run_in_span(
    services: Arc<Services>,
    grant: LeaseGrant,
    lease: Lease,
    reserved: Arc<Reserved>,
) -> AttemptEnd {
    let dir = Arc::new(services.scratch_dirs.take());
    let attempt = Attempt { services, grant, lease, dir };
    // A fault of the node's own in one attempt must not take its report with it.
    let end = AssertUnwindSafe(attempt.steps_until_deadline(&reserved))
        .catch_unwind()
        .instrument(attempt.span())
        .await
        .unwrap_or_else(|_| End::failed(node_failed("run the attempt", &"it panicked")));
    drop(reserved);
    let ended = attempt.report(end).instrument(attempt.span()).await;
    let Attempt { services, lease, dir, .. } = attempt;
    drop(lease);
    services.tasks.spawn_blocking(move || drop(dir));
    ended
}

/// Waits for the reason to stop.
async fn stopped(mut stop: watch::Receiver<Option<StopReason>>) -> StopReason {
    match stop.wait_for(Option::is_some).await {
        Ok(reason) => reason.unwrap_or(StopReason::LeaseLost),
        // The lease is no longer kept.
        Err(_) => StopReason::LeaseLost,
    }
}

impl Attempt {
    /// What every line of the log about this attempt carries.
    fn span(&self) -> tracing::Span {
        let trace_id = self.grant.traceparent.as_deref().and_then(|text| text.split('-').nth(1));
        tracing::info_span!("attempt", job = %self.grant.job, attempt = self.grant.attempt, trace_id)
    }

    async fn steps_until_deadline(&self, reserved: &Arc<Reserved>) -> End {
        let deadline = async {
            if let Some(left_ms) = self.grant.deadline_left_ms {
                tokio::time::sleep(Duration::from_millis(left_ms)).await;
                self.lease.stop(StopReason::Deadline);
            }
            std::future::pending::<std::convert::Infallible>().await
        };
        tokio::select! {
            end = self.steps(reserved) => end,
            never = deadline => match never {},
        }
    }

    async fn steps(&self, reserved: &Arc<Reserved>) -> End {
        let prepared = tokio::select! {
            biased;
            reason = stopped(self.lease.stop_signal()) => return self.end_before_start(reason),
            () = self.services.released() => return End::Released,
            prepared = self.prepare(reserved) => match prepared {
                Ok(prepared) => prepared,
                Err(Halt::Outcome(outcome)) => return End::failed(*outcome),
                Err(Halt::LeaseLost) => return End::Silent,
            },
        };
        if let Some(reason) = self.lease.stopped() {
            return self.end_before_start(reason);
        }
        let run = match self.run_guest(&prepared, reserved).await {
            Ok(run) => run,
            Err(outcome) => return End::failed(outcome),
        };
        if self.lease.stopped() == Some(StopReason::LeaseLost) {
            return self.end_after_lost_lease();
        }
        self.finish(run).await
    }

    fn end_before_start(&self, reason: StopReason) -> End {
        if reason == StopReason::LeaseLost {
            let gives_back = self.services.quitting.is_cancelled();
            return if gives_back { End::Released } else { End::Silent };
        }
        End::failed(stop_outcome(reason))
    }

    /// A node that quits stops its guests as if their leases were lost, but it can still say so.
    fn end_after_lost_lease(&self) -> End {
        if self.services.quitting.is_cancelled() && self.services.failure.get().is_none() {
            End::failed(Outcome::failed(Reason::NodeDrained, "the node was stopped"))
        } else {
            End::Silent
        }
    }
}

fn stop_outcome(reason: StopReason) -> Outcome {
    match reason {
        StopReason::Deadline => Outcome::failed(Reason::DeadlineExceeded, "the job's deadline passed"),
        StopReason::Cancelled | StopReason::LeaseLost => {
            Outcome::failed(Reason::CancelledByUser, "the job was cancelled")
        }
    }
}

/// Microseconds since a moment.
fn us_since(start: Moment) -> u64 {
    Moment::now().since(start).as_micros() as u64
}
