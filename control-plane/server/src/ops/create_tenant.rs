//! Make a tenant.

use gristmill_protocol::{
    ErrorCode,
    audit::AuditOperation,
    tenancy::{RETENTION_MS_MAX, Scope, TenantRetention, TenantSpec, TenantView},
};

use crate::{app::App, error::ApiError, names::check_name, principal::Principal};

/// Makes a tenant. Needs the scope `admin`; `conflict` when there is one of that name.
pub async fn create_tenant(
    app: &App,
    principal: &Principal,
    spec: TenantSpec,
) -> Result<TenantView, ApiError> {
    principal.require(Scope::Admin)?;
    let queue_depth_max = check_tenant(app, &spec)?;
    let tenant = TenantView {
        name: spec.name,
        queue_depth_max,
        retention: spec.retention,
        created_at: app.clock.now(),
        version: 1,
    };
    let note = principal.note(AuditOperation::TenantCreate, &tenant.name);
    if app.store.audited(note).tenant_create(tenant.clone()).await? {
        Ok(tenant)
    } else {
        Err(ApiError::new(ErrorCode::Conflict, format!("there is a tenant {:?} already", tenant.name))
            .with_hint("use it, or choose another name"))
    }
}

/// Checks what a tenant is to be. Returns the depth of its queue.
pub(super) fn check_tenant(app: &App, spec: &TenantSpec) -> Result<u64, ApiError> {
    check_name("/name", &spec.name)?;
    let TenantRetention { job_ttl_ms, log_ttl_ms, jobs_max, bytes_max } = spec.retention;
    for (pointer, ttl) in [("/retention/job_ttl_ms", job_ttl_ms), ("/retention/log_ttl_ms", log_ttl_ms)] {
        if ttl.is_some_and(|ttl| !(1..=RETENTION_MS_MAX).contains(&ttl)) {
            return Err(ApiError::field(pointer, format!("must be from 1 to {RETENTION_MS_MAX}, ten years")));
        }
    }
    if jobs_max == Some(0) {
        return Err(ApiError::field("/retention/jobs_max", "must be at least 1"));
    }
    if bytes_max.is_some_and(|bytes| i64::try_from(bytes).is_err()) {
        return Err(ApiError::field("/retention/bytes_max", format!("must be at most {}", i64::MAX)));
    }
    let queue_depth_max = spec.queue_depth_max.unwrap_or(app.settings.queue_depth_tenant_max);
    if queue_depth_max > app.settings.queue_depth_max {
        return Err(ApiError::field(
            "/queue_depth_max",
            format!("must be at most {}, the limit of the whole queue", app.settings.queue_depth_max),
        ));
    }
    Ok(queue_depth_max)
}
