//! `gristmill job logs`: what a job wrote.

use std::{io::IsTerminal as _, time::Duration};

use clap::{Args, ValueEnum};
use gristmill_client::user::{LONG_POLL, LogSelection};
use gristmill_protocol::{JobId, JobView, attempt::LogStream};
use serde_json::json;

use crate::{
    args::Global,
    failure::{Exit, Failure},
    harmless::StreamFilter,
    printer::{Printer, note, write_stdout},
    steady::Steady,
};

/// Most bytes of a log that one JSON document holds.
const DOCUMENT_BYTES_MAX: usize = 16 << 20;
/// Wait before looking again for an attempt that is still to come.
const ATTEMPT_WAIT: Duration = Duration::from_millis(500);

/// Which part of a log to show
#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// The job's id
    id: JobId,
    /// Go on until the job has ended, from attempt to attempt; with --attempt until that one has
    #[arg(short, long)]
    follow: bool,
    /// Both streams in the order of writing, or one of them
    #[arg(long, value_enum, default_value_t = Stream::Log)]
    stream: Stream,
    /// Number of the attempt; the newest when absent
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
}

/// What to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stream {
    /// Both streams
    Log,
    /// Standard output
    Stdout,
    /// Standard error
    Stderr,
}

impl Stream {
    fn selection(self) -> LogSelection {
        match self {
            Self::Log => LogSelection::Merged,
            Self::Stdout => LogSelection::Stream(LogStream::Stdout),
            Self::Stderr => LogSelection::Stream(LogStream::Stderr),
        }
    }
}

/// Runs the command.
pub(crate) async fn run(steady: &Steady, args: LogArgs, global: &Global) -> anyhow::Result<Exit> {
    let Some(mut attempt) = choose_attempt(steady, &args).await? else {
        if global.json() {
            Printer::new(true).show(&document(&args, None, &[], false), |_| String::new())?;
        }
        note("the job has not been started yet, so there is no log");
        return Ok(Exit::Ok);
    };
    let mut sink = Sink::new(global.json());
    loop {
        show_attempt(steady, &args, attempt, &mut sink).await?;
        let Some(next) = next_attempt(steady, &args, attempt).await? else { break };
        note(&format!("attempt {attempt} has ended; attempt {next} follows"));
        attempt = next;
        sink.start_anew();
    }
    let id = args.id;
    let attempts = steady.call(|client| async move { client.job_attempts(&id).await }).await?;
    let cut = attempts.iter().any(|view| view.number == attempt && view.log_truncated);
    if cut {
        note("the log was cut at the job's log limit");
    }
    if let Sink::Document(bytes) = &sink {
        Printer::new(true).show(&document(&args, Some(attempt), bytes, cut), |_| String::new())?;
    }
    Ok(Exit::Ok)
}

/// Shows one attempt's log to its end, or with `--follow` until nothing more can come.
async fn show_attempt(steady: &Steady, args: &LogArgs, attempt: u32, sink: &mut Sink) -> anyhow::Result<()> {
    let (id, what, wait) = (args.id, args.stream.selection(), args.follow.then_some(LONG_POLL));
    let mut offset = 0;
    loop {
        let read =
            steady.call(|client| async move { client.log_read(&id, attempt, what, offset, wait).await });
        let piece = read.await?;
        offset += piece.bytes.len() as u64;
        sink.write(&piece.bytes)?;
        let is_over = if args.follow { piece.is_end } else { piece.bytes.is_empty() };
        if is_over || piece.is_end {
            return sink.finish();
        }
    }
}

/// The attempt after this one, waited for until the job has ended; `None` unless the job as a whole
/// is followed.
async fn next_attempt(steady: &Steady, args: &LogArgs, attempt: u32) -> anyhow::Result<Option<u32>> {
    if !args.follow || args.attempt.is_some() {
        return Ok(None);
    }
    let id = args.id;
    let mut job = steady.call(|client| async move { client.job_get(&id).await }).await?;
    while job.attempt == attempt && !job.state.is_terminal() {
        job = steady.call(|client| async move { client.job_wait(&id, ATTEMPT_WAIT).await }).await?;
    }
    Ok((job.attempt > attempt).then_some(attempt + 1))
}

/// The attempt asked for, or the newest one; with `--follow` the first one is waited for.
async fn choose_attempt(steady: &Steady, args: &LogArgs) -> anyhow::Result<Option<u32>> {
    let id = args.id;
    let mut job: JobView = steady.call(|client| async move { client.job_get(&id).await }).await?;
    if let Some(number) = args.attempt {
        if number == 0 || number > job.attempt {
            let detail = format!("{} has no attempt {number}; it has {} so far", args.id, job.attempt);
            return Err(Failure::usage(detail).into());
        }
        return Ok(Some(number));
    }
    while args.follow && job.attempt == 0 && !job.state.is_terminal() {
        job = steady.call(|client| async move { client.job_wait(&id, ATTEMPT_WAIT).await }).await?;
    }
    Ok((job.attempt > 0).then_some(job.attempt))
}

/// Raw on pipes, harmless on a terminal, collected for a JSON document.
enum Sink {
    Raw,
    Terminal(StreamFilter),
    Document(Vec<u8>),
}

impl Sink {
    fn new(json: bool) -> Self {
        if json {
            Self::Document(Vec::new())
        } else if std::io::stdout().is_terminal() {
            Self::Terminal(StreamFilter::default())
        } else {
            Self::Raw
        }
    }

    fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        match self {
            Self::Raw => write_stdout(bytes),
            Self::Terminal(filter) => write_stdout(filter.push(bytes).as_bytes()),
            Self::Document(all) if all.len() + bytes.len() > DOCUMENT_BYTES_MAX => {
                Err(Failure::local("the log is too large for one JSON document")
                    .hint("leave --output json away and redirect standard output to a file")
                    .into())
            }
            Self::Document(all) => {
                all.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// A document holds one attempt; a terminal shows one after the other.
    fn start_anew(&mut self) {
        if let Self::Document(all) = self {
            all.clear();
        }
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Terminal(filter) => write_stdout(filter.finish().as_bytes()),
            _ => Ok(()),
        }
    }
}

/// The text with what is no UTF-8 replaced; the raw bytes are had without `--output json`.
fn document(args: &LogArgs, attempt: Option<u32>, bytes: &[u8], cut: bool) -> serde_json::Value {
    let stream = match args.stream {
        Stream::Log => "log",
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    json!({
        "job": args.id,
        "attempt": attempt,
        "stream": stream,
        "text": String::from_utf8_lossy(bytes),
        "log_truncated": cut,
    })
}
