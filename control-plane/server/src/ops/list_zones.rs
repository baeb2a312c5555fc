//! List zones.

use gristmill_protocol::zone::ZoneView;

use crate::{app::App, error::ApiError, principal::Principal};

/// Whether the caller may see a zone: it admits the caller's tenant, or the caller is an admin.
fn is_visible(principal: &Principal, zone: &ZoneView) -> bool {
    let tenants = &zone.policy.tenants;
    principal.is_admin() || tenants.is_empty() || tenants.contains(&principal.tenant)
}

/// Every zone that the caller may see, by name.
pub fn list_zones(app: &App, principal: &Principal) -> Vec<ZoneView> {
    let zones = app.registry.zones();
    zones.iter().filter(|zone| is_visible(principal, zone)).map(|zone| (**zone).clone()).collect()
}

/// One zone that the caller may see.
pub fn get_zone(app: &App, principal: &Principal, name: &str) -> Result<ZoneView, ApiError> {
    app.registry
        .zone(name)
        .filter(|zone| is_visible(principal, zone))
        .map(|zone| (*zone).clone())
        .ok_or_else(|| ApiError::not_found("zone"))
}
