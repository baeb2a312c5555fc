//! Begin an upload that can be resumed.

use gristmill_protocol::{
    Digest, ErrorCode, Timestamp, UploadId, audit::AuditOperation, limits::BLOB_BYTES_MAX, tenancy::Scope,
};

use super::finish_upload::finish_upload;
use crate::{
    app::App,
    error::ApiError,
    principal::Principal,
    store::upload::{UploadPut, UploadRecord, UploadRoom},
};

/// What is known of an upload at its beginning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewUpload {
    /// Bytes that will come in all.
    pub length: Option<u64>,
    /// The digest that they must have.
    pub declared: Option<Digest>,
    /// What the client says about them, to be given back as it is.
    pub metadata: Option<String>,
}

/// Begins an upload. Needs the scope `submit` or `publish`. Durable when it returns. Fails with
/// `upload_limit` when the tenant has too many unfinished uploads, or too many bytes in them. One of no
/// bytes is complete at once.
pub async fn create_upload(app: &App, who: &Principal, new: NewUpload) -> Result<UploadRecord, ApiError> {
    require(who)?;
    check_length(new.length)?;
    let now = app.clock.now();
    let upload = UploadRecord {
        id: UploadId::from_parts(app.unix_ms(), app.entropy.bytes()),
        tenant: who.tenant.clone(),
        token: who.token,
        length: new.length,
        received: 0,
        declared: new.declared,
        metadata: new.metadata,
        digest: None,
        completed_at: None,
        created_at: now,
        expires_at: expiry(app, now),
    };
    let note = who.note(AuditOperation::UploadCreate, upload.id);
    let upload = done(app.store.audited(note).upload_create(upload, room(app)).await?)?;
    if upload.length == Some(0) {
        let mut turn = app.uploads.take(upload.id).await;
        return finish_upload(app, who, &mut turn, upload).await;
    }
    Ok(upload)
}

/// Uploads are for whoever may store blobs.
pub(super) fn require(who: &Principal) -> Result<(), ApiError> {
    if who.may(Scope::Publish) { Ok(()) } else { who.require(Scope::Submit) }
}

/// Fails with `body_too_large` for a length that no blob can have.
pub(super) fn check_length(length: Option<u64>) -> Result<(), ApiError> {
    if length.is_none_or(|length| length <= BLOB_BYTES_MAX) {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::BodyTooLarge, format!("a blob has at most {BLOB_BYTES_MAX} bytes"))
        .with_hint("split the data, for example into several inputs"))
}

pub(super) fn room(app: &App) -> UploadRoom {
    UploadRoom {
        count_max: app.settings.upload_count_tenant_max,
        bytes_max: app.settings.upload_bytes_tenant_max,
    }
}

/// When an upload that was begun at a time and makes progress now is thrown away.
pub(super) fn expiry(app: &App, created_at: Timestamp) -> Timestamp {
    (app.clock.now() + app.settings.upload_ttl).min(created_at + app.settings.upload_age_max)
}

/// The record of a change that was made, or why it was not.
pub(super) fn done(put: UploadPut) -> Result<UploadRecord, ApiError> {
    let limit = |detail: String| {
        let mut error = ApiError::new(ErrorCode::UploadLimit, detail).with_hint(
            "finish or delete unfinished uploads (GET and DELETE /v1/uploads), or wait until they expire",
        );
        error.retry_after_s = Some(600);
        Err(error)
    };
    match put {
        UploadPut::Done(upload) => Ok(*upload),
        UploadPut::Stale => Err(gone()),
        UploadPut::TooMany(count) => limit(format!("the tenant has {count} unfinished uploads already")),
        UploadPut::TooMuch(bytes) => {
            limit(format!("the tenant's unfinished uploads would hold {bytes} bytes, more than it may have"))
        }
    }
}

/// The upload never was, is over, or belongs to somebody else.
pub(super) fn gone() -> ApiError {
    ApiError::not_found("upload").with_hint("begin a new one: POST /v1/uploads")
}
