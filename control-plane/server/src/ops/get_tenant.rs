//! Show a tenant.

use gristmill_protocol::tenancy::TenantView;

use crate::{app::App, error::ApiError, principal::Principal};

/// One tenant: the caller's own, or any for an admin.
pub async fn get_tenant(app: &App, principal: &Principal, name: &str) -> Result<TenantView, ApiError> {
    let is_visible = principal.tenant == name || principal.is_admin();
    let found = if is_visible { app.store.tenant_get(name).await? } else { None };
    found.ok_or_else(|| ApiError::not_found("tenant"))
}
