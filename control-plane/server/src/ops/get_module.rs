//! Show modules and their versions.

use gristmill_protocol::{
    Page,
    module::{ModuleVersionView, ModuleView},
    tenancy::Scope,
};

use crate::{app::App, error::ApiError, paging, principal::Principal};

/// Splits `OWNER:NAME`; without an owner the name is the caller's own.
pub(super) fn owner_and_name<'a>(principal: &'a Principal, name: &'a str) -> (&'a str, &'a str) {
    name.split_once(':').unwrap_or((principal.tenant.as_str(), name))
}

/// A module that the tenant may see, with all its versions, newest first. Needs the scope `read`.
pub async fn get_module(app: &App, principal: &Principal, name: &str) -> Result<ModuleView, ApiError> {
    principal.require(Scope::Read)?;
    let (owner, name) = owner_and_name(principal, name);
    app.store.module_get(&principal.tenant, owner, name).await?.ok_or_else(|| ApiError::not_found("module"))
}

/// One version of a module that the tenant may see. Needs the scope `read`.
pub async fn get_module_version(
    app: &App,
    principal: &Principal,
    name: &str,
    version: &str,
) -> Result<ModuleVersionView, ApiError> {
    principal.require(Scope::Read)?;
    let (owner, name) = owner_and_name(principal, name);
    app.store
        .module_version_get(&principal.tenant, owner, name, version)
        .await?
        .ok_or_else(|| ApiError::not_found("module version"))
}

/// Modules that the tenant may see, by owner and name, without their versions. Needs the scope
/// `read`.
pub async fn list_modules(
    app: &App,
    principal: &Principal,
    page_size: Option<u32>,
    page_token: Option<&str>,
) -> Result<Page<ModuleView>, ApiError> {
    principal.require(Scope::Read)?;
    let size = paging::page_size(page_size)?;
    let after = page_token.map(|token| paging::page_key("modules", token)).transpose()?;
    let after = after.and_then(|key| {
        let (owner, name) = key.split_once(':')?;
        Some((owner.to_owned(), name.to_owned()))
    });
    let modules = app.store.module_list(&principal.tenant, after, size + 1).await?;
    Ok(paging::page("modules", modules, size, |module| format!("{}:{}", module.owner, module.name)))
}
