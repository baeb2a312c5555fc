//! What a lease lets its node read and write.

use gristmill_protocol::{
    Digest, ErrorCode, Limits,
    audit::AuditOperation,
    node_api::{BlobGrant, LeaseRef},
};
use subtle::ConstantTimeEq;

use crate::{
    app::App, document::JobDocument, error::ApiError, principal::NodePrincipal, store::job::LeaseState,
};

/// What an attempt may still store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputTicket {
    /// Who the job belongs to.
    pub tenant: String,
    /// Most bytes of one output, by the job's limits.
    pub bytes_max: u64,
}

/// Whether the node holds this lease now.
pub(super) fn holds(state: &LeaseState, node: &NodePrincipal, lease: &LeaseRef) -> bool {
    state.attempt.phase.is_live() && was_granted(state, node, lease)
}

/// Whether the node got this lease, even if it holds it no longer.
fn was_granted(state: &LeaseState, node: &NodePrincipal, lease: &LeaseRef) -> bool {
    let token = state.attempt.token.as_str().as_bytes();
    state.attempt.node == node.node && bool::from(token.ct_eq(lease.lease_token.as_str().as_bytes()))
}

/// The answer to whatever is asked under a lease that is not held.
pub(super) fn lease_lost() -> ApiError {
    ApiError::new(ErrorCode::LeaseLost, "the lease is no longer held")
        .with_hint("stop the guest and report nothing; the job is in other hands or has ended")
}

/// The lease, if the node holds it; `lease_lost` otherwise.
pub(super) async fn held_lease(
    app: &App,
    node: &NodePrincipal,
    lease: &LeaseRef,
) -> Result<LeaseState, ApiError> {
    let key = (lease.job, lease.attempt);
    let state = app.store.lease_states(&[key]).await?.remove(&key);
    match state {
        Some(state) if holds(&state, node, lease) => Ok(state),
        state => {
            note_refused(app, node, lease, state.as_ref()).await?;
            Err(lease_lost())
        }
    }
}

/// Writes down that a lease was refused that this node never got: its token is made up, or another
/// node's. That a lease has run out is daily business.
pub(super) async fn note_refused(
    app: &App,
    node: &NodePrincipal,
    lease: &LeaseRef,
    state: Option<&LeaseState>,
) -> Result<(), ApiError> {
    let is_forged = !state.is_some_and(|state| was_granted(state, node, lease));
    if !is_forged || !app.forgeries.is_news(node.node, lease.job, app.clock.now()) {
        return Ok(());
    }
    tracing::warn!(node = %node.node, job = %lease.job, attempt = lease.attempt, "a node used a lease that it never got");
    let store = app.store.audited(node.note(AuditOperation::LeaseForge, lease.job));
    Ok(store.audit_refusal().await?)
}

/// As [`note_refused`], for leases of which only this is known: they are refused.
pub(super) async fn note_all_refused(
    app: &App,
    node: &NodePrincipal,
    leases: &[&LeaseRef],
) -> Result<(), ApiError> {
    if leases.is_empty() {
        return Ok(());
    }
    let keys: Vec<_> = leases.iter().map(|lease| (lease.job, lease.attempt)).collect();
    let states = app.store.lease_states(&keys).await?;
    for lease in leases {
        note_refused(app, node, lease, states.get(&(lease.job, lease.attempt))).await?;
    }
    Ok(())
}

pub(super) async fn lease_limits(app: &App, lease: &LeaseRef) -> Result<Limits, ApiError> {
    let text = app.store.job_document(lease.job).await?.ok_or_else(lease_lost)?;
    Ok(JobDocument::read(&text)?.limits)
}

/// Checks that the lease is held and that the blob is the module, the stdin or an input of its job.
/// Any other blob is `not_found`, whether it exists or not.
pub async fn authorize_attempt_blob(
    app: &App,
    node: &NodePrincipal,
    lease: &LeaseRef,
    digest: Digest,
) -> Result<BlobGrant, ApiError> {
    held_lease(app, node, lease).await?;
    let text = app.store.job_document(lease.job).await?.ok_or_else(lease_lost)?;
    JobDocument::read(&text)?.blob(digest).ok_or_else(|| ApiError::not_found("blob of this job"))
}

/// Checks that the lease is held, so that its node may store an output.
pub async fn authorize_attempt_output(
    app: &App,
    node: &NodePrincipal,
    lease: &LeaseRef,
) -> Result<OutputTicket, ApiError> {
    let state = held_lease(app, node, lease).await?;
    let limits = lease_limits(app, lease).await?;
    Ok(OutputTicket { tenant: state.tenant, bytes_max: limits.output_bytes })
}
