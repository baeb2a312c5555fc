//! Turn an upload all of whose bytes have come into a blob.

use gristmill_protocol::{ErrorCode, audit::AuditOperation};

use super::{
    create_upload::{done, gone},
    delete_upload::discard_upload,
};
use crate::{
    app::App, blob::BlobError, error::ApiError, principal::Principal, store::upload::UploadRecord,
    upload_desk::UploadTurn,
};

/// Turns an upload into a blob that its tenant may see. Its digest is written down first, so that
/// whatever dies in between, a second call completes it. Fails with `digest_mismatch`, and throws
/// the upload away, when the bytes do not have the digest that was declared. Durable when it returns.
pub(super) async fn finish_upload(
    app: &App,
    who: &Principal,
    turn: &mut UploadTurn,
    upload: UploadRecord,
) -> Result<UploadRecord, ApiError> {
    if upload.completed_at.is_some() {
        return Ok(upload);
    }
    let upload = if upload.digest.is_some() { upload } else { seal(app, who, turn, upload).await? };
    let Some(digest) = upload.digest else { return Err(gone()) };
    // Held until the store has the blob's row, which keeps the bytes from then on.
    let Some(_stored) = app.blobs.adopt_upload(upload.id, digest, upload.received).await? else {
        discard_upload(app, who, upload.id).await?;
        return Err(lost());
    };
    let note = who.note(AuditOperation::BlobPut, digest);
    let upload = done(app.store.audited(note).upload_complete(upload.id, app.clock.now()).await?)?;
    app.uploads.forget(upload.id);
    Ok(upload)
}

/// The file has not the bytes that were claimed of it.
pub(super) fn lost() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "the server has lost bytes of this upload and has given it up")
        .with_hint("begin a new one: POST /v1/uploads")
}

async fn seal(
    app: &App,
    who: &Principal,
    turn: &mut UploadTurn,
    upload: UploadRecord,
) -> Result<UploadRecord, ApiError> {
    let running = turn.take_hash().filter(|hash| hash.at() == upload.received);
    let found = match running {
        Some(hash) => Some(hash.digest()),
        None if upload.received == 0 => Some(crate::upload_files::RunningHash::begin().digest()),
        // After a restart the bytes are read once more.
        None => app
            .blobs
            .uploads()
            .digest(upload.id, upload.received, &app.shutdown)
            .await
            .map_err(BlobError::Staging)?,
    };
    let Some(found) = found else {
        if app.shutdown.is_cancelled() {
            return Err(crate::store::StoreError::Closed.into());
        }
        discard_upload(app, who, upload.id).await?;
        return Err(lost());
    };
    if upload.declared.is_some_and(|declared| declared != found) {
        discard_upload(app, who, upload.id).await?;
        return Err(BlobError::DigestMismatch { found }.into());
    }
    if upload.received == 0 {
        drop(app.blobs.put_bytes(found, bytes::Bytes::new()).await?);
    }
    done(app.store.upload_seal(upload.id, found).await?)
}
