//! What a person or a log file is told while a job waits in the queue.

use std::time::{Duration, Instant};

use gristmill_protocol::{JobView, zone::Runnable};

use crate::{harmless::harmless, progress::Progress, steady::Steady};

/// How long a job may wait before somebody who watches a terminal is told why.
const SHOWN_AFTER: Duration = Duration::from_secs(1);
/// The same where it becomes a line that stays.
const SAID_AFTER: Duration = Duration::from_secs(3);

/// Tells why a job waits: in the moving line of a terminal, else as a line on standard error, once
/// and again only when it is another reason.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    progress: &'a Progress,
    since: Instant,
    said: Option<String>,
}

impl<'a> Waiting<'a> {
    /// Begins with the wait.
    pub(crate) fn new(progress: &'a Progress) -> Self {
        Self { progress, since: Instant::now(), said: None }
    }

    /// Looks why the job waits and tells it, if it waits for long. That the server does not say why
    /// is no error.
    pub(crate) async fn tell(&mut self, steady: &Steady, job: &JobView, phase: &str) {
        let is_shown = self.progress.is_shown();
        if self.since.elapsed() < if is_shown { SHOWN_AFTER } else { SAID_AFTER } {
            return;
        }
        // Between two attempts a job waits for time to pass, not for room.
        let mut text = phase.to_owned();
        if job.not_before.is_none() {
            let Ok(placement) = steady.client().await.job_placement(&job.id).await else { return };
            if matches!(placement.runnable, Runnable::Now | Runnable::Running | Runnable::Ended) {
                return;
            }
            text = format!("{text}: {}", placement.summary);
        }
        if is_shown {
            self.progress.phase(&text);
        } else if let Some(line) = self.fresh(text) {
            eprintln!("{}", harmless(&line));
        }
    }

    /// The text, if it was not the last one said.
    fn fresh(&mut self, text: String) -> Option<String> {
        if self.said.as_ref() == Some(&text) {
            return None;
        }
        self.said = Some(text.clone());
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_said_once_and_again_only_after_another() {
        let progress = Progress::start();
        let mut waiting = Waiting::new(&progress);
        let said = ["a", "a", "b", "b", "a"].map(|text| waiting.fresh(text.into()).is_some());
        assert_eq!(said, [true, false, true, false, true]);
    }
}
