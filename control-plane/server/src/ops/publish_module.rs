//! Publish a version of a module.

use bytes::Bytes;
use futures_util::Stream;
use gristmill_inspect::{InspectError, PARAMS_SCHEMA_BYTES_MAX, inspect_file, params_schema_json};
use gristmill_protocol::{
    Digest, ErrorCode,
    audit::AuditOperation,
    limits::MODULE_BYTES_MAX,
    module::{ModuleMetadata, ModuleVersionView},
    tenancy::Scope,
};

use crate::{
    app::App,
    blob::{BlobError, BodyError, StagedBlob},
    error::ApiError,
    job_rules::check_params_schema,
    names::check_name,
    principal::Principal,
    store::module::{ModuleVersionPut, ModuleVersionSpec},
};

const VERSION_BYTES_MAX: usize = 128;

/// What became of a module that was sent.
#[derive(Debug)]
pub struct Published {
    /// The version.
    pub version: ModuleVersionView,
    /// Whether it is new; else the same bytes were published before.
    pub is_new: bool,
}

/// Stores, inspects and publishes a version. Needs the scope `publish`. The params schema is that of
/// the module's own section unless `params_schema` names a blob with one. Bytes that have not the digest
/// `declared`, if there is one, are refused with `digest_mismatch`. Durable when it returns.
/// A refused module leaves nothing behind, nor do other bytes for a version that is there already,
/// nor a caller who goes away before the bytes were checked. Of two publishes of one new version at
/// the same moment, one is refused after its bytes were stored; these then belong to nobody.
pub async fn publish_module<E: Into<BodyError>>(
    app: &App,
    principal: &Principal,
    name: &str,
    version: &str,
    params_schema: Option<Digest>,
    declared: Option<Digest>,
    body: impl Stream<Item = Result<Bytes, E>> + Send,
) -> Result<Published, ApiError> {
    principal.require(Scope::Publish)?;
    check_name("name", name)?;
    let version = check_version(version)?;
    let staged = app.blobs.stage(body, MODULE_BYTES_MAX).await.map_err(|error| match error {
        BlobError::TooLarge { max_bytes } => {
            ApiError::new(ErrorCode::ModuleTooLarge, format!("the module is larger than {max_bytes} bytes"))
                .with_hint("leave debug information out (strip it), or give data as an input instead")
        }
        other => other.into(),
    })?;
    if declared.is_some_and(|declared| declared != staged.digest()) {
        return Err(BlobError::DigestMismatch { found: staged.digest() }.into());
    }
    let (staged, mut metadata) = inspect_staged(app, staged).await?;
    if let Some(digest) = params_schema {
        metadata.params_schema = Some(read_schema(app, principal, digest).await?);
    }
    let spec = ModuleVersionSpec {
        owner: principal.tenant.clone(),
        name: name.to_owned(),
        version,
        digest: staged.digest(),
        size: staged.size(),
        metadata,
        published_by: principal.token.to_string(),
        created_at: app.clock.now(),
    };
    // Bytes are stored only when a version will own them.
    let (owner, number) = (&principal.tenant, spec.version.to_string());
    if let Some(found) = app.store.module_version_get(owner, owner, name, &number).await? {
        return if spec.is_same_as(&found) {
            Ok(Published { version: found, is_new: false })
        } else {
            Err(exists(name, &found))
        };
    }
    let _stored = app.blobs.commit(staged).await?;
    let note = principal.note(AuditOperation::ModulePublish, format!("{owner}:{name}@{number}"));
    match app.store.audited(note).module_version_put(spec).await? {
        ModuleVersionPut::Created(version) => Ok(Published { version, is_new: true }),
        ModuleVersionPut::Same(version) => Ok(Published { version, is_new: false }),
        ModuleVersionPut::Other(found) => Err(exists(name, &found)),
    }
}

fn exists(name: &str, found: &ModuleVersionView) -> ApiError {
    let detail = format!(
        "{name}@{} was published before with other bytes or another params schema ({})",
        found.version, found.digest
    );
    ApiError::new(ErrorCode::VersionExists, detail)
        .with_hint("versions never change: publish under a new version")
}

fn check_version(text: &str) -> Result<semver::Version, ApiError> {
    let invalid = |detail: String| {
        ApiError::field("version", detail).with_hint("use a semantic version such as 1.4.0 or 2.0.0-rc.1")
    };
    if text.len() > VERSION_BYTES_MAX {
        return Err(invalid(format!("must be at most {VERSION_BYTES_MAX} characters long")));
    }
    semver::Version::parse(text).map_err(|error| invalid(format!("is no semantic version: {error}")))
}

/// Inspects on a thread that may block; as many at a time as there are permits, since each may take
/// a core for seconds.
async fn inspect_staged(app: &App, staged: StagedBlob) -> Result<(StagedBlob, ModuleMetadata), ApiError> {
    let _permit = app.inspections.acquire().await.map_err(ApiError::internal)?;
    tokio::task::spawn_blocking(move || {
        // Nobody changes a staged file any more: it is private to this process.
        let metadata = inspect_file(staged.path()).map_err(|error| match error {
            InspectError::Refused(refusal) => refusal.into(),
            InspectError::Unreadable(error) => ApiError::internal(error),
        })?;
        if let Some(schema) = &metadata.params_schema {
            check_params_schema(schema)?;
        }
        Ok((staged, metadata))
    })
    .await
    .map_err(ApiError::internal)?
}

async fn read_schema(
    app: &App,
    principal: &Principal,
    digest: Digest,
) -> Result<serde_json::Value, ApiError> {
    let visible = app.store.blob_visible(&principal.tenant, &[digest]).await?;
    let absent = || ApiError::absent("params_schema_digest", "there is no such blob; upload it first");
    visible.get(&digest).ok_or_else(absent)?;
    let bytes = app.blobs.read(digest, PARAMS_SCHEMA_BYTES_MAX as u64).await?;
    let schema = params_schema_json(&bytes.ok_or_else(absent)?)?;
    check_params_schema(&schema)?;
    Ok(schema)
}
