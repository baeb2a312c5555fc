//! Record what a node reports of its attempts.

use std::collections::{BTreeSet, HashMap};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use gristmill_lifecycle::{
    command::{ApplyUpdates, Finish, LogPiece, Update, UpdateChange},
    record::AttemptKey,
};
use gristmill_protocol::{
    Digest,
    job::OutputEntry,
    node_api::{
        AttemptChange, AttemptReport, AttemptUpdate, LeaseRef, UpdateVerdict, UpdatesGrant, UpdatesRequest,
    },
    reason::OutcomeState,
};
use sha2::{Digest as _, Sha256};

use super::{
    append_log::log_piece,
    attempt_access::{holds, lease_limits, note_all_refused},
};
use crate::{app::App, error::ApiError, principal::NodePrincipal, store::job::LeaseState};

const UPDATES_MAX: usize = 256;
const MESSAGE_BYTES_MAX: usize = 1_024;
const OUTPUT_PATH_BYTES_MAX: usize = 4_096;
const LOG_PIECE_MAX: usize = 64 << 10;

/// Applies a batch of updates in order, in one transaction; each has its own verdict. Durable when it
/// returns. A repeated update gets the verdict of its first copy. Outputs become visible with the
/// report that the job succeeded, all of them or none; each must have been stored by this attempt, or
/// be a blob of the tenant, and together they must be within the job's limits.
pub async fn apply_updates(
    app: &App,
    node: &NodePrincipal,
    request: UpdatesRequest,
) -> Result<UpdatesGrant, ApiError> {
    if request.updates.len() > UPDATES_MAX {
        return Err(ApiError::field("/updates", "must be at most 256 updates"));
    }
    if request.updates.is_empty() {
        return Ok(UpdatesGrant { verdicts: Vec::new() });
    }
    let states = states(app, &request.updates).await?;
    let mut updates = Vec::with_capacity(request.updates.len());
    for AttemptUpdate { lease, change } in request.updates {
        let state = states.get(&(lease.job, lease.attempt)).filter(|state| holds(state, node, &lease));
        let change = match change {
            AttemptChange::Started => UpdateChange::Started,
            AttemptChange::Released => UpdateChange::Released,
            AttemptChange::Finished(report) => finish(app, state, &lease, *report).await?,
        };
        updates.push(Update { lease, change });
    }
    let leases: Vec<_> = updates.iter().map(|update| update.lease.clone()).collect();
    let verdicts = app.store.attempt_update(ApplyUpdates { node: node.node, updates }).await?;
    let judged = leases.iter().zip(&verdicts);
    let lost: Vec<_> =
        judged.filter(|(_, verdict)| **verdict == UpdateVerdict::LeaseLost).map(|(lease, _)| lease).collect();
    note_all_refused(app, node, &lost).await?;
    Ok(UpdatesGrant { verdicts })
}

/// The leases whose reports bring outputs or log; the others need no look before the transaction.
async fn states(app: &App, updates: &[AttemptUpdate]) -> Result<HashMap<AttemptKey, LeaseState>, ApiError> {
    let keys: Vec<_> = updates
        .iter()
        .filter(|update| match &update.change {
            AttemptChange::Finished(report) => !report.outputs.is_empty() || !report.log_tail.is_empty(),
            AttemptChange::Started | AttemptChange::Released => false,
        })
        .map(|update| (update.lease.job, update.lease.attempt))
        .collect();
    if keys.is_empty() { Ok(HashMap::new()) } else { Ok(app.store.lease_states(&keys).await?) }
}

async fn finish(
    app: &App,
    state: Option<&LeaseState>,
    lease: &LeaseRef,
    mut report: AttemptReport,
) -> Result<UpdateChange, ApiError> {
    let text = serde_json::to_vec(&report).map_err(ApiError::internal)?;
    let digest = Digest::from_bytes(Sha256::digest(text).into());
    if let Some(message) = &mut report.outcome.message {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    }
    if !are_well_formed(&report) {
        return Ok(UpdateChange::Malformed);
    }
    let mut log = Vec::new();
    if let Some(state) = state {
        if !outputs_are_good(app, state, lease, &report.outputs).await? {
            return Ok(UpdateChange::Malformed);
        }
        let Some(pieces) = log_tail(app, state, &report).await? else {
            return Ok(UpdateChange::Malformed);
        };
        log = pieces;
    }
    Ok(UpdateChange::Finished(Box::new(Finish {
        report: digest,
        outcome: report.outcome,
        outputs: report.outputs,
        log,
        log_truncated: report.log_truncated,
    })))
}

/// Whether the outputs have plain, distinct paths and go with a success.
fn are_well_formed(report: &AttemptReport) -> bool {
    let mut paths = BTreeSet::new();
    (report.outputs.is_empty() || report.outcome.state == OutcomeState::Succeeded)
        && report.outputs.iter().all(|output| {
            let path = &output.path;
            path.len() <= OUTPUT_PATH_BYTES_MAX
                && !path.contains('\0')
                && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
                && paths.insert(path)
        })
}

/// Whether the attempt may name these outputs: they are stored, and no more than the job's limits allow.
async fn outputs_are_good(
    app: &App,
    state: &LeaseState,
    lease: &LeaseRef,
    outputs: &[OutputEntry],
) -> Result<bool, ApiError> {
    if outputs.is_empty() {
        return Ok(true);
    }
    let digests: Vec<_> = outputs.iter().map(|output| output.digest).collect();
    let sizes = app.store.blob_output_sizes(&state.tenant, lease.job, lease.attempt, &digests).await?;
    if outputs.iter().any(|output| sizes.get(&output.digest) != Some(&output.size)) {
        return Ok(false);
    }
    let limits = lease_limits(app, lease).await?;
    let bytes: u64 = outputs.iter().map(|output| output.size).sum();
    Ok(outputs.len() as u64 <= limits.output_files && bytes <= limits.output_bytes)
}

/// The end of the log in the order of its time; `None` when it is malformed.
async fn log_tail(
    app: &App,
    state: &LeaseState,
    report: &AttemptReport,
) -> Result<Option<Vec<LogPiece>>, ApiError> {
    let mut tail: Vec<_> = report.log_tail.iter().collect();
    tail.sort_by_key(|chunk| chunk.elapsed_us);
    let mut pieces = Vec::with_capacity(tail.len());
    for chunk in tail {
        let Some(bytes) = STANDARD.decode(&chunk.base64).ok().filter(|bytes| bytes.len() <= LOG_PIECE_MAX)
        else {
            return Ok(None);
        };
        let bytes = Bytes::from(bytes);
        pieces.push(log_piece(app, state, chunk.stream, chunk.offset, chunk.elapsed_us, bytes).await?);
    }
    Ok(Some(pieces))
}
