//! Follows a job to its end: its state by long polls, and what the guest writes, as it writes it.

use std::{
    io::{ErrorKind, IsTerminal as _, Write as _},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bytes::Bytes;
use gristmill_client::user::{ClientError, LONG_POLL, LogPiece, LogSelection};
use gristmill_protocol::{AttemptView, JobId, JobState, JobView, Timestamp, WorkPhase, attempt::LogStream};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::{harmless::StreamFilter, phase::lasted, progress::Progress, steady::Steady, waiting::Waiting};

/// Wait before asking again for an attempt that is not there yet.
const ABSENT_WAIT: Duration = Duration::from_millis(250);
/// How often the duration of a phase is shown anew.
const COUNT_EVERY: Duration = Duration::from_millis(500);

/// How a followed job ended, and whether all that the guest wrote was shown.
#[derive(Debug)]
pub(crate) struct Followed {
    /// The job at its end.
    pub(crate) job: JobView,
    /// Its attempts.
    pub(crate) attempts: Vec<AttemptView>,
    /// What is wrong with the streams that were shown, if anything.
    pub(crate) stream_faults: Vec<String>,
}

/// Where a guest's stream is shown.
#[derive(Debug)]
pub(crate) struct Sink<'a> {
    to_stdout: bool,
    filter: Option<StreamFilter>,
    progress: &'a Progress,
    ends_with_newline: &'a AtomicBool,
}

impl<'a> Sink<'a> {
    /// Standard output goes to standard output unless that carries a JSON document; standard error
    /// goes to standard error. On a terminal the bytes are made harmless, elsewhere they stay as
    /// they are.
    pub(crate) fn new(
        stream: LogStream,
        json: bool,
        progress: &'a Progress,
        ends_with_newline: &'a AtomicBool,
    ) -> Self {
        let to_stdout = stream == LogStream::Stdout && !json;
        let terminal =
            if to_stdout { std::io::stdout().is_terminal() } else { std::io::stderr().is_terminal() };
        Self { to_stdout, filter: terminal.then(StreamFilter::default), progress, ends_with_newline }
    }

    /// Shows the next piece; returns when it was taken.
    pub(crate) async fn write(&mut self, bytes: Bytes) -> anyhow::Result<()> {
        let Some(last) = bytes.last() else { return Ok(()) };
        if !self.to_stdout || self.filter.is_some() {
            self.ends_with_newline.store(*last == b'\n', Ordering::Relaxed);
        }
        let shown = match &mut self.filter {
            Some(filter) => Bytes::from(filter.push(&bytes)),
            None => bytes,
        };
        if self.filter.is_some() {
            // The moving line would wipe what the guest wrote without a newline.
            self.progress.finish();
        }
        let to_stdout = self.to_stdout;
        tokio::task::spawn_blocking(move || emit(to_stdout, &shown)).await?
    }

    /// Shows what was held back because its rest had not come.
    pub(crate) fn finish(&mut self) -> anyhow::Result<()> {
        let rest = self.filter.as_mut().map(StreamFilter::finish).unwrap_or_default();
        if rest.is_empty() { Ok(()) } else { emit(self.to_stdout, rest.as_bytes()) }
    }
}

/// Writes and flushes. A reader that went away is no error: the job goes on.
fn emit(to_stdout: bool, bytes: &[u8]) -> anyhow::Result<()> {
    let written = if to_stdout {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush())
    } else {
        std::io::stderr().lock().write_all(bytes)
    };
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Waits for the job's end and shows both streams of every attempt meanwhile. Dropping the future
/// stops following; the job goes on.
pub(crate) async fn follow(
    steady: &Steady,
    job: &JobView,
    json: bool,
    progress: &Progress,
    ends_with_newline: &AtomicBool,
) -> anyhow::Result<Followed> {
    let (ended, end) = watch::channel(None);
    let id = job.id;
    let watched = async {
        let view = wait_for_end(steady, job.clone(), progress).await?;
        let attempts = steady.call(|client| async move { client.job_attempts(&id).await }).await?;
        ended.send_replace(Some(End { job: view, attempts }));
        anyhow::Ok(())
    };
    let stream = |stream| {
        let sink = Sink::new(stream, json, progress, ends_with_newline);
        Follower {
            steady,
            job: id,
            stream,
            sink,
            end: end.clone(),
            shown: 0,
            hasher: Sha256::new(),
            mixed: false,
        }
        .run()
    };
    let ((), stdout_mixed, stderr_mixed) =
        tokio::try_join!(watched, stream(LogStream::Stdout), stream(LogStream::Stderr))?;
    let end = ended.send_replace(None);
    let Some(End { job, attempts }) = end else { anyhow::bail!("the job's end was not seen") };
    let mut stream_faults = Vec::new();
    if attempts.last().is_some_and(|attempt| attempt.log_truncated) {
        stream_faults
            .push("standard output or standard error was cut at the log limit; raise --log-max".into());
    }
    for (mixed, name) in [(stdout_mixed, "standard output"), (stderr_mixed, "standard error")] {
        if mixed {
            stream_faults.push(format!(
                "{name} above holds more than one attempt; the last attempt's is in `gristmill job logs {id}`"
            ));
        }
    }
    Ok(Followed { job, attempts, stream_faults })
}

/// Long-polls until the job has ended.
pub(crate) async fn wait_for_end(
    steady: &Steady,
    mut view: JobView,
    progress: &Progress,
) -> anyhow::Result<JobView> {
    let id = view.id;
    // Short waits at first, so that a person sees the phases change.
    let mut wait = Duration::from_millis(500);
    let mut waiting = Waiting::new(progress);
    while !view.state.is_terminal() {
        progress.phase(&phase(&view));
        if view.phase.is_some() && progress.is_shown() {
            view = next_change(steady, view, progress).await?;
            continue;
        }
        if view.state == JobState::Queued && view.phase.is_none() {
            waiting.tell(steady, &view, &phase(&view)).await;
        }
        view = steady.call(|client| async move { client.job_wait(&id, wait).await }).await?;
        wait = (wait * 2).min(LONG_POLL);
    }
    Ok(view)
}

/// Waits for the job's next phase, or until the guest's own output takes the place of the moving line,
/// and counts the time meanwhile.
async fn next_change(steady: &Steady, view: JobView, progress: &Progress) -> anyhow::Result<JobView> {
    let seen = &view;
    let change = steady.call(|client| async move { client.job_wait_change(seen, LONG_POLL).await });
    let count = async {
        while progress.is_shown() {
            progress.phase(&phase(seen));
            tokio::time::sleep(COUNT_EVERY).await;
        }
    };
    let changed = tokio::select! {
        changed = change => changed?,
        () = count => None,
    };
    Ok(changed.unwrap_or(view))
}

fn phase(view: &JobView) -> String {
    let id = view.id;
    let text = match (view.phase, view.state, &view.zone) {
        (Some(WorkPhase::Staging), ..) => format!("{id}: a node brings its module and inputs"),
        (Some(WorkPhase::Compiling), ..) => format!("{id}: a node compiles its module"),
        (Some(WorkPhase::Collecting), ..) => format!("{id}: a node collects its outputs"),
        (_, JobState::Running, Some(zone)) => format!("{id} runs in zone {zone}"),
        (_, JobState::Running, None) => format!("{id} runs"),
        _ if view.not_before.is_some() => format!("{id} waits for its next attempt"),
        _ => format!("{id} is queued"),
    };
    match view.phase_since {
        Some(since) => format!("{text}, {}", lasted(since, Timestamp::now())),
        None => text,
    }
}

/// What is known once the job has ended.
#[derive(Debug, Clone)]
struct End {
    job: JobView,
    attempts: Vec<AttemptView>,
}

/// How long a stream is.
#[derive(Clone, Copy)]
enum Length {
    /// The job goes on, so there may be more at any time.
    Open,
    /// The job has ended and this is all.
    Final(u64),
    /// The job has ended without such an attempt.
    NoSuchAttempt,
}

/// Shows one stream over all attempts.
struct Follower<'a> {
    steady: &'a Steady,
    job: JobId,
    stream: LogStream,
    sink: Sink<'a>,
    end: watch::Receiver<Option<End>>,
    /// Bytes shown, and their running digest: a later attempt that begins with the same bytes just
    /// goes on where the one before it broke off.
    shown: u64,
    hasher: Sha256,
    mixed: bool,
}

impl Follower<'_> {
    /// Returns whether more than one attempt's bytes were shown.
    async fn run(mut self) -> anyhow::Result<bool> {
        let mut number = 1;
        while self.attempt(number).await? {
            number += 1;
        }
        self.sink.finish()?;
        Ok(self.mixed)
    }

    /// Shows one attempt's stream; false when there is no later attempt.
    async fn attempt(&mut self, number: u32) -> anyhow::Result<bool> {
        let mut repeated = Repeated { expected: self.shown, hasher: Sha256::new(), seen: 0 };
        let mut offset = 0;
        loop {
            let length = self.length(number);
            match length {
                Length::NoSuchAttempt => return Ok(false),
                Length::Final(total) if offset >= total => break,
                _ => {}
            }
            let piece = self.read(number, offset, matches!(length, Length::Final(_))).await?;
            let Some(piece) = piece else { continue };
            offset += piece.bytes.len() as u64;
            let fresh = repeated.skip(piece.bytes, &self.hasher);
            match fresh {
                Skip::Fresh(bytes) => self.show(bytes).await?,
                Skip::Differs => {
                    // This attempt wrote something else: show it from its start.
                    self.mixed = true;
                    self.shown = 0;
                    self.hasher = Sha256::new();
                    repeated = Repeated { expected: 0, hasher: Sha256::new(), seen: 0 };
                    offset = 0;
                    continue;
                }
            }
            if piece.is_end {
                break;
            }
        }
        if repeated.seen < repeated.expected {
            self.mixed = true;
        }
        Ok(self.end.borrow().as_ref().is_none_or(|end| number < end.job.attempt))
    }

    /// How long this attempt's stream is, as far as that is known.
    fn length(&self, number: u32) -> Length {
        let end = self.end.borrow();
        let Some(end) = end.as_ref() else { return Length::Open };
        match (end.attempts.iter().find(|attempt| attempt.number == number), self.stream) {
            (None, _) => Length::NoSuchAttempt,
            (Some(attempt), LogStream::Stdout) => Length::Final(attempt.stdout_bytes),
            (Some(attempt), _) => Length::Final(attempt.stderr_bytes),
        }
    }

    /// The next piece; `None` when there was nothing to read and the job's state should be looked at.
    async fn read(&mut self, number: u32, offset: u64, ended: bool) -> anyhow::Result<Option<LogPiece>> {
        let wait = (!ended).then_some(LONG_POLL);
        let what = LogSelection::Stream(self.stream);
        let job = self.job;
        let read =
            self.steady.call(|client| async move { client.log_read(&job, number, what, offset, wait).await });
        let result = tokio::select! {
            result = read => result,
            _ = self.end.changed(), if !ended => return Ok(None),
        };
        match result {
            Ok(piece) => Ok(Some(piece)),
            Err(error) if is_not_found(&error) && !ended => {
                let _ = tokio::time::timeout(ABSENT_WAIT, self.end.changed()).await;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn show(&mut self, bytes: Bytes) -> anyhow::Result<()> {
        self.hasher.update(&bytes);
        self.shown += bytes.len() as u64;
        self.sink.write(bytes).await
    }
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ClientError>().is_some_and(ClientError::is_not_found)
}

/// The part of an attempt's stream that may repeat what was shown before.
struct Repeated {
    expected: u64,
    hasher: Sha256,
    seen: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Skip {
    /// The bytes that were not shown before; may be empty.
    Fresh(Bytes),
    /// The stream begins otherwise than what was shown.
    Differs,
}

impl Repeated {
    fn skip(&mut self, mut bytes: Bytes, shown: &Sha256) -> Skip {
        if self.seen >= self.expected {
            return Skip::Fresh(bytes);
        }
        let count = usize::try_from(self.expected - self.seen).unwrap_or(usize::MAX).min(bytes.len());
        let known = bytes.split_to(count);
        self.hasher.update(&known);
        self.seen += count as u64;
        let same = self.seen < self.expected || self.hasher.clone().finalize() == shown.clone().finalize();
        if same { Skip::Fresh(bytes) } else { Skip::Differs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_reads_what_a_node_does_and_for_how_long() {
        let mut view = crate::summary::sample("queued");
        let shown = |view: &JobView| phase(view).replace(&view.id.to_string(), "job");
        assert_eq!(shown(&view), "job is queued");
        view.phase = Some(WorkPhase::Compiling);
        assert_eq!(shown(&view), "job: a node compiles its module");
        view.phase_since = Some(Timestamp::now() - Duration::from_secs(600));
        assert!(shown(&view).starts_with("job: a node compiles its module, 10 min "), "{}", shown(&view));
        let mut view = crate::summary::sample("running");
        (view.phase, view.zone) = (Some(WorkPhase::Running), Some("lab".into()));
        assert_eq!(shown(&view), "job runs in zone lab");
    }

    fn shown(text: &str) -> Sha256 {
        let mut hasher = Sha256::new();
        hasher.update(text);
        hasher
    }

    #[test]
    fn an_attempt_that_begins_as_the_one_before_goes_on_where_that_broke_off() {
        let mut repeated = Repeated { expected: 5, hasher: Sha256::new(), seen: 0 };
        let before = shown("hello");
        assert_eq!(repeated.skip(Bytes::from("hel"), &before), Skip::Fresh(Bytes::new()));
        assert_eq!(repeated.skip(Bytes::from("lo world"), &before), Skip::Fresh(Bytes::from(" world")));
        assert_eq!(repeated.skip(Bytes::from("!"), &before), Skip::Fresh(Bytes::from("!")));
    }

    #[test]
    fn an_attempt_that_begins_otherwise_is_noticed() {
        let mut repeated = Repeated { expected: 5, hasher: Sha256::new(), seen: 0 };
        assert_eq!(repeated.skip(Bytes::from("help me"), &shown("hello")), Skip::Differs);
    }
}
