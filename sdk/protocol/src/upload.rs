//! Uploads that can be resumed, as the API shows them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Digest, Timestamp, UploadId};

/// An upload: bytes that come in pieces, each appended where the last one ended, until they are a
/// blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UploadView {
    /// The upload's name.
    pub id: UploadId,
    /// Bytes that have come and are durable; the next piece begins here.
    pub offset: u64,
    /// Bytes that will come in all, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Whether it has become a blob.
    pub complete: bool,
    /// The digest of the blob that it has become.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// When it was begun.
    pub created_at: Timestamp,
    /// When it is thrown away unless it makes progress; after that it is `not_found`.
    pub expires_at: Timestamp,
}
