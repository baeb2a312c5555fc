//! Whether the disk under the bytes is well.

use std::io::{self, Write as _};

use super::{BlobStore, off_reactor};

impl BlobStore {
    /// Writes a few bytes to the disk and removes them again.
    pub async fn probe(&self) -> io::Result<()> {
        let path = self.staging.join(format!("probe-{}", hex::encode(self.entropy.bytes::<8>())));
        let written = off_reactor(move || {
            let written = std::fs::File::create_new(&path)
                .and_then(|mut file| file.write_all(b"probe").and_then(|()| file.sync_data()));
            let removed = std::fs::remove_file(&path);
            written.and(removed)
        });
        written.await
    }

    /// Bytes that may still be written to the disk.
    pub async fn free_bytes(&self) -> io::Result<u64> {
        let staging = self.staging.clone();
        off_reactor(move || {
            let disk = rustix::fs::statvfs(&staging)?;
            Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
        })
        .await
    }
}
