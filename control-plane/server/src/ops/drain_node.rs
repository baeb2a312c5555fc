//! Ask a node to finish what runs and take nothing new, and to take work again.

use gristmill_protocol::{ErrorCode, NodeId, audit::AuditOperation, node::NodeView, tenancy::Scope};

use super::list_nodes::get_node;
use crate::{app::App, error::ApiError, principal::Principal, wake::Topic};

/// Asks a node to drain. Durable when it returns; the node learns of it at once when connected.
/// Needs the scope `admin`. A second call changes nothing. `precondition_failed` when `if_version` is
/// given and is not the present one.
pub async fn drain_node(
    app: &App,
    principal: &Principal,
    id: NodeId,
    if_version: Option<u64>,
) -> Result<NodeView, ApiError> {
    set_drain(app, principal, id, true, if_version).await
}

/// Takes a drain back. The same rules hold as for the drain.
pub async fn resume_node(
    app: &App,
    principal: &Principal,
    id: NodeId,
    if_version: Option<u64>,
) -> Result<NodeView, ApiError> {
    set_drain(app, principal, id, false, if_version).await
}

async fn set_drain(
    app: &App,
    principal: &Principal,
    id: NodeId,
    drain: bool,
    if_version: Option<u64>,
) -> Result<NodeView, ApiError> {
    principal.require(Scope::Admin)?;
    let (is_revoked, found) = app
        .registry
        .with_node(id, |node| (node.record.revoked_at.is_some(), node.record.version))
        .ok_or_else(|| ApiError::not_found("node"))?;
    if is_revoked {
        return Err(ApiError::new(ErrorCode::Conflict, "the node is revoked and cannot return")
            .with_hint("enrol the machine again with a new join token"));
    }
    let operation = if drain { AuditOperation::NodeDrain } else { AuditOperation::NodeResume };
    let store = app.store.audited(principal.note(operation, id).found(Some(found)));
    let record = store.node_set_drain(id, drain, if_version).await?.or_refused("node")?;
    app.registry.put_node(record);
    app.wakes.wake(Topic::Node(id));
    get_node(app, principal, id).await
}
