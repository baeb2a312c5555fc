//! Change a tenant.

use gristmill_protocol::{
    audit::AuditOperation,
    tenancy::{Scope, TenantSpec, TenantView},
};

use super::create_tenant::check_tenant;
use crate::{app::App, error::ApiError, principal::Principal};

/// Replaces a tenant's depth of its queue and its retention; what is absent is the server's. Needs the
/// scope `admin`. `precondition_failed` when `if_version` is given and is not the present one.
pub async fn replace_tenant(
    app: &App,
    principal: &Principal,
    spec: TenantSpec,
    if_version: Option<u64>,
) -> Result<TenantView, ApiError> {
    principal.require(Scope::Admin)?;
    let queue_depth_max = check_tenant(app, &spec)?;
    let found = app.store.tenant_get(&spec.name).await?.map(|tenant| tenant.version);
    let note = principal.note(AuditOperation::TenantReplace, &spec.name).found(found);
    let tenant = app
        .store
        .audited(note)
        .tenant_replace(&spec.name, queue_depth_max, spec.retention, if_version)
        .await?
        .or_refused("tenant")?;
    app.registry.put_tenant_depth(&tenant.name, tenant.queue_depth_max);
    Ok(tenant)
}
