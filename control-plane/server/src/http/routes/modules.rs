//! Modules and blobs.

use gristmill_protocol::{
    Digest,
    ErrorCode::{
        DigestMismatch, ImportNotAllowed, ModuleInvalid, ModuleNoEntry, ModuleTooComplex, ModuleTooLarge,
        NotFound, UnsupportedFeature, VersionExists,
    },
    Page,
    module::{BlobView, ModulePatch, ModuleVersionPatch, ModuleVersionView, ModuleView},
    tenancy::Scope,
};

use crate::http::{
    extract::PageQuery,
    openapi::{
        Operation, Tag, group,
        words::{AnyDigest, ModuleName, OwnModuleName, Version},
    },
    user::{blobs, modules},
};

const NAME: &str = "Name of the module, as `OWNER:NAME` when another tenant owns it.";
const OWN_NAME: &str = "Name of a module of the caller's tenant.";
const VERSION: &str = "Semantic version 2.0.0.";

pub(super) fn operations() -> Vec<Operation> {
    let mut all = group(Tag::Modules, [reading(), publishing()].concat());
    all.extend(group(Tag::Blobs, blob_operations()));
    all
}

fn reading() -> Vec<Operation> {
    vec![
        Operation::get("/v1/modules", modules::list)
            .named(
                "listModules",
                "List modules",
                "Modules that the caller may run, by name, without their versions.",
            )
            .needs(Scope::Read)
            .query::<PageQuery>()
            .answers::<Page<ModuleView>>(200, "One page."),
        Operation::get("/v1/modules/{name}", modules::get)
            .named("getModule", "Show a module", "A module with all of its versions, the newest first.")
            .needs(Scope::Read)
            .at::<ModuleName>("name", NAME)
            .answers::<ModuleView>(200, "The module.")
            .tagged()
            .refuses(&[NotFound]),
        Operation::get("/v1/modules/{name}/versions/{version}", modules::get_version)
            .named(
                "getModuleVersion",
                "Show a version",
                "What the server read from the bytes: contract, imports, exports, features, params schema.",
            )
            .needs(Scope::Read)
            .at::<ModuleName>("name", NAME)
            .at::<Version>("version", VERSION)
            .answers::<ModuleVersionView>(200, "The version.")
            .tagged()
            .refuses(&[NotFound]),
        Operation::get("/v1/modules/{name}/versions/{version}/wasm", modules::wasm)
            .named("getModuleWasm", "Download a version", "The module's bytes, unchanged.")
            .needs(Scope::Read)
            .at::<ModuleName>("name", NAME)
            .at::<Version>("version", VERSION)
            .downloads(Some("headModuleWasm"))
            .refuses(&[NotFound]),
    ]
}

fn publishing() -> Vec<Operation> {
    vec![
        Operation::put("/v1/modules/{name}/versions/{version}", modules::publish)
            .named("publishModule", "Publish a version", "The body is the module: a WASI preview 1 command or a WASI 0.2 command component of at most 256 MiB. A version is immutable: the same bytes again change nothing, other bytes are `version_exists`.")
            .needs(Scope::Publish)
            .at::<OwnModuleName>("name", OWN_NAME)
            .at::<Version>("version", VERSION)
            .query::<modules::PublishQuery>()
            .header::<AnyDigest>("repr-digest", "The SHA-256 of the module (RFC 9530); bytes that do not have it are refused. Other algorithms are passed over.")
            .takes_bytes(&["application/wasm", "application/octet-stream"], "The module's bytes.")
            .answers::<ModuleVersionView>(201, "Published.")
            .tagged()
            .located()
            .answers::<ModuleVersionView>(200, "These bytes were published under this version before.")
            .tagged()
            .refuses(&[ModuleInvalid, ModuleTooLarge, ModuleTooComplex, ModuleNoEntry, ImportNotAllowed, UnsupportedFeature, VersionExists,
                NotFound, DigestMismatch]),
        Operation::patch("/v1/modules/{name}", modules::change)
            .named("changeModule", "Change who may run a module", "For modules of the caller's tenant.")
            .needs(Scope::Publish)
            .at::<OwnModuleName>("name", OWN_NAME)
            .takes::<ModulePatch>()
            .under_condition()
            .answers::<ModuleView>(200, "The module as it is now.")
            .tagged()
            .refuses(&[NotFound]),
        Operation::patch("/v1/modules/{name}/versions/{version}", modules::change_version)
            .named("changeModuleVersion", "Deprecate a version", "Whoever names no version no longer gets it; it still runs when named.")
            .needs(Scope::Publish)
            .at::<OwnModuleName>("name", OWN_NAME)
            .at::<Version>("version", VERSION)
            .takes::<ModuleVersionPatch>()
            .under_condition()
            .answers::<ModuleVersionView>(200, "The version as it is now.")
            .tagged()
            .refuses(&[NotFound]),
    ]
}

fn blob_operations() -> Vec<Operation> {
    vec![
        Operation::put("/v1/blobs/{digest}", blobs::put)
            .named("putBlob", "Upload bytes", "At most 64 GiB, streamed. They are durable when this answers, and a repeated upload changes nothing. What may break off is better sent to `/v1/uploads`.")
            .needs(Scope::Submit)
            .at::<Digest>("digest", "SHA-256 of the body.")
            .takes_bytes(&["application/octet-stream"], "The bytes.")
            .answers::<BlobView>(201, "The bytes are there.")
            .located()
            .refuses(&[DigestMismatch]),
        Operation::get("/v1/blobs/{digest}", blobs::get)
            .named("getBlob", "Download bytes", "Bytes that the tenant uploaded or that one of its jobs made; anything else is `not_found`.")
            .needs(Scope::Read)
            .at::<Digest>("digest", "SHA-256 of the bytes.")
            .downloads(Some("headBlob"))
            .refuses(&[NotFound]),
    ]
}
