//! Make a join token, with which one machine becomes a node.

use std::time::Duration;

use gristmill_protocol::{
    JoinTokenId,
    audit::AuditOperation,
    node::{JoinTokenCreated, JoinTokenSpec},
    tenancy::Scope,
};

use crate::{
    app::App,
    auth::{JOIN_SECRET_PREFIX, new_secret, secret_hash},
    error::ApiError,
    names::check_node_name,
    principal::{Origin, Principal},
    store::node::JoinTokenRecord,
};

/// Longest time that a join token can be redeemed, and the default.
const TTL_MAX_MS: u64 = 15 * 60_000;

/// Makes a join token that can be redeemed once; the secret is shown this once. Needs the scope
/// `admin`.
pub async fn create_join_token(
    app: &App,
    principal: &Principal,
    spec: JoinTokenSpec,
) -> Result<JoinTokenCreated, ApiError> {
    principal.require(Scope::Admin)?;
    issue_join_token(app, spec, Some(principal)).await
}

/// Makes a join token for whoever may already do anything: a user, or else the server itself.
pub(crate) async fn issue_join_token(
    app: &App,
    spec: JoinTokenSpec,
    by: Option<&Principal>,
) -> Result<JoinTokenCreated, ApiError> {
    if let Some(name) = &spec.node_name {
        check_node_name("/node_name", name)?;
    }
    let ttl_ms = spec.ttl_ms.unwrap_or(TTL_MAX_MS);
    if !(1..=TTL_MAX_MS).contains(&ttl_ms) {
        return Err(ApiError::field("/ttl_ms", "must be from 1 to 900000 (15 minutes)"));
    }
    let secret = new_secret(JOIN_SECRET_PREFIX, &*app.entropy);
    let created_at = app.clock.now();
    let expires_at = created_at + Duration::from_millis(ttl_ms);
    let record = JoinTokenRecord {
        id: JoinTokenId::from_parts(app.unix_ms(), app.entropy.bytes()),
        secret: secret_hash(&secret),
        zone: spec.zone.clone(),
        node_name: spec.node_name,
        created_at,
        expires_at,
        created_by: by.map_or_else(|| "server".to_owned(), |user| user.token.to_string()),
    };
    let id = record.id;
    let operation = AuditOperation::JoinTokenCreate;
    let note = by.map_or_else(|| Origin::default().note(operation, id), |user| user.note(operation, id));
    if app.store.audited(note).join_token_create(record).await? {
        Ok(JoinTokenCreated { id, secret, zone: spec.zone, expires_at })
    } else {
        Err(ApiError::absent("/zone", format!("there is no zone {:?}", spec.zone))
            .with_hint("list the zones: gristmill zone list"))
    }
}
