//! Which blobs there are and who may see them.

use std::collections::HashMap;

use async_trait::async_trait;
use gristmill_protocol::{Digest, JobId, Timestamp};

use super::StoreError;

/// Keeps the rows of blobs. The bytes are in the blob store and are durable before their row.
#[async_trait]
pub trait BlobRows {
    /// Records a blob and that the tenant brought its bytes. Idempotent; durable when it returns.
    async fn blob_record(
        &self,
        tenant: &str,
        digest: Digest,
        size: u64,
        at: Timestamp,
    ) -> Result<(), StoreError>;

    /// Records a blob that an attempt stored as an output. It becomes visible to the tenant with
    /// the attempt's accepted report only. Idempotent; durable when it returns.
    async fn blob_record_output(
        &self,
        job: JobId,
        attempt: u32,
        digest: Digest,
        size: u64,
        at: Timestamp,
    ) -> Result<(), StoreError>;

    /// The sizes of those blobs that the attempt may name as its outputs: it has stored their bytes
    /// itself, or the tenant has them already. They stay as long as the attempt lasts.
    async fn blob_output_sizes(
        &self,
        tenant: &str,
        job: JobId,
        attempt: u32,
        digests: &[Digest],
    ) -> Result<HashMap<Digest, u64>, StoreError>;

    /// The sizes of those blobs that the tenant may see: it brought the bytes itself, or one of
    /// its jobs made them, or they are a module version visible to it. A blob that is named here
    /// stays for at least half of the grace that unused blobs have, also if nothing refers to it.
    async fn blob_visible(
        &self,
        tenant: &str,
        digests: &[Digest],
    ) -> Result<HashMap<Digest, u64>, StoreError>;

    /// Number and bytes of all blobs.
    async fn blob_totals(&self) -> Result<(u64, u64), StoreError>;
}
