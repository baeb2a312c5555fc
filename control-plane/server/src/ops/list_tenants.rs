//! List tenants.

use gristmill_protocol::{Page, tenancy::TenantView};

use crate::{app::App, error::ApiError, paging, principal::Principal};

/// Tenants by name: all of them for an admin, else the caller's own.
pub async fn list_tenants(
    app: &App,
    principal: &Principal,
    page_size: Option<u32>,
    page_token: Option<&str>,
) -> Result<Page<TenantView>, ApiError> {
    let size = paging::page_size(page_size)?;
    let after = page_token.map(|token| paging::page_key("tenants", token)).transpose()?;
    let tenants = if principal.is_admin() {
        app.store.tenant_list(after, size + 1).await?
    } else {
        app.store.tenant_get(&principal.tenant).await?.into_iter().collect()
    };
    Ok(paging::page("tenants", tenants, size, |tenant| tenant.name.clone()))
}
