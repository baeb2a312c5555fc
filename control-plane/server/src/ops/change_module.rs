//! Change who may see a module, and deprecate versions.

use gristmill_protocol::{
    audit::AuditOperation,
    module::{ModulePatch, ModuleVersionPatch, ModuleVersionView, ModuleView},
    tenancy::Scope,
};

use super::get_module::owner_and_name;
use crate::{app::App, error::ApiError, principal::Principal};

fn own<'a>(principal: &'a Principal, name: &'a str) -> Result<&'a str, ApiError> {
    principal.require(Scope::Publish)?;
    let (owner, name) = owner_and_name(principal, name);
    if owner == principal.tenant { Ok(name) } else { Err(ApiError::not_found("module of this tenant")) }
}

/// Changes who may see and run a module of the caller's tenant. Needs the scope `publish`.
/// `precondition_failed` when `if_revision` is given and is not the present one.
pub async fn change_module(
    app: &App,
    principal: &Principal,
    name: &str,
    patch: ModulePatch,
    if_revision: Option<u64>,
) -> Result<ModuleView, ApiError> {
    let name = own(principal, name)?;
    let object = format!("{}:{name}", principal.tenant);
    app.store
        .audited(principal.note(AuditOperation::ModuleChange, object))
        .module_set_visibility(&principal.tenant, name, patch.visibility, if_revision)
        .await?
        .or_refused("module")
}

/// Marks a version as deprecated or not: it still runs when named, but `latest` skips it. Needs the
/// scope `publish`. `precondition_failed` as for a module.
pub async fn change_module_version(
    app: &App,
    principal: &Principal,
    name: &str,
    version: &str,
    patch: ModuleVersionPatch,
    if_revision: Option<u64>,
) -> Result<ModuleVersionView, ApiError> {
    let name = own(principal, name)?;
    let object = format!("{}:{name}@{version}", principal.tenant);
    app.store
        .audited(principal.note(AuditOperation::ModuleVersionChange, object))
        .module_version_set_deprecated(&principal.tenant, name, version, patch.deprecated, if_revision)
        .await?
        .or_refused("module version")
}
