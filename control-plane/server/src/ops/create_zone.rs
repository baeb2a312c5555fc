//! Make a zone.

use gristmill_protocol::{
    ErrorCode,
    audit::AuditOperation,
    tenancy::Scope,
    zone::{ZoneSpec, ZoneView},
};

use crate::{
    app::App,
    error::ApiError,
    names::{check_name, check_text},
    principal::Principal,
    store::zone::ZonePut,
};

/// Makes a zone. Needs the scope `admin`; `conflict` when there is one of that name.
pub async fn create_zone(app: &App, principal: &Principal, spec: ZoneSpec) -> Result<ZoneView, ApiError> {
    principal.require(Scope::Admin)?;
    check_zone(&spec)?;
    let name = spec.name.clone();
    let note = principal.note(AuditOperation::ZoneCreate, &name);
    match app.store.audited(note).zone_create(spec, app.clock.now()).await? {
        ZonePut::Done(zone) => {
            app.registry.put_zone(zone.clone());
            Ok(zone)
        }
        ZonePut::Exists | ZonePut::Absent | ZonePut::Stale(_) => {
            Err(ApiError::new(ErrorCode::Conflict, format!("there is a zone {name:?} already"))
                .with_hint("change it with PUT /v1/zones/{name} (gristmill zone set)"))
        }
    }
}

pub(super) fn check_zone(spec: &ZoneSpec) -> Result<(), ApiError> {
    check_name("/name", &spec.name)?;
    check_text("/description", &spec.description, 1_000)?;
    if spec.policy.tenants.len() > 10_000 {
        return Err(ApiError::field("/policy/tenants", "must be at most 10000 tenants"));
    }
    for (position, tenant) in spec.policy.tenants.iter().enumerate() {
        check_name(&format!("/policy/tenants/{position}"), tenant)?;
    }
    match spec.policy.slot_max {
        Some(slot) if slot.cpus_milli == 0 || slot.memory_bytes == 0 => {
            Err(ApiError::field("/policy/slot_max", "must have more than no cpu and no memory"))
        }
        _ => Ok(()),
    }
}
