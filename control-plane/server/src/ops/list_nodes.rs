//! List nodes.

use std::collections::HashMap;

use gristmill_protocol::{NodeId, Page, node::NodeView, tenancy::Scope};

use crate::{app::App, error::ApiError, paging, principal::Principal, registry::LiveNode};

/// CPU (thousandths of a core) and memory (bytes) under lease, by node.
pub(super) type RoomUsed = HashMap<NodeId, (u32, u64)>;

pub(super) fn view(app: &App, node: LiveNode, used: &RoomUsed) -> NodeView {
    let state = node.state(app.clock.now(), app.settings.lease_ttl);
    let (cpus_milli_used, memory_bytes_used) = used.get(&node.record.id).copied().unwrap_or_default();
    NodeView {
        id: node.record.id,
        name: node.record.name,
        zone: node.record.zone,
        state,
        labels: node.record.labels,
        capabilities: node.record.capabilities,
        cpus_milli_used,
        memory_bytes_used,
        created_at: node.record.created_at,
        heartbeat_at: node.seen_at.or(node.record.heartbeat_at),
        version: node.record.version,
    }
}

/// Nodes in the order of their enrolment, revoked ones included; of one zone if that is named.
/// Needs the scope `read`; a caller who is no admin sees the nodes of the zones that it may use.
pub async fn list_nodes(
    app: &App,
    principal: &Principal,
    zone: Option<&str>,
    page_size: Option<u32>,
    page_token: Option<&str>,
) -> Result<Page<NodeView>, ApiError> {
    principal.require(Scope::Read)?;
    let size = paging::page_size(page_size)?;
    let after = page_token.map(|token| paging::page_key("nodes", token)).transpose()?;
    let used = app.store.lease_loads().await?;
    let zones: Vec<String> =
        super::list_zones::list_zones(app, principal).into_iter().map(|zone| zone.name).collect();
    let nodes = app
        .registry
        .nodes()
        .into_iter()
        .filter(|node| zones.contains(&node.record.zone))
        .filter(|node| zone.is_none_or(|zone| zone == node.record.zone))
        .filter(|node| after.as_ref().is_none_or(|after| node.record.id.to_string() > *after))
        .take(size as usize + 1)
        .map(|node| view(app, node, &used))
        .collect();
    Ok(paging::page("nodes", nodes, size, |node: &NodeView| node.id.to_string()))
}

/// One node. The same rules hold as for the list.
pub async fn get_node(app: &App, principal: &Principal, id: NodeId) -> Result<NodeView, ApiError> {
    principal.require(Scope::Read)?;
    let node = app.registry.node(id).ok_or_else(|| ApiError::not_found("node"))?;
    super::list_zones::get_zone(app, principal, &node.record.zone)
        .map_err(|_| ApiError::not_found("node"))?;
    Ok(view(app, node, &app.store.lease_loads().await?))
}
