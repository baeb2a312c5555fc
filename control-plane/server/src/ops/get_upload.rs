//! Show how far uploads have come.

use gristmill_protocol::{Page, UploadId, upload::UploadView};

use super::{
    create_upload::{gone, require},
    finish_upload::finish_upload,
};
use crate::{app::App, error::ApiError, principal::Principal, store::upload::UploadRecord};

/// How far an upload has come. A piece that is still on its way is cut off first, so that the offset
/// is the one at which the next piece has to begin. An upload all of whose bytes have come is turned
/// into a blob if a failure had kept it from that. Uploads of other tokens are `not_found`, except
/// to an admin.
pub async fn get_upload(app: &App, who: &Principal, id: UploadId) -> Result<UploadRecord, ApiError> {
    let upload = visible_upload(app, who, id).await?;
    if upload.completed_at.is_some() {
        return Ok(upload);
    }
    let mut turn = app.uploads.take(id).await;
    let upload = visible_upload(app, who, id).await?;
    if upload.digest.is_some() || upload.length == Some(upload.received) {
        return finish_upload(app, who, &mut turn, upload).await;
    }
    Ok(upload)
}

/// The caller's unfinished uploads, oldest first, without disturbing them; an admin sees those of all
/// tokens of the tenant.
pub async fn list_uploads(app: &App, who: &Principal) -> Result<Page<UploadView>, ApiError> {
    require(who)?;
    let token = (!who.is_admin()).then_some(who.token);
    let uploads = app.store.upload_list(&who.tenant, token).await?;
    let now = app.clock.now();
    let items = uploads.iter().filter(|upload| upload.expires_at > now).map(upload_view).collect();
    Ok(Page { items, next_page_token: None })
}

/// An upload as the API shows it.
pub fn upload_view(upload: &UploadRecord) -> UploadView {
    UploadView {
        id: upload.id,
        offset: upload.received,
        length: upload.length,
        complete: upload.completed_at.is_some(),
        digest: upload.digest.filter(|_| upload.completed_at.is_some()),
        created_at: upload.created_at,
        expires_at: upload.expires_at,
    }
}

/// An upload that the caller may work on; `not_found` otherwise.
pub(super) async fn visible_upload(
    app: &App,
    who: &Principal,
    id: UploadId,
) -> Result<UploadRecord, ApiError> {
    require(who)?;
    let now = app.clock.now();
    app.store
        .upload_get(id)
        .await?
        .filter(|upload| upload.expires_at > now)
        .filter(|upload| upload.tenant == who.tenant && (upload.token == who.token || who.is_admin()))
        .ok_or_else(gone)
}
