//! Take a user token back.

use gristmill_protocol::{TokenId, audit::AuditOperation, tenancy::TokenView};

use crate::{app::App, error::ApiError, principal::Principal};

/// Takes a token back; from then on it is refused. A second call changes nothing. Durable when it
/// returns. Tokens of other tenants are `not_found` unless the caller is an admin.
/// `precondition_failed` when `if_revision` is given and is not the present one.
pub async fn revoke_token(
    app: &App,
    principal: &Principal,
    id: TokenId,
    if_revision: Option<u64>,
) -> Result<TokenView, ApiError> {
    let tenant = (!principal.is_admin()).then(|| principal.tenant.clone());
    let token = app
        .store
        .audited(principal.note(AuditOperation::TokenRevoke, id))
        .token_revoke(tenant, id, app.clock.now(), if_revision)
        .await?
        .or_refused("token")?;
    app.tokens.forget(id);
    Ok(token)
}
