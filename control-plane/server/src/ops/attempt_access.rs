//! What a lease lets its node read and write.

use gristmill_protocol::{
    Digest, ErrorCode, Limits,
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
    let token = state.attempt.token.as_str().as_bytes();
    state.attempt.phase.is_live()
        && state.attempt.node == node.node
        && bool::from(token.ct_eq(lease.lease_token.as_str().as_bytes()))
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
    app.store
        .lease_states(&[key])
        .await?
        .remove(&key)
        .filter(|state| holds(state, node, lease))
        .ok_or_else(lease_lost)
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
