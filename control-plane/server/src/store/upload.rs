//! Uploads that can be resumed, as they are kept. Their bytes are in files beside the blobs.

use async_trait::async_trait;
use gristmill_protocol::{Digest, Timestamp, TokenId, UploadId};

use super::StoreError;

/// An upload as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadRecord {
    /// The upload.
    pub id: UploadId,
    /// Who will see the blob.
    pub tenant: String,
    /// The token that began it.
    pub token: TokenId,
    /// Bytes that will come in all, once that is known.
    pub length: Option<u64>,
    /// Bytes that are durable in its file: the offset.
    pub received: u64,
    /// Digest that the bytes must have.
    pub declared: Option<Digest>,
    /// What the client said about the bytes, as it said it.
    pub metadata: Option<String>,
    /// Digest of the bytes, found when all had come.
    pub digest: Option<Digest>,
    /// When it became a blob.
    pub completed_at: Option<Timestamp>,
    /// When it was begun.
    pub created_at: Timestamp,
    /// When it is thrown away.
    pub expires_at: Timestamp,
}

/// How much the unfinished uploads of one tenant may be. A known length counts whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadRoom {
    /// Most of them.
    pub count_max: u64,
    /// Most bytes in all.
    pub bytes_max: u64,
}

/// Progress of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadStep {
    /// The upload.
    pub id: UploadId,
    /// Its offset before.
    pub from: u64,
    /// Its offset afterwards; these bytes are durable.
    pub to: u64,
    /// Its length, if it has become known; it must not contradict one that was known before.
    pub length: Option<u64>,
    /// When it is thrown away now.
    pub expires_at: Timestamp,
}

/// What became of a change to an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadPut {
    /// It was made or changed.
    Done(Box<UploadRecord>),
    /// It is gone, complete, or at another offset; nothing was changed.
    Stale,
    /// The tenant has this many unfinished uploads, as many as it may.
    TooMany(u64),
    /// The tenant's unfinished uploads would hold this many bytes, more than they may.
    TooMuch(u64),
}

/// Keeps uploads. Every change is durable when it returns.
#[async_trait]
pub trait UploadStore {
    /// Begins an upload: `Done`, `TooMany` or `TooMuch`.
    async fn upload_create(&self, upload: UploadRecord, room: UploadRoom) -> Result<UploadPut, StoreError>;

    /// One upload, expired ones included.
    async fn upload_get(&self, id: UploadId) -> Result<Option<UploadRecord>, StoreError>;

    /// Unfinished uploads of a tenant, by id; of one token alone if it is given.
    async fn upload_list(
        &self,
        tenant: &str,
        token: Option<TokenId>,
    ) -> Result<Vec<UploadRecord>, StoreError>;

    /// Moves an upload on: `Done`, `Stale` or `TooMuch`.
    async fn upload_advance(&self, step: UploadStep, room: UploadRoom) -> Result<UploadPut, StoreError>;

    /// Notes the digest of all bytes, and with it that no more will come. `Done` or `Stale`.
    async fn upload_seal(&self, id: UploadId, digest: Digest) -> Result<UploadPut, StoreError>;

    /// Turns a sealed upload into a blob that its tenant may see, both or neither. The bytes are in
    /// the blob store already. A second call changes nothing. `Done` or `Stale`.
    async fn upload_complete(&self, id: UploadId, at: Timestamp) -> Result<UploadPut, StoreError>;

    /// Forgets an upload. `false` when there is none.
    async fn upload_delete(&self, id: UploadId) -> Result<bool, StoreError>;

    /// Uploads that are to be thrown away at a time, at most `limit`.
    async fn upload_due(&self, now: Timestamp, limit: u32) -> Result<Vec<UploadId>, StoreError>;
}
