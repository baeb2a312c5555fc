//! Zones and the explanation of placement.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{NodeId, OuterLimit, Timestamp, limits::SlotSize, reason::closed_list};

/// What a zone allows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ZonePolicy {
    /// Tenants whose jobs may run here; every tenant when empty.
    #[schemars(length(max = 10_000), inner(regex(pattern = crate::schema::NAME_PATTERN)))]
    pub tenants: Vec<String>,
    /// Largest slot that a job may ask for; no bound when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot_max: Option<SlotSize>,
    /// Weakest outer limit under which jobs run here: weaker nodes of the zone get none. Any when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<OuterLimit>,
}

/// A zone as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ZoneView {
    /// Matches `[a-z][a-z0-9-]{0,62}`.
    #[schemars(regex(pattern = crate::schema::NAME_PATTERN))]
    pub name: String,
    /// For people, at most 1,000 characters.
    #[serde(default)]
    #[schemars(length(max = 1_000), regex(pattern = crate::schema::LINE_PATTERN))]
    pub description: String,
    /// What it allows.
    pub policy: ZonePolicy,
    /// When it was made.
    pub created_at: Timestamp,
    /// Rises with every change; the ETag.
    pub version: u64,
}

/// Body of `POST /v1/zones` and `PUT /v1/zones/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ZoneSpec {
    /// Matches `[a-z][a-z0-9-]{0,62}`.
    #[schemars(regex(pattern = crate::schema::NAME_PATTERN))]
    pub name: String,
    /// For people, at most 1,000 characters.
    #[serde(default)]
    #[schemars(length(max = 1_000), regex(pattern = crate::schema::LINE_PATTERN))]
    pub description: String,
    /// What it allows.
    #[serde(default)]
    pub policy: ZonePolicy,
}

closed_list! {
    /// Whether a job can run somewhere.
    Runnable {
        /// A node can take it at once.
        Now = "now",
        /// It waits for room, or for a node: one that drains or is away, or one that is still to come
        /// to a zone in which no node is there.
        Waiting = "waiting",
        /// Nothing that is there can ever run it as it is. Nodes that are away are no evidence.
        Never = "never_runnable",
        /// A node has it. Zones and nodes are judged as for a job like it.
        Running = "running",
        /// It has ended, and nothing runs it again. Zones and nodes are judged as for a job like it.
        Ended = "ended",
    }
}

/// Why a job can or cannot run, for every zone and node: the answer of
/// `GET /v1/jobs/{id}/placement` and of a submit with `validate_only=true`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlacementView {
    /// The verdict over all zones.
    pub runnable: Runnable,
    /// One sentence for people.
    pub summary: String,
    /// Each zone that the tenant may see.
    pub zones: Vec<ZonePlacement>,
}

/// Why a job can or cannot run in one zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ZonePlacement {
    /// The zone.
    pub zone: String,
    /// The verdict over its nodes.
    pub runnable: Runnable,
    /// What the zone itself refuses, and that it has no node or none that is there; empty if nothing.
    pub why_not: Vec<String>,
    /// Each node of the zone, also when the zone itself refuses.
    pub nodes: Vec<NodePlacement>,
}

/// Why a job can or cannot run on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodePlacement {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// The verdict.
    pub runnable: Runnable,
    /// What stands against it; empty if nothing.
    pub why_not: Vec<String>,
}
