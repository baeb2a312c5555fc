//! Find the module that a job names, and say what is wrong with a name that finds none.

use gristmill_protocol::{Digest, ErrorCode, FieldError, module::ModuleView};

use crate::{app::App, error::ApiError, principal::Principal, store::module::ResolvedModule};

/// Most other owners that a hint names.
const OWNERS_SHOWN: u32 = 3;

/// What `NAME`, `NAME@VERSION`, `OWNER:NAME[@VERSION]` or `sha256:…` stands for. Fails with
/// `not_found` on `/module`; the text tells a missing module, a missing version and a module with
/// nothing but deprecated versions apart.
pub(super) async fn resolve_module(
    app: &App,
    who: &Principal,
    reference: &str,
) -> Result<ResolvedModule, ApiError> {
    match app.store.module_resolve(&who.tenant, reference).await? {
        Some(module) => Ok(module),
        None => Err(why_not(app, who, reference).await?),
    }
}

async fn why_not(app: &App, who: &Principal, reference: &str) -> Result<ApiError, ApiError> {
    let absent = || {
        let detail = format!("there is no module {reference:?}, or this token may not see it");
        not_found(detail, "gristmill module list shows what there is; gristmill module publish adds to it")
    };
    if reference.parse::<Digest>().is_ok() {
        return Ok(absent());
    }
    let (module, version) = match reference.split_once('@') {
        Some((module, version)) => (module, Some(version).filter(|version| *version != "latest")),
        None => (reference, None),
    };
    let (owner, name) = module.split_once(':').unwrap_or((&who.tenant, module));
    if let Some(found) = app.store.module_get(&who.tenant, owner, name).await? {
        return Ok(no_version(module, version, &found));
    }
    if module.contains(':') {
        return Ok(absent());
    }
    let others = app.store.module_public_owners(&who.tenant, name, OWNERS_SHOWN).await?;
    if others.is_empty() {
        return Ok(absent());
    }
    let names: Vec<_> = others.iter().map(|owner| format!("{owner}:{name}")).collect();
    let hint =
        format!("another tenant published one for all; name it with its owner: {}", names.join(" or "));
    Ok(absent().with_hint(hint))
}

/// The module is there, the version is not.
fn no_version(module: &str, version: Option<&str>, found: &ModuleView) -> ApiError {
    // Versions come newest first.
    let newest = found.latest.as_deref().or(found.versions.first().map(|version| version.version.as_str()));
    let newest = newest.unwrap_or_default();
    match version {
        Some(version) => not_found(
            format!("module {module} has no version {version:?}"),
            format!("the newest is {module}@{newest}"),
        ),
        None => not_found(
            format!("every version of {module} is deprecated; name one: {module}@{newest}"),
            "a version that is named runs although it is deprecated; gristmill module show lists them",
        ),
    }
}

fn not_found(detail: String, hint: impl Into<String>) -> ApiError {
    let mut error = ApiError::new(ErrorCode::NotFound, detail.clone()).with_hint(hint);
    error.errors.push(FieldError { pointer: "/module".into(), detail });
    error
}
