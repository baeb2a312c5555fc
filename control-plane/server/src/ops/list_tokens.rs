//! List user tokens.

use gristmill_protocol::{Page, TokenId, tenancy::TokenView};

use crate::{app::App, error::ApiError, paging, principal::Principal};

/// Tokens, newest first: all of them for an admin, else those of the caller's tenant.
pub async fn list_tokens(
    app: &App,
    principal: &Principal,
    page_size: Option<u32>,
    page_token: Option<&str>,
) -> Result<Page<TokenView>, ApiError> {
    let size = paging::page_size(page_size)?;
    let before = match page_token {
        None => None,
        Some(token) => {
            let key = paging::page_key("tokens", token)?;
            Some(key.parse::<TokenId>().map_err(ApiError::internal)?)
        }
    };
    let tenant = (!principal.is_admin()).then(|| principal.tenant.clone());
    let tokens = app.store.token_list(tenant, before, size + 1).await?;
    Ok(paging::page("tokens", tokens, size, |token| token.id.to_string()))
}
