//! What lies in the places of bytes, whether anybody knows of it or not.

use std::{io, path::Path, time::Duration};

use futures_util::{StreamExt, TryStreamExt, future::ready, stream::BoxStream};
use gristmill_protocol::{Digest, Timestamp};
use object_store::{ObjectStore as _, ObjectStoreExt, path::Path as Key};

use super::{BlobError, BlobStore, off_reactor};

/// A piece of a log, by the key that it was stored under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLog {
    /// Its key, `logs/JOB/NUMBER-FENCE/…`.
    pub key: String,
    /// Number of its bytes.
    pub size: u64,
}

impl BlobStore {
    /// Every blob whose bytes were written before a time, with their number, in no order. Whether it
    /// has a row is another matter.
    pub fn blobs_before(&self, before: Timestamp) -> BoxStream<'static, Result<(Digest, u64), BlobError>> {
        self.keys_before("blobs/sha256", before)
            .try_filter_map(|(key, size)| {
                let name: String = key.parts().skip(2).map(|part| part.as_ref().to_owned()).collect();
                // Files of others are not ours to judge.
                ready(Ok(format!("sha256:{name}").parse().ok().map(|digest| (digest, size))))
            })
            .boxed()
    }

    /// Every stored piece of a log that was written before a time, in no order.
    pub fn logs_before(&self, before: Timestamp) -> BoxStream<'static, Result<StoredLog, BlobError>> {
        self.keys_before("logs", before)
            .map_ok(|(key, size)| StoredLog { key: key.to_string(), size })
            .boxed()
    }

    fn keys_before(
        &self,
        prefix: &'static str,
        before: Timestamp,
    ) -> BoxStream<'static, Result<(Key, u64), BlobError>> {
        let before = before.as_microsecond();
        self.backend
            .list(Some(&Key::from(prefix)))
            .try_filter_map(move |found| {
                let is_old = found.last_modified.timestamp_micros() < before;
                ready(Ok(is_old.then_some((found.location, found.size))))
            })
            .map_err(BlobError::from)
            .boxed()
    }

    /// Removes a stored piece of a log; no error when there is none.
    pub async fn delete_log(&self, key: &str) -> Result<(), BlobError> {
        match self.backend.delete(&Key::from(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes half-written files of the local backend that are older than `age` at the time `now`:
    /// what a process that was killed had begun. Returns their number.
    pub async fn delete_partial(&self, now: Timestamp, age: Duration) -> Result<u64, BlobError> {
        let directory = self.directory.clone();
        let before = std::time::SystemTime::from(now) - age;
        Ok(off_reactor(move || {
            let mut removed = 0;
            for place in ["blobs", "logs"] {
                removed += delete_partial_below(&directory.join(place), before)?;
            }
            Ok(removed)
        })
        .await?)
    }
}

/// The backend writes `NAME#N` and renames it to `NAME`; no key of ours has that sign.
fn delete_partial_below(directory: &Path, before: std::time::SystemTime) -> io::Result<u64> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        let Ok(found) = entry.metadata() else { continue };
        if found.is_dir() {
            removed += delete_partial_below(&entry.path(), before)?;
        } else if entry.file_name().as_encoded_bytes().contains(&b'#') && found.modified()? < before {
            std::fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::{
        clock::{Clock, SystemClock},
        entropy::SystemEntropy,
    };

    #[tokio::test]
    async fn everything_stored_is_found_and_half_written_files_are_removed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = BlobStore::open_local(directory.path(), Arc::new(SystemEntropy)).expect("opens");
        let digest = Digest::from_bytes(Sha256::digest(b"hello").into());
        let _stored = store.put_bytes(digest, Bytes::from_static(b"hello")).await.expect("stores");
        store.put_log("logs/job_1/1-7/stdout-0-1", Bytes::from_static(b"x")).await.expect("stores");
        let half = directory.path().join("logs/job_1/1-7/stdout-1-1#1");
        std::fs::write(&half, "y").expect("writes");
        let (now, hour) = (SystemClock::start().now(), Duration::from_secs(3_600));
        let blobs: Vec<_> = store.blobs_before(now + hour).try_collect().await.expect("lists");
        assert_eq!(blobs, [(digest, 5)]);
        let logs: Vec<_> = store.logs_before(now + hour).try_collect().await.expect("lists");
        assert_eq!(logs, [StoredLog { key: "logs/job_1/1-7/stdout-0-1".into(), size: 1 }]);
        let fresh: Vec<_> = store.blobs_before(now - hour).try_collect().await.expect("lists");
        assert_eq!(fresh, []);
        assert_eq!(store.delete_partial(now, hour).await.expect("looks"), 0);
        assert_eq!(store.delete_partial(now + hour * 2, hour).await.expect("looks"), 1);
        assert!(!half.exists());
        store.delete_log(&logs[0].key).await.expect("deletes");
        assert!(!directory.path().join("logs").exists(), "no empty directories are left");
    }
}
