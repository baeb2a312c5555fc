//! The last step: telling the server, until it has answered.

use std::time::Duration;

use gristmill_protocol::{
    Outcome,
    node_api::{AttemptChange, AttemptReport, UpdateVerdict},
};

use super::{Attempt, AttemptEnd, End, stop_outcome};
use crate::code::node_failed;
use gristmill_executor::request::StopReason;

/// How long a node that quits waits for answers to its last reports.
const LAST_WORDS_TIME: Duration = Duration::from_secs(5);
/// A message has at most this many bytes.
const MESSAGE_BYTES_MAX: usize = 1_024;

impl Attempt {
    pub(super) async fn report(&self, end: End) -> AttemptEnd {
        let (outcome, is_accepted) = match end {
            End::Silent => (None, false),
            End::Released => {
                let verdict = self.post(AttemptChange::Released).await;
                (None, verdict == Some(UpdateVerdict::Accepted))
            }
            End::Report(mut report) => {
                cut_message(&mut report.outcome.message);
                let outcome = report.outcome.clone();
                let (outcome, verdict) = self.post_report(*report, outcome).await;
                (Some(outcome), verdict == Some(UpdateVerdict::Accepted))
            }
        };
        AttemptEnd { job: self.grant.job, attempt: self.grant.attempt, outcome, is_accepted }
    }

    /// Reports, and reports once more when the server cannot take the report as it is.
    async fn post_report(&self, report: AttemptReport, outcome: Outcome) -> (Outcome, Option<UpdateVerdict>) {
        let reason = outcome.reason.map(tracing::field::display);
        tracing::info!(state = %outcome.state, reason, "the attempt ended");
        let first = self.post(AttemptChange::Finished(Box::new(report))).await;
        let mut other = match first {
            Some(UpdateVerdict::Cancelled) => stop_outcome(StopReason::Cancelled),
            Some(UpdateVerdict::Rejected) => node_failed("report the attempt", &"the report was rejected"),
            verdict => return (outcome, verdict),
        };
        other.usage = outcome.usage;
        let report = AttemptReport {
            outcome: other.clone(),
            outputs: Vec::new(),
            log_tail: Vec::new(),
            log_truncated: false,
        };
        let second = self.post(AttemptChange::Finished(Box::new(report))).await;
        (other, second)
    }

    /// Waits for the verdict however long it takes, unless the node quits.
    async fn post(&self, change: AttemptChange) -> Option<UpdateVerdict> {
        let verdict = self.services.outbox.post(self.lease.reference(), change);
        let gives_up = async {
            self.services.quitting.cancelled().await;
            tokio::time::sleep(LAST_WORDS_TIME).await;
        };
        tokio::select! {
            verdict = verdict => verdict.ok(),
            () = gives_up => None,
            _ = self.services.failure.happened() => None,
        }
    }
}

fn cut_message(message: &mut Option<String>) {
    if let Some(text) = message {
        let end = text.floor_char_boundary(MESSAGE_BYTES_MAX);
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let mut message = Some("é".repeat(1_000));
        cut_message(&mut message);
        assert_eq!(message.map(|text| text.len()), Some(1_024));
    }
}
