//! Nodes and join tokens as they are kept.

use std::collections::BTreeMap;

use async_trait::async_trait;
use gristmill_protocol::{
    JoinTokenId, NodeId, Timestamp,
    node::{JoinTokenView, NodeCapabilities},
};

use super::{Changed, StoreError, token::SecretHash};

/// A node as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// The node's id.
    pub id: NodeId,
    /// The name it was enrolled with.
    pub name: String,
    /// The zone it belongs to, from its join token.
    pub zone: String,
    /// Its Ed25519 public key.
    pub public_key: [u8; 32],
    /// What jobs may ask for.
    pub labels: BTreeMap<String, String>,
    /// What it has and can do.
    pub capabilities: NodeCapabilities,
    /// Whether an operator asked it to drain.
    pub drain: bool,
    /// Whether it said that it drains by itself.
    pub draining: bool,
    /// When its identity was taken back.
    pub revoked_at: Option<Timestamp>,
    /// When it was enrolled.
    pub created_at: Timestamp,
    /// When it was last heard of, as far as written down.
    pub heartbeat_at: Option<Timestamp>,
    /// The start of the node process that spoke last; absent before its first heartbeat.
    pub incarnation: Option<String>,
    /// Rises with every change by an operator.
    pub version: u64,
}

/// A join token to be kept.
#[derive(Debug, Clone)]
pub struct JoinTokenRecord {
    /// The token's public name.
    pub id: JoinTokenId,
    /// SHA-256 of its secret.
    pub secret: SecretHash,
    /// The zone that the node will belong to.
    pub zone: String,
    /// The only name that the node may take.
    pub node_name: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
    /// The token of the user who made it, or `server`.
    pub created_by: String,
}

/// What became of a join token's redemption.
#[derive(Debug, Clone)]
pub enum Redeemed {
    /// The node is enrolled.
    Enrolled(NodeRecord),
    /// The same key redeemed this token before: the answer got lost, here it is again.
    Again(NodeRecord),
    /// There is no such token, or it was used or has expired.
    Invalid,
    /// The token is bound to this other name.
    OtherName(String),
    /// The key belongs to a node that is enrolled already.
    KeyInUse,
}

/// Keeps nodes and join tokens.
#[async_trait]
pub trait NodeStore {
    /// Keeps a join token. `false` when the zone does not exist.
    async fn join_token_create(&self, token: JoinTokenRecord) -> Result<bool, StoreError>;

    /// One join token, used and expired ones included.
    async fn join_token_get(&self, id: JoinTokenId) -> Result<Option<JoinTokenView>, StoreError>;

    /// Redeems a join token and enrols the node in its zone, both or neither. The node's `zone` is
    /// filled in from the token.
    async fn node_enroll(&self, secret: SecretHash, node: NodeRecord) -> Result<Redeemed, StoreError>;

    /// Every node, by id.
    async fn node_list(&self) -> Result<Vec<NodeRecord>, StoreError>;

    /// Writes down what the node last said of itself.
    async fn node_heartbeat(&self, node: NodeRecord) -> Result<(), StoreError>;

    /// Asks a node to drain, or to take work again, if its version is `if_version` or that is `None`.
    /// `Absent` when there is no such node or it is revoked.
    async fn node_set_drain(
        &self,
        id: NodeId,
        drain: bool,
        if_version: Option<u64>,
    ) -> Result<Changed<NodeRecord>, StoreError>;

    /// Takes a node's identity back for good, if its version is `if_version` or that is `None`. A
    /// second call changes nothing. Durable when it returns.
    async fn node_revoke(
        &self,
        id: NodeId,
        at: Timestamp,
        if_version: Option<u64>,
    ) -> Result<Changed<NodeRecord>, StoreError>;
}
