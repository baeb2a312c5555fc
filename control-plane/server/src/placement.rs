//! The present picture of zones and nodes, as placement looks at it.

use gristmill_lifecycle::{
    explain::{NodePicture, ZonePicture, explain},
    placement::{ClassSpec, NodeProfile, Presence, Room, ZoneProfile, admits},
};
use gristmill_protocol::{
    NodeId,
    node::NodeState,
    zone::{PlacementView, Runnable},
};

use crate::{
    app::App,
    error::ApiError,
    principal::Principal,
    registry::{LiveNode, Registry},
};

fn profile(node: &LiveNode) -> NodeProfile {
    let record = &node.record;
    NodeProfile {
        labels: record.labels.clone(),
        features: record.capabilities.features.clone(),
        level: record.capabilities.isolation.level(),
    }
}

fn offers(node: &LiveNode) -> Room {
    Room {
        cpus_milli: node.record.capabilities.cpus_milli,
        memory_bytes: node.record.capabilities.memory_bytes,
    }
}

/// The zone of a node, as placement looks at it. A zone that is gone admits nothing.
pub(crate) fn zone_profile(app: &App, zone: &str) -> Option<ZoneProfile> {
    app.registry.zone(zone).map(|zone| ZoneProfile { name: zone.name.clone(), policy: zone.policy.clone() })
}

/// A node, as placement looks at it for one start of its process. What an earlier start measured of
/// its isolation does not hold for this one: until its first heartbeat it has proved none.
pub(crate) fn node_profile(registry: &Registry, node: NodeId, incarnation: &str) -> Option<NodeProfile> {
    registry.with_node(node, |live| {
        let is_told = live.record.incarnation.as_deref() == Some(incarnation);
        let profile = profile(live);
        if is_told { profile } else { NodeProfile { level: None, ..profile } }
    })
}

/// Explains for every zone and node that the caller may know of whether jobs of the class can run.
pub(crate) async fn explain_class(
    app: &App,
    who: &Principal,
    class: &ClassSpec,
) -> Result<PlacementView, ApiError> {
    let loads = app.store.lease_loads().await?;
    let now = app.clock.now();
    let nodes = app.registry.nodes();
    let zones: Vec<_> = app
        .registry
        .zones()
        .into_iter()
        .filter(|zone| {
            let tenants = &zone.policy.tenants;
            who.is_admin() || tenants.is_empty() || tenants.contains(&who.tenant)
        })
        .map(|zone| ZonePicture {
            zone: ZoneProfile { name: zone.name.clone(), policy: zone.policy.clone() },
            nodes: nodes
                .iter()
                .filter(|node| node.record.zone == zone.name)
                .map(|node| {
                    let presence = match node.state(now, app.settings.lease_ttl) {
                        NodeState::Active => Presence::Active,
                        NodeState::Draining => Presence::Draining,
                        NodeState::Revoked => Presence::Revoked,
                        _ => Presence::Away,
                    };
                    let offers = offers(node);
                    let (cpus_milli, memory_bytes) = loads.get(&node.record.id).copied().unwrap_or_default();
                    NodePicture {
                        id: node.record.id,
                        name: node.record.name.clone(),
                        profile: profile(node),
                        offers,
                        free: Room {
                            cpus_milli: offers.cpus_milli.saturating_sub(cpus_milli),
                            memory_bytes: offers.memory_bytes.saturating_sub(memory_bytes),
                        },
                        presence,
                    }
                })
                .collect(),
        })
        .collect();
    Ok(explain(class, &zones))
}

/// Whether a node is enrolled that can run jobs of the class once it has room. Cheaper than an
/// explanation.
fn has_able_node(app: &App, class: &ClassSpec) -> bool {
    let zones: Vec<_> = app.registry.zones();
    app.registry.nodes().iter().any(|node| {
        node.record.revoked_at.is_none()
            && offers(node).fits(class)
            && zones.iter().find(|zone| zone.name == node.record.zone).is_some_and(|zone| {
                let zone = ZoneProfile { name: zone.name.clone(), policy: zone.policy.clone() };
                admits(class, &zone, &profile(node))
            })
    })
}

/// Fails with `never_runnable` when nothing that is there can ever run jobs of the class. A zone
/// in which no node is there at the moment counts as one that can.
pub(crate) async fn check_runnable(app: &App, who: &Principal, class: &ClassSpec) -> Result<(), ApiError> {
    if has_able_node(app, class) {
        return Ok(());
    }
    let placement = explain_class(app, who, class).await?;
    if placement.runnable != Runnable::Never {
        return Ok(());
    }
    Err(ApiError::new(gristmill_protocol::ErrorCode::NeverRunnable, placement.summary).with_hint(
        "ask for less, for other labels or for another zone; validate_only=true explains each node",
    ))
}
