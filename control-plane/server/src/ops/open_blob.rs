//! Read a blob.

use std::ops::Range;

use gristmill_protocol::{Digest, tenancy::Scope};

use crate::{app::App, blob::BlobRead, error::ApiError, principal::Principal};

/// Size in bytes of a blob that the tenant may see; else `not_found`. Needs the scope `read` or
/// `submit`.
pub async fn stat_blob(app: &App, principal: &Principal, digest: Digest) -> Result<u64, ApiError> {
    if !principal.may(Scope::Submit) {
        principal.require(Scope::Read)?;
    }
    let visible = app.store.blob_visible(&principal.tenant, &[digest]).await?;
    visible.get(&digest).copied().ok_or_else(|| ApiError::not_found("blob"))
}

/// Opens bytes whose visibility was checked before. Fails with `internal` when they are gone: a row
/// without bytes is a loss.
pub async fn open_bytes(app: &App, digest: Digest, range: Option<Range<u64>>) -> Result<BlobRead, ApiError> {
    app.blobs
        .open(digest, range)
        .await?
        .ok_or_else(|| ApiError::internal(anyhow::anyhow!("the bytes of {digest} are missing")))
}
