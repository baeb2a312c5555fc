//! Note that a node lives.

use std::time::Duration;

use gristmill_protocol::{
    ErrorCode,
    node_api::{HeartbeatGrant, HeartbeatRequest},
};

use crate::{
    app::App, error::ApiError, names::check_labels, principal::NodePrincipal, registry::HeartbeatNote,
    wake::Topic,
};

/// How often a node is asked to send a heartbeat.
const HEARTBEAT_PERIOD: Duration = Duration::from_secs(10);
/// How often an unchanged node is written down.
const WRITE_PERIOD: Duration = Duration::from_secs(30);
const INCARNATION_BYTES_MAX: usize = 128;

/// Takes a heartbeat: in memory at once, in the store when something changed or half a minute has
/// passed. Repeated and late ones change nothing.
pub async fn heartbeat_node(
    app: &App,
    node: &NodePrincipal,
    request: HeartbeatRequest,
) -> Result<HeartbeatGrant, ApiError> {
    check_labels("/labels", &request.labels)?;
    if request.incarnation.is_empty() || request.incarnation.len() > INCARNATION_BYTES_MAX {
        return Err(ApiError::field("/incarnation", "must be 1 to 128 bytes long"));
    }
    let now = app.clock.now();
    match app.registry.heartbeat(node.node, &request, now, WRITE_PERIOD) {
        HeartbeatNote::Noted => {}
        HeartbeatNote::Write(record) => {
            app.store.node_heartbeat(*record).await?;
            // What it waits for was asked under its former labels and features.
            app.wakes.wake(Topic::Node(node.node));
        }
        HeartbeatNote::Replaced => {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                "another process has started with this node's identity",
            )
            .with_hint("run one node process per state directory; copy no state directory"));
        }
        HeartbeatNote::Unknown => return Err(ApiError::not_found("node")),
    }
    Ok(HeartbeatGrant {
        drain: app.registry.with_node(node.node, |live| live.record.drain).unwrap_or_default(),
        next_ms: HEARTBEAT_PERIOD.as_millis() as u64,
        server_unix_ms: now.as_millisecond(),
    })
}
