//! A stream of an attempt's log, by byte offset.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use gristmill_protocol::{
    JobId,
    attempt::{LogEndView, LogPieceView, LogStream},
};
use reqwest::Method;

use super::{
    Client, ClientError,
    request::{Repeat, wait_text},
    sse::Stream,
};

/// What to read of an attempt's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogSelection {
    /// One stream, byte for byte.
    Stream(LogStream),
    /// Both streams, in the order in which they were written.
    Merged,
}

impl LogSelection {
    fn as_str(self) -> &'static str {
        match self {
            Self::Stream(stream) => stream.as_str(),
            Self::Merged => "log",
        }
    }
}

/// A piece of a log stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPiece {
    /// The raw bytes from the offset on; a few hundred KiB at most.
    pub bytes: Bytes,
    /// Whether the attempt has ended and nothing follows these bytes.
    pub is_end: bool,
}

impl Client {
    /// Reads a piece of the log from `offset` on, in bytes. With `wait`, the server holds its answer while
    /// there is nothing new and the attempt goes on, at most 25 seconds.
    pub async fn log_read(
        &self,
        job: &JobId,
        attempt: u32,
        what: LogSelection,
        offset: u64,
        wait: Option<Duration>,
    ) -> Result<LogPiece, ClientError> {
        let (job, attempt) = (job.to_string(), attempt.to_string());
        let mut query = vec![("stream", what.as_str().to_owned()), ("offset", offset.to_string())];
        if let Some(wait) = wait {
            query.push(("wait", wait_text(wait)));
        }
        let response = self
            .send(Repeat::Safe, || {
                self.call(Method::GET, &["jobs", &job, "attempts", &attempt, "logs"]).query(&query)
            })
            .await?;
        let is_end = response.headers().get("gristmill-log-end").is_some_and(|value| value == "true");
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        Ok(LogPiece { bytes, is_end })
    }
}

/// What the follower of a log gets next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogNews {
    /// Bytes of one stream, raw.
    Bytes {
        /// The stream.
        stream: LogStream,
        /// Where they start in it, in bytes.
        offset: u64,
        /// When they were written, after the attempt's start.
        elapsed: Duration,
        /// The bytes.
        bytes: Bytes,
    },
    /// The attempt has ended and all of its log was told.
    End(LogEndView),
}

/// A log as it grows, every byte exactly once.
#[derive(Debug)]
pub struct LogFollower {
    stream: Stream,
}

impl Client {
    /// Follows an attempt's log from its start to its end, over broken connections and restarts of the
    /// server. Nothing is sent before the first call of [`LogFollower::next`].
    pub fn log_follow(&self, job: &JobId, attempt: u32, what: LogSelection) -> LogFollower {
        let (job, attempt) = (job.to_string(), attempt.to_string());
        let query = vec![("stream".to_owned(), what.as_str().to_owned())];
        LogFollower { stream: Stream::new(self, &["jobs", &job, "attempts", &attempt, "logs"], query) }
    }
}

impl LogFollower {
    /// What comes next; call it until it is the end. It may be cancelled without losing a byte.
    pub async fn next(&mut self) -> Result<LogNews, ClientError> {
        let message = self.stream.next().await?;
        if message.event == "end" {
            return self.stream.read(&message).map(LogNews::End);
        }
        let piece: LogPieceView = self.stream.read(&message)?;
        let bytes = match (piece.text, piece.base64) {
            (Some(text), _) => text.into_bytes(),
            (None, base64) => STANDARD
                .decode(base64.unwrap_or_default())
                .map_err(|error| self.stream.unexpected(format!("a piece of a log is no base64: {error}")))?,
        };
        let elapsed = Duration::from_micros(piece.elapsed_us);
        Ok(LogNews::Bytes { stream: piece.stream, offset: piece.offset, elapsed, bytes: bytes.into() })
    }
}
