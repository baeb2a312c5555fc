//! Uploads, whose files become blobs.

use gristmill_protocol::{Digest, UploadId};
use object_store::{ObjectStoreExt as _, path::Path as Key};

use super::{BlobError, BlobStore, StoredBlob, UPLOADS};
use crate::upload_files::UploadFiles;

impl BlobStore {
    /// The files of unfinished uploads.
    pub fn uploads(&self) -> &UploadFiles {
        &self.uploads
    }

    /// Turns an upload's file, all of it durable, into the blob whose digest the caller took of it.
    /// Durable when it returns. A second call changes nothing. `None` when there is neither the file
    /// nor the blob.
    pub async fn adopt_upload(
        &self,
        id: UploadId,
        digest: Digest,
        size: u64,
    ) -> Result<Option<StoredBlob>, BlobError> {
        let pin = self.pins.share(digest).await;
        // The files lie inside the local backend, as staging files do.
        match self.backend.rename(&Key::from(format!("{UPLOADS}/{id}")), &Self::blob_key(digest)).await {
            Ok(()) => {}
            Err(object_store::Error::NotFound { .. }) => {
                if self.size(digest).await? != Some(size) {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error.into()),
        }
        self.note_durable(digest);
        Ok(Some(StoredBlob { digest, size, _pin: pin }))
    }
}
