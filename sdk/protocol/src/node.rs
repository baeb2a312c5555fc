//! Nodes and join tokens as the users' API shows them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Isolation, JoinTokenId, NodeId, Timestamp, reason::closed_list};

closed_list! {
    /// What a node is doing.
    NodeState {
        /// It takes work.
        Active = "active",
        /// It finishes what runs and takes nothing new.
        Draining = "draining",
        /// It has not been heard of for longer than a lease lasts.
        Away = "away",
        /// Its identity was taken back; it cannot return.
        Revoked = "revoked",
    }
}

/// What a node has and can do; sent at enrolment and with heartbeats.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NodeCapabilities {
    /// CPU offered, in thousandths of a core.
    pub cpus_milli: u32,
    /// Memory offered, in bytes.
    pub memory_bytes: u64,
    /// WASM features that it can run, by the names in a module's metadata.
    pub features: Vec<String>,
    /// `x86_64-linux` and the like.
    pub platform: String,
    /// Version of the gristmill binary.
    pub version: String,
    /// Version of the engine.
    pub engine: String,
    /// What stands around its executors beside the sandbox itself.
    pub isolation: Isolation,
}

/// A node as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeView {
    /// The node's id.
    pub id: NodeId,
    /// The name it was enrolled with.
    pub name: String,
    /// The zone it belongs to.
    #[schemars(regex(pattern = crate::schema::NAME_PATTERN))]
    pub zone: String,
    /// What it is doing.
    pub state: NodeState,
    /// What jobs may ask for.
    #[schemars(transform = crate::schema::labels)]
    pub labels: BTreeMap<String, String>,
    /// What it has and can do.
    pub capabilities: NodeCapabilities,
    /// CPU under lease, in thousandths of a core.
    pub cpus_milli_used: u32,
    /// Memory under lease, in bytes.
    pub memory_bytes_used: u64,
    /// When it was enrolled.
    pub created_at: Timestamp,
    /// When it was last heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_at: Option<Timestamp>,
    /// Rises with every change by an operator; the ETag begins with it.
    pub version: u64,
}

/// Body of `POST /v1/join-tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinTokenSpec {
    /// The zone that the node will belong to.
    #[schemars(regex(pattern = crate::schema::NAME_PATTERN))]
    pub zone: String,
    /// How long the token can be redeemed, in milliseconds; default and maximum 15 minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 900_000))]
    pub ttl_ms: Option<u64>,
    /// The only name that the node may take; any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = crate::schema::NODE_NAME_PATTERN))]
    pub node_name: Option<String>,
}

/// A join token as the API shows it; never its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JoinTokenView {
    /// The token's public name.
    pub id: JoinTokenId,
    /// The zone that the node will belong to.
    #[schemars(regex(pattern = crate::schema::NAME_PATTERN))]
    pub zone: String,
    /// The only name that the node may take; any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = crate::schema::NODE_NAME_PATTERN))]
    pub node_name: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it can no longer be redeemed.
    pub expires_at: Timestamp,
    /// When it was redeemed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_at: Option<Timestamp>,
    /// The node that redeemed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<NodeId>,
}

/// The answer of `POST /v1/join-tokens`; the only time that the secret is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JoinTokenCreated {
    /// The token's public name.
    pub id: JoinTokenId,
    /// The secret, `gmj_…`. It can be redeemed once.
    pub secret: String,
    /// The zone that the node will belong to.
    #[schemars(regex(pattern = crate::schema::NAME_PATTERN))]
    pub zone: String,
    /// When it expires.
    pub expires_at: Timestamp,
}
