//! Prolong a node's leases.

use gristmill_lifecycle::command::RenewLeases;
use gristmill_protocol::node_api::{LeaseVerdict, RenewGrant, RenewRequest};

use super::attempt_access::note_all_refused;
use crate::{app::App, error::ApiError, principal::NodePrincipal};

/// Most leases in one call.
pub(super) const LEASES_MAX: usize = 4_096;

/// Prolongs each lease by its full time, or says that it is lost. The verdicts stand in the order of
/// the request. Durable when it returns.
pub async fn renew_leases(
    app: &App,
    node: &NodePrincipal,
    request: RenewRequest,
) -> Result<RenewGrant, ApiError> {
    if request.leases.len() > LEASES_MAX {
        return Err(ApiError::field("/leases", "must be at most 4,096 leases"));
    }
    if request.leases.is_empty() {
        return Ok(RenewGrant { leases: Vec::new() });
    }
    let command = RenewLeases { node: node.node, leases: request.leases.clone() };
    let verdicts = app.store.lease_renew(command).await?;
    let judged = request.leases.iter().zip(&verdicts);
    let lost: Vec<_> =
        judged.filter(|(_, verdict)| matches!(verdict, LeaseVerdict::Lost)).map(|(lease, _)| lease).collect();
    note_all_refused(app, node, &lost).await?;
    Ok(RenewGrant { leases: verdicts })
}
