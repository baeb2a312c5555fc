//! Read an attempt's log, at once or as it grows.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gristmill_protocol::{JobId, attempt::LogStream, tenancy::Scope};

use crate::{
    app::App,
    document::visible_job,
    error::ApiError,
    principal::Principal,
    store::job::{LogChunkRecord, LogRange},
    wake::Topic,
};

/// Pieces that are looked at in one call.
const PIECES_MAX: u32 = 256;

/// Which bytes of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogSelect {
    /// Standard output alone.
    Stdout,
    /// Standard error alone.
    Stderr,
    /// Both, in the order in which their pieces were stored, which is the order of their time.
    Merged,
}

/// What to read of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    /// Which bytes.
    pub select: LogSelect,
    /// Where to begin, in bytes of what is selected.
    pub offset: u64,
    /// Most bytes to return.
    pub bytes_max: usize,
    /// How long to wait while there is nothing from `offset` on and the attempt is not over.
    pub wait: Duration,
}

/// A part of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPiece {
    /// The bytes from `offset` on, raw; empty when there are none yet.
    pub bytes: Bytes,
    /// Where they begin.
    pub offset: u64,
    /// Bytes of what is selected that are stored so far.
    pub total: u64,
    /// Whether the attempt is over, so that `total` is final.
    pub ended: bool,
}

/// Reads a part of an attempt's log. Needs the scope `read`. The attempt that comes next may be asked
/// for before it begins. Nothing is held in memory beyond the answer.
pub async fn read_log(
    app: &App,
    who: &Principal,
    id: JobId,
    attempt: u32,
    query: LogQuery,
) -> Result<LogPiece, ApiError> {
    who.require(Scope::Read)?;
    let mut growth = app.wakes.listen(Topic::Log(id));
    let mut end = app.wakes.listen(Topic::JobEnd(id));
    let piece = read_stored(app, who, id, attempt, &query).await?;
    if !piece.bytes.is_empty() || piece.ended || query.wait.is_zero() {
        return Ok(piece);
    }
    let deadline = tokio::time::Instant::now() + query.wait;
    loop {
        let over = tokio::select! {
            () = growth.woken() => false,
            () = end.woken() => false,
            () = tokio::time::sleep_until(deadline) => true,
            () = app.shutdown.cancelled() => true,
        };
        let piece = read_stored(app, who, id, attempt, &query).await?;
        if over || !piece.bytes.is_empty() || piece.ended {
            return Ok(piece);
        }
    }
}

async fn read_stored(
    app: &App,
    who: &Principal,
    id: JobId,
    number: u32,
    query: &LogQuery,
) -> Result<LogPiece, ApiError> {
    let job = visible_job(app, who, id).await?;
    let Some(attempt) = app.store.attempt_get(id, number).await? else {
        if number == job.attempt + 1 && !job.phase.is_terminal() {
            return Ok(LogPiece { bytes: Bytes::new(), offset: query.offset, total: 0, ended: false });
        }
        return Err(ApiError::not_found("attempt"));
    };
    let (stream, total) = match query.select {
        LogSelect::Stdout => (Some(LogStream::Stdout), attempt.stdout_bytes),
        LogSelect::Stderr => (Some(LogStream::Stderr), attempt.stderr_bytes),
        LogSelect::Merged => (None, attempt.stdout_bytes + attempt.stderr_bytes),
    };
    let mut piece =
        LogPiece { bytes: Bytes::new(), offset: query.offset, total, ended: !attempt.phase.is_live() };
    if query.offset >= total {
        return Ok(piece);
    }
    let range = LogRange { job: id, attempt: number, stream, offset: query.offset, limit: PIECES_MAX };
    let mut bytes = BytesMut::new();
    let chunks = app.store.log_list(range).await?;
    let start = |chunk: &LogChunkRecord| if stream.is_some() { chunk.offset } else { chunk.position };
    // A log has no gaps; what is missing at the beginning was too old.
    if chunks.first().is_none_or(|first| start(first) > query.offset) {
        return Err(purged());
    }
    for chunk in chunks {
        let start = start(&chunk);
        let skip = query.offset.saturating_sub(start);
        if skip >= chunk.len {
            continue;
        }
        let room = query.bytes_max.saturating_sub(bytes.len());
        if room == 0 {
            break;
        }
        let content = content(app, chunk).await?;
        let from = usize::try_from(skip).unwrap_or(usize::MAX).min(content.len());
        let to = content.len().min(from.saturating_add(room));
        bytes.extend_from_slice(&content[from..to]);
    }
    piece.bytes = bytes.freeze();
    Ok(piece)
}

fn purged() -> ApiError {
    let mut error = ApiError::not_found("log");
    error.detail = "this part of the log is no longer kept".into();
    error.with_hint("logs are kept for a time after the job's end that the server's operator sets")
}

pub(super) async fn content(app: &App, chunk: LogChunkRecord) -> Result<Bytes, ApiError> {
    if let Some(bytes) = chunk.bytes {
        return Ok(bytes.into());
    }
    let (key, skip) = chunk.stored.ok_or_else(|| ApiError::not_found("log"))?;
    let stored = app.blobs.get_log(&key).await?.ok_or_else(purged)?;
    let from = usize::try_from(skip).unwrap_or(usize::MAX).min(stored.len());
    let to = from.saturating_add(usize::try_from(chunk.len).unwrap_or(usize::MAX)).min(stored.len());
    Ok(stored.slice(from..to))
}
