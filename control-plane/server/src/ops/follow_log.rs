//! Follow an attempt's log to its end, from any byte on.

use std::{fmt, str::FromStr, sync::Arc};

use bytes::Bytes;
use gristmill_lifecycle::record::AttemptRecord;
use gristmill_protocol::{JobId, attempt::LogStream, tenancy::Scope};

use super::read_log::{LogSelect, content};
use crate::{
    app::App,
    document::visible_job,
    error::ApiError,
    principal::Principal,
    store::job::{LogChunkRecord, LogRange},
    wake::{Listener, Topic},
};

/// Stored pieces that are looked at in one read.
const PIECES_MAX: u32 = 64;
/// Bytes after which a read is enough.
const READ_BYTES_MAX: usize = 256 << 10;
/// Most bytes of one part.
const PART_BYTES_MAX: usize = 64 << 10;

/// How far a log was read, in bytes: of one stream, or of each when both are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogMark {
    /// Of the one stream, or of both taken together.
    Offset(u64),
    /// Of stdout and of stderr.
    Both {
        /// Bytes of stdout.
        stdout: u64,
        /// Bytes of stderr.
        stderr: u64,
    },
}

impl LogMark {
    fn position(self) -> Option<u64> {
        match self {
            Self::Offset(offset) => Some(offset),
            Self::Both { stdout, stderr } => stdout.checked_add(stderr),
        }
    }
}

impl fmt::Display for LogMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offset(offset) => write!(f, "{offset}"),
            Self::Both { stdout, stderr } => write!(f, "{stdout}-{stderr}"),
        }
    }
}

impl FromStr for LogMark {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('-') {
            None => text.parse().map(Self::Offset),
            Some((stdout, stderr)) => Ok(Self::Both { stdout: stdout.parse()?, stderr: stderr.parse()? }),
        }
    }
}

/// Bytes of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPart {
    /// The stream.
    pub stream: LogStream,
    /// Where they start in it.
    pub offset: u64,
    /// When they were written, in microseconds after the attempt's start.
    pub elapsed_us: u64,
    /// The bytes, raw.
    pub bytes: Bytes,
    /// How far the log is read with them.
    pub mark: LogMark,
}

/// What a follower gets next.
#[derive(Debug, Clone, PartialEq)]
pub enum LogNews {
    /// Bytes, in the order of their arrival.
    Parts(Vec<LogPart>),
    /// The attempt is over, and all of its log was read.
    End(Box<AttemptRecord>),
}

/// Somebody who reads a log as it grows, each byte exactly once.
#[derive(Debug)]
pub struct LogFollower {
    app: Arc<App>,
    who: Principal,
    job: JobId,
    attempt: u32,
    select: LogSelect,
    mark: LogMark,
    growth: Listener,
    end: Listener,
}

/// Where a stored piece starts in what is selected.
fn start(chunk: &LogChunkRecord, select: LogSelect) -> u64 {
    if select == LogSelect::Merged { chunk.position } else { chunk.offset }
}

/// How far the log is read with the first `count` bytes of a stored piece.
fn mark_in(chunk: &LogChunkRecord, select: LogSelect, count: u64) -> LogMark {
    let this = chunk.offset + count;
    let other = chunk.position - chunk.offset;
    match (select, chunk.stream) {
        (LogSelect::Stdout | LogSelect::Stderr, _) => LogMark::Offset(this),
        (LogSelect::Merged, LogStream::Stderr) => LogMark::Both { stdout: other, stderr: this },
        (LogSelect::Merged, _) => LogMark::Both { stdout: this, stderr: other },
    }
}

impl LogFollower {
    /// A follower of an attempt's log from a mark on. Needs the scope `read`. The attempt that comes
    /// next may be asked for before it begins. A mark that was never given out for this log is
    /// `invalid_request`.
    pub async fn open(
        app: &Arc<App>,
        who: &Principal,
        (job, attempt): (JobId, u32),
        select: LogSelect,
        from: LogMark,
    ) -> Result<Self, ApiError> {
        who.require(Scope::Read)?;
        let mut follower = Self {
            app: Arc::clone(app),
            who: who.clone(),
            job,
            attempt,
            select,
            mark: from,
            growth: app.wakes.listen(Topic::Log(job)),
            end: app.wakes.listen(Topic::JobEnd(job)),
        };
        visible_job(app, who, job).await?;
        follower.attempt().await?;
        follower.check_mark().await?;
        Ok(follower)
    }

    /// How far the log was read.
    pub fn mark(&self) -> LogMark {
        self.mark
    }

    /// Waits for what comes next. After the end it is the end again. It may be cancelled without
    /// losing a byte.
    pub async fn next(&mut self) -> Result<LogNews, ApiError> {
        loop {
            // Nothing is added after the end, so what is read after it is all.
            let attempt = self.attempt().await?;
            let parts = self.parts().await?;
            if let Some(last) = parts.last() {
                self.mark = last.mark;
                return Ok(LogNews::Parts(parts));
            }
            match attempt {
                Some(attempt) if !attempt.phase.is_live() => return Ok(LogNews::End(Box::new(attempt))),
                _ => {}
            }
            tokio::select! {
                () = self.growth.woken() => {}
                () = self.end.woken() => {}
            }
        }
    }

    /// The attempt; `None` while it may still begin.
    async fn attempt(&self) -> Result<Option<AttemptRecord>, ApiError> {
        if let Some(attempt) = self.app.store.attempt_get(self.job, self.attempt).await? {
            return Ok(Some(attempt));
        }
        let job = visible_job(&self.app, &self.who, self.job).await?;
        if self.attempt == job.attempt + 1 && !job.phase.is_terminal() {
            return Ok(None);
        }
        // It may have begun in between.
        let attempt = self.app.store.attempt_get(self.job, self.attempt).await?;
        attempt.map(Some).ok_or_else(|| ApiError::not_found("attempt"))
    }

    fn range(&self, offset: u64, limit: u32) -> LogRange {
        let stream = match self.select {
            LogSelect::Stdout => Some(LogStream::Stdout),
            LogSelect::Stderr => Some(LogStream::Stderr),
            LogSelect::Merged => None,
        };
        LogRange { job: self.job, attempt: self.attempt, stream, offset, limit }
    }

    /// Checks that the mark is one of this log, and completes it.
    async fn check_mark(&mut self) -> Result<(), ApiError> {
        let refused = || ApiError::field("Last-Event-ID", "this is no id of this stream");
        let position = self.mark.position().ok_or_else(refused)?;
        let is_single = self.select != LogSelect::Merged;
        if is_single {
            return matches!(self.mark, LogMark::Offset(_)).then_some(()).ok_or_else(refused);
        }
        let mut there = LogMark::Both { stdout: 0, stderr: 0 };
        if position > 0 {
            let before = self.app.store.log_list(self.range(position - 1, 1)).await?;
            let holds = |chunk: &&LogChunkRecord| {
                (chunk.position..chunk.position + chunk.len).contains(&(position - 1))
            };
            let chunk = before.first().filter(holds).ok_or_else(refused)?;
            there = mark_in(chunk, self.select, position - chunk.position);
        }
        match self.mark {
            LogMark::Both { .. } if self.mark != there => Err(refused()),
            _ => {
                self.mark = there;
                Ok(())
            }
        }
    }

    /// What is stored after the mark.
    async fn parts(&self) -> Result<Vec<LogPart>, ApiError> {
        let from = self.mark.position().unwrap_or(u64::MAX);
        let mut parts = Vec::new();
        let mut size = 0;
        for chunk in self.app.store.log_list(self.range(from, PIECES_MAX)).await? {
            let skip = from.saturating_sub(start(&chunk, self.select));
            if skip >= chunk.len {
                continue;
            }
            if size >= READ_BYTES_MAX {
                break;
            }
            let whole = content(&self.app, chunk.clone()).await?;
            let mut at = usize::try_from(skip).unwrap_or(usize::MAX).min(whole.len());
            while at < whole.len() {
                let until = whole.len().min(at + PART_BYTES_MAX);
                parts.push(LogPart {
                    stream: chunk.stream,
                    offset: chunk.offset + at as u64,
                    elapsed_us: chunk.elapsed_us,
                    bytes: whole.slice(at..until),
                    mark: mark_in(&chunk, self.select, until as u64),
                });
                at = until;
            }
            size += whole.len();
        }
        Ok(parts)
    }
}
