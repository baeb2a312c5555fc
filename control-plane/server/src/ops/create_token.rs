//! Make a user token.

use std::time::Duration;

use gristmill_protocol::{
    ErrorCode, TokenId,
    audit::AuditOperation,
    tenancy::{Scope, TokenCreated, TokenSpec, TokenView},
};

use crate::{
    app::App,
    auth::{USER_SECRET_PREFIX, new_secret, secret_hash},
    error::ApiError,
    names::check_text,
    principal::{Origin, Principal},
};

const DAY_MS: u64 = 24 * 3_600_000;
const TTL_DEFAULT_MS: u64 = 90 * DAY_MS;
const TTL_MAX_MS: u64 = 3_650 * DAY_MS;

/// Makes a token; the secret is shown this once. A caller without the scope `admin` makes tokens of
/// its own tenant with scopes of its own. Durable when it returns.
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
    let ttl_ms = spec.ttl_ms.unwrap_or(TTL_DEFAULT_MS);
    if !(1..=TTL_MAX_MS).contains(&ttl_ms) {
        return Err(ApiError::field("/ttl_ms", "must be from 1 ms to 10 years"));
    }
    let tenant = spec.tenant.unwrap_or_default();
    let secret = new_secret(USER_SECRET_PREFIX, &*app.entropy);
    let now = app.clock.now();
    let token = TokenView {
        id: TokenId::from_parts(app.unix_ms(), app.entropy.bytes()),
        name: spec.name,
        tenant: tenant.clone(),
        scopes: spec.scopes.unwrap_or_default(),
        created_at: now,
        expires_at: now + Duration::from_millis(ttl_ms),
        revoked_at: None,
    };
    let operation = AuditOperation::TokenCreate;
    let note =
        by.map_or_else(|| Origin::default().note(operation, token.id), |user| user.note(operation, token.id));
    if app.store.audited(note).token_create(token.clone(), secret_hash(&secret)).await? {
        Ok(TokenCreated { token, secret })
    } else {
        Err(ApiError::absent("/tenant", format!("there is no tenant {tenant:?}"))
            .with_hint("list the tenants: gristmill tenant list"))
    }
}
