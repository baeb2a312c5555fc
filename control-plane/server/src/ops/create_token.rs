//! Make a user token.

use std::time::Duration;

use gristmill_protocol::{
    ErrorCode, Timestamp, TokenId,
    audit::AuditOperation,
    tenancy::{Scope, TokenCreated, TokenSpec, TokenView},
};

use crate::{
    app::App,
    auth::{USER_SECRET_PREFIX, new_secret, secret_hash},
    error::ApiError,
    names::check_text,
    principal::{Origin, Principal},
    store::token::{TOKENS_MADE_MAX, TokenPut},
};

const DAY_MS: u64 = 24 * 3_600_000;
const TTL_DEFAULT_MS: u64 = 90 * DAY_MS;
const TTL_MAX_MS: u64 = 3_650 * DAY_MS;

/// Makes a token; the secret is shown this once. A caller without the scope `admin` makes tokens of
/// its own tenant with scopes of its own, which end no later than it does. Durable when it returns.
pub async fn create_token(
    app: &App,
    principal: &Principal,
    spec: TokenSpec,
) -> Result<TokenCreated, ApiError> {
    let tenant = spec.tenant.clone().unwrap_or_else(|| principal.tenant.clone());
    let scopes = scopes(principal, &spec)?;
    if tenant != principal.tenant && !principal.is_admin() {
        return Err(ApiError::new(ErrorCode::Forbidden, "a token of another tenant needs the scope admin")
            .with_hint("leave tenant out, or ask an administrator for the token"));
    }
    let spec = TokenSpec { tenant: Some(tenant), scopes: Some(scopes), ..spec };
    issue_token(app, spec, Some(principal)).await
}

fn scopes(principal: &Principal, spec: &TokenSpec) -> Result<Vec<Scope>, ApiError> {
    let Some(mut scopes) = spec.scopes.clone() else {
        let all = [Scope::Read, Scope::Submit, Scope::Publish];
        return Ok(all.into_iter().filter(|&scope| principal.may(scope)).collect());
    };
    scopes.sort();
    scopes.dedup();
    match scopes.iter().find(|&&scope| !principal.may(scope)) {
        Some(scope) => Err(ApiError::new(
            ErrorCode::Forbidden,
            format!("a token cannot give the scope {scope}, which it lacks itself"),
        )
        .with_hint("leave the scope out, or ask an administrator for the token")),
        None if scopes.is_empty() => Err(ApiError::field("/scopes", "must name at least one scope")),
        None => Ok(scopes),
    }
}

/// When a token ends: no later than the one that makes it, if there is such a limit.
fn expires_at(now: Timestamp, ttl_ms: Option<u64>, limit: Option<Timestamp>) -> Result<Timestamp, ApiError> {
    if ttl_ms.is_some_and(|ttl| !(1..=TTL_MAX_MS).contains(&ttl)) {
        return Err(ApiError::field("/ttl_ms", "must be from 1 ms to 10 years"));
    }
    let end = now + Duration::from_millis(ttl_ms.unwrap_or(TTL_DEFAULT_MS));
    match limit {
        Some(limit) if end > limit && ttl_ms.is_some() => {
            let detail = format!("must not end after the token that makes it, which ends at {limit}");
            Err(ApiError::field("/ttl_ms", detail)
                .with_hint("leave it out to end with that token, or ask an administrator for a token"))
        }
        limit => Ok(limit.map_or(end, |limit| limit.min(end))),
    }
}

fn maker_ended() -> ApiError {
    ApiError::new(ErrorCode::Unauthenticated, "the token was revoked or has expired")
}

/// Makes a token of a tenant that is named in the spec, for whoever may already do anything: the
/// server itself, or a user.
pub(crate) async fn issue_token(
    app: &App,
    spec: TokenSpec,
    by: Option<&Principal>,
) -> Result<TokenCreated, ApiError> {
    if spec.name.is_empty() {
        return Err(ApiError::field("/name", "must not be empty"));
    }
    check_text("/name", &spec.name, 100)?;
    // What an admin made for others stays when the admin's own token ends.
    let maker = by.filter(|user| !user.is_admin()).map(|user| user.token);
    let limit = match maker {
        None => None,
        Some(maker) => Some(app.store.token_get(None, maker).await?.ok_or_else(maker_ended)?.expires_at),
    };
    let tenant = spec.tenant.unwrap_or_default();
    let secret = new_secret(USER_SECRET_PREFIX, &*app.entropy);
    let now = app.clock.now();
    let token = TokenView {
        id: TokenId::from_parts(app.unix_ms(), app.entropy.bytes()),
        name: spec.name,
        tenant: tenant.clone(),
        scopes: spec.scopes.unwrap_or_default(),
        created_at: now,
        expires_at: expires_at(now, spec.ttl_ms, limit)?,
        revoked_at: None,
    };
    let operation = AuditOperation::TokenCreate;
    let note =
        by.map_or_else(|| Origin::default().note(operation, token.id), |user| user.note(operation, token.id));
    match app.store.audited(note).token_create(token.clone(), secret_hash(&secret), maker).await? {
        TokenPut::Done => Ok(TokenCreated { token, secret }),
        TokenPut::NoTenant => Err(ApiError::absent("/tenant", format!("there is no tenant {tenant:?}"))
            .with_hint("list the tenants: gristmill tenant list")),
        TokenPut::MakerEnded => Err(maker_ended()),
        TokenPut::TooMany => {
            let detail = format!(
                "the tenant {tenant:?} has {TOKENS_MADE_MAX} live tokens that were made without the scope admin"
            );
            Err(ApiError::new(ErrorCode::Conflict, detail).with_hint(
                "revoke some (gristmill token list, gristmill token revoke), or give them an earlier end",
            ))
        }
    }
}
