//! Store bytes.

use bytes::Bytes;
use futures_util::Stream;
use gristmill_protocol::{
    Digest, ErrorCode, audit::AuditOperation, limits::BLOB_BYTES_MAX, module::BlobView, tenancy::Scope,
};

use crate::{
    app::App,
    blob::{BlobError, BodyError},
    error::ApiError,
    principal::Principal,
};

impl From<BlobError> for ApiError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::TooLarge { max_bytes } => {
                Self::new(ErrorCode::BodyTooLarge, format!("the body is larger than {max_bytes} bytes"))
            }
            BlobError::DigestMismatch { found } => {
                Self::new(ErrorCode::DigestMismatch, format!("the bytes that came have the digest {found}"))
                    .with_hint("name the digest of the bytes themselves; if it is right, send them again")
            }
            BlobError::Body(_) => {
                let mut answer =
                    Self::new(ErrorCode::InvalidRequest, "the body ended early or came too slowly")
                        .with_hint("send the whole body again, without long pauses");
                answer.source = Some(error.into());
                answer
            }
            BlobError::Damaged { .. } | BlobError::Staging(_) | BlobError::Backend(_) => {
                Self::internal(error)
            }
        }
    }
}

/// Stores a blob under its digest and lets the tenant see it. Needs the scope `submit` or `publish`.
/// Durable when it returns; the same bytes again change nothing. When the caller goes away, what
/// came is thrown away.
pub async fn put_blob<E: Into<BodyError>>(
    app: &App,
    principal: &Principal,
    digest: Digest,
    body: impl Stream<Item = Result<Bytes, E>> + Send,
) -> Result<BlobView, ApiError> {
    if !principal.may(Scope::Publish) {
        principal.require(Scope::Submit)?;
    }
    let stored = app.blobs.put_stream(body, digest, BLOB_BYTES_MAX).await?;
    let note = principal.note(AuditOperation::BlobPut, digest);
    app.store.audited(note).blob_record(&principal.tenant, digest, stored.size, app.clock.now()).await?;
    Ok(BlobView { digest, size: stored.size })
}
