//! Store a piece of an attempt's log.

use bytes::Bytes;
use gristmill_lifecycle::{
    command::{AppendLog, AppendReply, LogPiece},
    record::LogBody,
};
use gristmill_protocol::{ErrorCode, attempt::LogStream, node_api::LeaseRef};

use super::attempt_access::{held_lease, lease_limits, lease_lost};
use crate::{app::App, error::ApiError, principal::NodePrincipal, store::job::LeaseState};

/// Largest piece that is kept in its row.
const INLINE_MAX: usize = 8 << 10;
/// A log below this size is not held against the job's limit, which is then not looked up.
const UNCHECKED_MAX: u64 = 1 << 20;

/// Adds a piece to a stream of the attempt whose lease is held. Durable when it returns. A piece that
/// is stored already changes nothing; one that overlaps adds what is new; one that leaves a gap is a
/// `conflict` that says where to go on. The node cuts a log at the job's limit; a node that does not
/// is refused with `body_too_large`.
pub async fn append_log(
    app: &App,
    node: &NodePrincipal,
    lease: &LeaseRef,
    stream: LogStream,
    offset: u64,
    elapsed_us: u64,
    bytes: Bytes,
) -> Result<(), ApiError> {
    if bytes.is_empty() {
        return Ok(());
    }
    let state = held_lease(app, node, lease).await?;
    let size = state.attempt.stdout_bytes + state.attempt.stderr_bytes + bytes.len() as u64;
    if size > UNCHECKED_MAX && size > lease_limits(app, lease).await?.log_bytes.saturating_add(UNCHECKED_MAX)
    {
        return Err(ApiError::new(ErrorCode::BodyTooLarge, "the log is larger than the job's limit")
            .with_hint("cut it at limits.log_bytes of the job, and report log_truncated"));
    }
    let piece = log_piece(app, &state, stream, offset, elapsed_us, bytes).await?;
    let command = AppendLog { node: node.node, lease: lease.clone(), piece };
    match app.store.log_append(command).await? {
        AppendReply::Appended { .. } => Ok(()),
        AppendReply::LeaseLost => Err(lease_lost()),
        AppendReply::Gap { stored } => Err(ApiError::new(
            ErrorCode::Conflict,
            format!("the piece begins at {offset}, but {stored} bytes are stored"),
        )
        .with_hint("send what lies between first")),
    }
}

/// Puts a large piece into the blob backend; a small one stays with its row.
pub(super) async fn log_piece(
    app: &App,
    state: &LeaseState,
    stream: LogStream,
    offset: u64,
    elapsed_us: u64,
    bytes: Bytes,
) -> Result<LogPiece, ApiError> {
    let stored_len = bytes.len() as u64;
    let body = if bytes.len() <= INLINE_MAX {
        LogBody::Inline(bytes.to_vec())
    } else {
        let attempt = &state.attempt;
        let key = format!(
            "logs/{}/{}-{}/{stream}-{offset}-{stored_len}",
            attempt.job, attempt.number, attempt.fence
        );
        app.blobs.put_log(&key, bytes).await?;
        LogBody::Stored { key, skip: 0 }
    };
    Ok(LogPiece { stream, offset, elapsed_us, body, stored_len })
}
