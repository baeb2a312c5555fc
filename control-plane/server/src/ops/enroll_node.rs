//! Make a machine a node: redeem its join token.

use base64::{Engine, engine::general_purpose::STANDARD};
use gristmill_protocol::{
    ErrorCode, NODE_PROTOCOL_VERSION, NodeId,
    audit::AuditOperation,
    node_api::{EnrollGrant, EnrollRequest},
};

use crate::{
    app::App,
    auth::secret_hash,
    error::ApiError,
    names::{check_labels, check_node_name},
    principal::Origin,
    store::{
        audit::AuditNote,
        node::{NodeRecord, Redeemed},
    },
};

fn public_key(text: &str) -> Result<[u8; 32], ApiError> {
    STANDARD
        .decode(text)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| ApiError::field("/public_key", "must be an Ed25519 public key: 32 bytes in base64"))
}

/// Redeems a join token and enrols the node, both or neither; durable when it returns. The same
/// key with the same token gets the same answer again, as long as the node is not revoked. The
/// node's zone comes from the token.
pub async fn enroll_node(
    app: &App,
    origin: &Origin,
    request: EnrollRequest,
) -> Result<EnrollGrant, ApiError> {
    let (oldest, newest) = request.protocol_versions;
    if !(oldest..=newest).contains(&NODE_PROTOCOL_VERSION) {
        return Err(ApiError::new(
            ErrorCode::ProtocolVersion,
            format!("this server speaks version {NODE_PROTOCOL_VERSION}, the node {oldest} to {newest}"),
        )
        .with_hint("install a node of the server's release"));
    }
    check_node_name("/name", &request.name)?;
    check_labels("/labels", &request.labels)?;
    let now = app.clock.now();
    let record = NodeRecord {
        id: NodeId::from_parts(app.unix_ms(), app.entropy.bytes()),
        name: request.name,
        zone: String::new(),
        public_key: public_key(&request.public_key)?,
        labels: request.labels,
        capabilities: request.capabilities,
        drain: false,
        draining: false,
        revoked_at: None,
        created_at: now,
        heartbeat_at: None,
        incarnation: None,
        version: 1,
    };
    let note = origin.note(AuditOperation::NodeEnroll, record.id);
    let note = AuditNote { actor: record.id.to_string(), ..note };
    match app.store.audited(note).node_enroll(secret_hash(&request.join_token), record).await? {
        Redeemed::Enrolled(record) | Redeemed::Again(record) => {
            tracing::info!(node = %record.id, name = record.name, zone = record.zone, "a node is enrolled");
            let grant = EnrollGrant {
                node: record.id,
                zone: record.zone.clone(),
                protocol_version: NODE_PROTOCOL_VERSION,
                server_unix_ms: now.as_millisecond(),
            };
            app.registry.put_node(record);
            app.registry.touch(grant.node, now);
            Ok(grant)
        }
        Redeemed::Invalid => Err(ApiError::new(
            ErrorCode::Unauthenticated,
            "the join token is not known, was used before, or has expired",
        )
        .with_hint("make a new one: gristmill join-token create --zone ZONE")),
        Redeemed::OtherName(name) => Err(ApiError::new(
            ErrorCode::Forbidden,
            format!("this join token is for a node of the name {name:?}"),
        )
        .with_hint("start the node with --name, or make a join token without a name")),
        Redeemed::KeyInUse => {
            Err(ApiError::new(ErrorCode::Conflict, "a node with this key is enrolled already").with_hint(
                "start the node without a join token, or with an empty state directory for a new identity",
            ))
        }
    }
}
