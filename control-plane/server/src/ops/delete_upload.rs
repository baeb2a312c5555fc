//! Throw uploads away: when asked to, and when they have expired.

use gristmill_protocol::{UploadId, audit::AuditOperation};

use super::get_upload::visible_upload;
use crate::{app::App, blob::BlobError, error::ApiError, principal::Principal, store::audit::AuditNote};

/// Uploads that are looked at in one round.
const PAGE: u32 = 200;

/// Throws an upload away; a piece that is still on its way is cut off. The blob that a complete one
/// has become stays. Durable when it returns.
pub async fn delete_upload(app: &App, who: &Principal, id: UploadId) -> Result<(), ApiError> {
    visible_upload(app, who, id).await?;
    let _turn = app.uploads.take(id).await;
    visible_upload(app, who, id).await?;
    discard_upload(app, who, id).await
}

/// Throws an upload away whose turn the caller has, for the reason that this request gives.
pub(super) async fn discard_upload(app: &App, who: &Principal, id: UploadId) -> Result<(), ApiError> {
    remove(app, id, who.note(AuditOperation::UploadDelete, id)).await
}

/// The row goes first: a file without a row is found and removed later, a row without its file would
/// promise bytes that are not there.
async fn remove(app: &App, id: UploadId, note: AuditNote) -> Result<(), ApiError> {
    app.store.audited(note).upload_delete(id).await?;
    app.uploads.forget(id);
    Ok(app.blobs.uploads().remove(id).await.map_err(BlobError::Staging)?)
}

/// Throws away uploads that have expired, except those that somebody works on right now. Returns
/// their number.
pub async fn expire_uploads(app: &App) -> Result<u64, ApiError> {
    let mut total = 0;
    for id in app.store.upload_due(app.clock.now(), PAGE).await? {
        let Some(_turn) = app.uploads.try_take(id) else { continue };
        let now = app.clock.now();
        if app.store.upload_get(id).await?.is_some_and(|upload| upload.expires_at <= now) {
            remove(app, id, AuditNote::of_server(AuditOperation::UploadDelete, id)).await?;
            total += 1;
        }
    }
    Ok(total)
}

/// Removes files of uploads that are not known any more: a crash came between the row and the file.
/// Returns their number.
pub async fn remove_lost_uploads(app: &App) -> Result<u64, ApiError> {
    let mut total = 0;
    for id in app.blobs.uploads().list().await.map_err(BlobError::Staging)? {
        if app.store.upload_get(id).await?.is_none() {
            app.blobs.uploads().remove(id).await.map_err(BlobError::Staging)?;
            total += 1;
        }
    }
    Ok(total)
}
