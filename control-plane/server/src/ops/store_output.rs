//! Store the bytes of an attempt's output.

use bytes::Bytes;
use futures_util::Stream;
use gristmill_protocol::{Digest, JobId, limits::BLOB_BYTES_MAX, module::BlobView, node_api::LeaseRef};

use crate::{app::App, blob::BodyError, error::ApiError};

/// Stores an output of an attempt whose lease was checked before. It becomes visible with the
/// attempt's accepted report only. Durable when it returns; the same bytes again change nothing.
/// `bytes_max` is what the job's limits leave.
pub async fn store_output<E: Into<BodyError>>(
    app: &App,
    lease: &LeaseRef,
    digest: Digest,
    bytes_max: u64,
    body: impl Stream<Item = Result<Bytes, E>> + Send,
) -> Result<BlobView, ApiError> {
    let stored = app.blobs.put_stream(body, digest, bytes_max.min(BLOB_BYTES_MAX)).await?;
    app.store.blob_record_output(lease.job, lease.attempt, digest, stored.size, app.clock.now()).await?;
    Ok(BlobView { digest, size: stored.size })
}

/// Size in bytes of an output that the attempt has stored before, or that its tenant may see
/// anyway; else `not_found`: that somebody else has these bytes is nobody's business. What is there
/// stays as long as the attempt lasts.
pub async fn stat_output(
    app: &App,
    tenant: &str,
    job: JobId,
    attempt: u32,
    digest: Digest,
) -> Result<u64, ApiError> {
    let sizes = app.store.blob_output_sizes(tenant, job, attempt, &[digest]).await?;
    sizes.get(&digest).copied().ok_or_else(|| ApiError::not_found("stored output"))
}
