//! Find out who a request's token belongs to.

use gristmill_protocol::ErrorCode;

use crate::{
    app::App,
    auth::{USER_SECRET_PREFIX, secret_hash},
    error::ApiError,
    principal::{Origin, Principal},
};

/// Longest secret that is looked at, in bytes.
const SECRET_BYTES_MAX: usize = 128;

fn refused(detail: &str) -> ApiError {
    ApiError::new(ErrorCode::Unauthenticated, detail)
        .with_hint("send the header Authorization: Bearer gmu_…, with a token of this server")
}

/// Who the secret of a user token belongs to. Fails with `unauthenticated`, and with `rate_limited`
/// before it looks when too many secrets that were not seen lately came from the same address.
pub async fn authenticate_user(
    app: &App,
    secret: Option<&str>,
    origin: Origin,
) -> Result<Principal, ApiError> {
    let now = app.clock.now();
    let hash = secret.filter(|secret| is_plausible(secret)).map(secret_hash);
    let ticket = match hash.map(|hash| app.tokens.get(&hash, now)) {
        Some(Ok(principal)) => return Ok(Principal { origin, ..principal }),
        Some(Err(ticket)) => ticket,
        None => 0,
    };
    app.gates.count_stranger(origin.peer)?;
    if secret.is_none() {
        return Err(refused("the request has no bearer token"));
    }
    let hash = hash.ok_or_else(|| refused("this is no user token"))?;
    let token =
        app.store.token_by_secret(hash).await?.ok_or_else(|| refused("the token is not known here"))?;
    if token.revoked_at.is_some() {
        return Err(refused("the token was revoked"));
    }
    if now >= token.expires_at {
        return Err(refused("the token has expired"));
    }
    Ok(Principal { origin, ..app.tokens.put(hash, &token, now, ticket) })
}

fn is_plausible(secret: &str) -> bool {
    secret.len() <= SECRET_BYTES_MAX && secret.starts_with(USER_SECRET_PREFIX)
}
