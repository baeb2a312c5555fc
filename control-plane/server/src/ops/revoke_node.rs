//! Take a node's identity back.

use gristmill_protocol::{NodeId, audit::AuditOperation, node::NodeView, tenancy::Scope};

use super::list_nodes::get_node;
use crate::{app::App, error::ApiError, principal::Principal, wake::Topic};

/// Takes a node's identity back for good: its requests are refused from now on, renewals and results
/// among them. Its leases are not cut short but run out, so that a node out of reach has stopped its
/// guests before their jobs are leased again. Durable when it returns. Needs the scope `admin`. A
/// second call changes nothing. `precondition_failed` when `if_version` is given and is not the present
/// one.
pub async fn revoke_node(
    app: &App,
    principal: &Principal,
    id: NodeId,
    if_version: Option<u64>,
) -> Result<NodeView, ApiError> {
    principal.require(Scope::Admin)?;
    let found = app.registry.with_node(id, |node| node.record.version);
    let note = principal.note(AuditOperation::NodeRevoke, id).found(found);
    let store = app.store.audited(note);
    let record = store.node_revoke(id, app.clock.now(), if_version).await?.or_refused("node")?;
    app.registry.put_node(record);
    app.wakes.wake(Topic::Node(id));
    get_node(app, principal, id).await
}
