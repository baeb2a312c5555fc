//! Make a tenant.

use gristmill_protocol::{
    ErrorCode,
    audit::AuditOperation,
    tenancy::{Scope, TenantSpec, TenantView},
};

use crate::{app::App, error::ApiError, names::check_name, principal::Principal};

/// Makes a tenant. Needs the scope `admin`; `conflict` when there is one of that name.
pub async fn create_tenant(
    app: &App,
    principal: &Principal,
    spec: TenantSpec,
) -> Result<TenantView, ApiError> {
    principal.require(Scope::Admin)?;
    check_name("/name", &spec.name)?;
    let queue_depth_max = spec.queue_depth_max.unwrap_or(app.settings.queue_depth_tenant_max);
    if queue_depth_max > app.settings.queue_depth_max {
        return Err(ApiError::field(
            "/queue_depth_max",
            format!("must be at most {}, the limit of the whole queue", app.settings.queue_depth_max),
        ));
    }
    let tenant = TenantView { name: spec.name, queue_depth_max, created_at: app.clock.now(), version: 1 };
    let note = principal.note(AuditOperation::TenantCreate, &tenant.name);
    if app.store.audited(note).tenant_create(tenant.clone()).await? {
        Ok(tenant)
    } else {
        Err(ApiError::new(ErrorCode::Conflict, format!("there is a tenant {:?} already", tenant.name))
            .with_hint("use it, or choose another name"))
    }
}
