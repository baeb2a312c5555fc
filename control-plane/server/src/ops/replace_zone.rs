//! Change a zone.

use gristmill_protocol::{
    audit::AuditOperation,
    tenancy::Scope,
    zone::{ZoneSpec, ZoneView},
};

use super::create_zone::check_zone;
use crate::{app::App, error::ApiError, principal::Principal, store::zone::ZonePut, wake::Topic};

/// A version that no thing has: versions begin with 1.
pub const NO_VERSION: u64 = 0;

/// Replaces a zone's description and policy. Needs the scope `admin`. `precondition_failed` when
/// `if_versions` are given and the present version is none of them.
pub async fn replace_zone(
    app: &App,
    principal: &Principal,
    spec: ZoneSpec,
    if_versions: Option<&[u64]>,
) -> Result<ZoneView, ApiError> {
    principal.require(Scope::Admin)?;
    check_zone(&spec)?;
    let found = app.registry.zone(&spec.name).map(|zone| zone.version);
    let if_version =
        if_versions.map(|versions| found.filter(|version| versions.contains(version)).unwrap_or(NO_VERSION));
    let note = principal.note(AuditOperation::ZoneReplace, &spec.name).found(found);
    match app.store.audited(note).zone_replace(spec, if_version).await? {
        ZonePut::Done(zone) => {
            app.registry.put_zone(zone.clone());
            // Nodes that wait for work wait under the former policy.
            for node in app.registry.nodes().iter().filter(|node| node.record.zone == zone.name) {
                app.wakes.wake(Topic::Node(node.record.id));
            }
            Ok(zone)
        }
        ZonePut::Stale(zone) => Err(ApiError::stale("zone", zone.version)),
        ZonePut::Absent | ZonePut::Exists => Err(ApiError::not_found("zone")),
    }
}
