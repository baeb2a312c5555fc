//! Take a user token back.

use gristmill_protocol::{ErrorCode, TokenId, audit::AuditOperation, tenancy::TokenView};

use crate::{app::App, error::ApiError, principal::Principal};

/// Takes a token back, and with it what it made unless it has the scope `admin`; from then on they
/// are refused. A second call changes nothing. Durable when it returns. Tokens of other tenants are
/// `not_found` unless the caller is an admin; one that may do more than the caller is `forbidden`.
/// `precondition_failed` when `if_revision` is given and is not the present one.
pub async fn revoke_token(
    app: &App,
    principal: &Principal,
    id: TokenId,
    if_revision: Option<u64>,
) -> Result<TokenView, ApiError> {
    let tenant = (!principal.is_admin()).then(|| principal.tenant.clone());
    if let Some(token) = app.store.token_get(tenant.clone(), id).await?
        && let Some(scope) = token.scopes.iter().find(|&&scope| !principal.may(scope))
    {
        let detail = format!("a token cannot take back one with the scope {scope}, which it lacks itself");
        return Err(ApiError::new(ErrorCode::Forbidden, detail)
            .with_hint("revoke it with a token that has all of its scopes, or the scope admin"));
    }
    let revoked = app
        .store
        .audited(principal.note(AuditOperation::TokenRevoke, id))
        .token_revoke(tenant, id, app.clock.now(), if_revision)
        .await?
        .or_refused("token")?;
    app.tokens.forget(&[&[id], &*revoked.with_it].concat());
    Ok(revoked.token)
}
