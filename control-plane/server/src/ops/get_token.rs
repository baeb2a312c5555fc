//! Show a token.

use gristmill_protocol::{JoinTokenId, TokenId, node::JoinTokenView, tenancy::Scope, tenancy::TokenView};

use crate::{app::App, error::ApiError, principal::Principal};

/// A user token, never its secret. Tokens of other tenants are `not_found` unless the caller is an
/// admin.
pub async fn get_token(app: &App, principal: &Principal, id: TokenId) -> Result<TokenView, ApiError> {
    let tenant = (!principal.is_admin()).then(|| principal.tenant.clone());
    app.store.token_get(tenant, id).await?.ok_or_else(|| ApiError::not_found("token"))
}

/// A join token, never its secret. Needs the scope `admin`.
pub async fn get_join_token(
    app: &App,
    principal: &Principal,
    id: JoinTokenId,
) -> Result<JoinTokenView, ApiError> {
    principal.require(Scope::Admin)?;
    app.store.join_token_get(id).await?.ok_or_else(|| ApiError::not_found("join token"))
}
