//! After a success: the outputs are found and their bytes stored before anything is reported.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use gristmill_client::node::{Backoff, CallError};
use gristmill_executor::request::StopReason;
use gristmill_protocol::{ErrorCode, Outcome, Reason, WorkPhase, job::OutputEntry, node_api::AttemptReport};
use tracing::Instrument as _;

use super::{
    Attempt, End, Halt,
    collect::{CollectError, Collected, CollectedOutput, collect},
    run_guest::Ran,
    spans, stop_outcome, stopped, us_since,
};
use crate::{
    clock::Moment,
    code::{node_failed, node_failed_by},
};

/// Outputs of one attempt that are stored at the same time.
const TRANSFERS_MAX: usize = 4;
/// Smaller outputs are sent without asking first whether the server has them.
const ASK_BYTES_MIN: u64 = 64 << 10;

impl Attempt {
    /// Stores outputs and the rest of the log, and makes the report.
    pub(super) async fn finish(&self, ran: Ran) -> End {
        let is_success = ran.is_success();
        let Ran { mut outcome, mut log } = ran;
        let mut outputs = Vec::new();
        if is_success {
            self.lease.enter(WorkPhase::Collecting);
            let began = Moment::now();
            // A cancel that comes after the guest's success still wins.
            let stored = tokio::select! {
                biased;
                reason = stopped(self.lease.stop_signal()) => Err(match reason {
                    StopReason::LeaseLost => Halt::LeaseLost,
                    reason => stop_outcome(reason).into(),
                }),
                stored = self.store_outputs().instrument(spans::phase(WorkPhase::Collecting)) => stored,
            };
            match stored {
                Ok(collected) => {
                    outcome.usage.output_bytes = Some(collected.bytes());
                    outcome.message = collected.with_note(outcome.message);
                    outputs = collected.outputs.into_iter().map(|output| output.entry).collect();
                }
                Err(Halt::Outcome(failed)) => {
                    let usage = std::mem::take(&mut outcome.usage);
                    outcome = Outcome { usage, exit_code: outcome.exit_code, ..*failed };
                }
                Err(Halt::LeaseLost) => return self.end_after_lost_lease(),
            }
            outcome.usage.collect_us = Some(us_since(began));
        }
        self.flush_log(&mut log).await;
        let log_truncated = log.is_cut();
        End::Report(Box::new(AttemptReport { outcome, outputs, log_tail: log.into_tail(), log_truncated }))
    }

    async fn store_outputs(&self) -> Result<Collected, Halt> {
        let (dir, limits) = (Arc::clone(&self.dir), self.grant.limits.clone());
        let collected = tokio::task::spawn_blocking(move || collect(dir.path(), &limits))
            .await
            .map_err(|panic| node_failed("collect the outputs", &panic))?
            .map_err(|error| match error {
                CollectError::TooLarge(text) => Outcome::failed(Reason::OutputTooLarge, text),
                CollectError::Io(error) => node_failed_by("collect the outputs", &error),
            })?;
        let mut seen = HashSet::new();
        let transfers: Vec<BoxFuture<'_, _>> = collected
            .outputs
            .iter()
            .filter(|output| seen.insert(output.entry.digest))
            .map(|output| self.store_output(output).boxed())
            .collect();
        let () = stream::iter(transfers).buffer_unordered(TRANSFERS_MAX).try_collect().await?;
        Ok(collected)
    }

    /// Stores one output, repeating what fails by the network until the future is dropped.
    async fn store_output(&self, output: &CollectedOutput) -> Result<(), Halt> {
        let mut backoff = Backoff::between(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            match self.try_store(output).await {
                Ok(()) => return Ok(()),
                Err(error) if error.code() == Some(ErrorCode::LeaseLost) => return Err(Halt::LeaseLost),
                Err(error) if error.is_worth_repeating() => {
                    tracing::debug!(%error, digest = %output.entry.digest, "an output got no answer; sending it again");
                    tokio::time::sleep(backoff.next_delay(error.retry_after())).await;
                }
                Err(error) => return Err(refused(&output.entry, &error).into()),
            }
        }
    }

    async fn try_store(&self, output: &CollectedOutput) -> Result<(), CallError> {
        let (client, lease) = (&self.services.client, self.lease.reference());
        let OutputEntry { digest, size, .. } = &output.entry;
        if *size >= ASK_BYTES_MIN && client.output_is_stored(lease, digest).await? {
            return Ok(());
        }
        client.put_output(lease, digest, *size, &output.file).await
    }
}

fn refused(entry: &OutputEntry, error: &CallError) -> Outcome {
    let reason = match error.code() {
        Some(ErrorCode::BodyTooLarge) => Reason::OutputTooLarge,
        Some(ErrorCode::DigestMismatch) => Reason::DigestMismatch,
        code => refusal(code),
    };
    tracing::error!(%error, digest = %entry.digest, "the server refused an output");
    Outcome::failed(reason, format!("the server refused the output {:?}: {error}", entry.path))
}

/// Why an attempt ends whose bytes the server refuses to give or to take. That it forbids them is a
/// policy; anything else is between node and server and no fault of the job, which is tried again.
pub(super) fn refusal(code: Option<ErrorCode>) -> Reason {
    match code {
        Some(ErrorCode::Forbidden) => Reason::PolicyDenied,
        _ => Reason::ExecutorCrashed,
    }
}

#[cfg(test)]
mod tests {
    use gristmill_protocol::{Digest, Problem};

    use super::*;

    fn reason(code: ErrorCode) -> Option<Reason> {
        let entry = OutputEntry { path: "a.txt".into(), digest: Digest::from_bytes([1; 32]), size: 3 };
        let problem = Problem {
            kind: "about:blank".into(),
            title: code.to_string(),
            status: code.status(),
            detail: "no".into(),
            code,
            hint: None,
            request_id: None,
            errors: Vec::new(),
        };
        let outcome = refused(&entry, &CallError::Refused { problem: Box::new(problem), retry_after: None });
        assert!(outcome.message.is_some_and(|text| text.contains("a.txt") && text.contains("no")));
        outcome.reason
    }

    #[test]
    fn a_refused_output_has_the_reason_that_the_server_gave() {
        for (code, expected) in [
            (ErrorCode::BodyTooLarge, Reason::OutputTooLarge),
            (ErrorCode::DigestMismatch, Reason::DigestMismatch),
            (ErrorCode::Forbidden, Reason::PolicyDenied),
            (ErrorCode::InvalidRequest, Reason::ExecutorCrashed),
            (ErrorCode::NotFound, Reason::ExecutorCrashed),
        ] {
            assert_eq!(reason(code), Some(expected), "{code}");
        }
    }
}
