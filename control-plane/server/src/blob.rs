//! The bytes of modules, inputs, outputs and logs, addressed by digest, over one object store API.
//!
//! Bytes come in through a staging file on the local disk with a running SHA-256 and appear under
//! their key all at once; what this module has acknowledged survives a power cut. Nothing is held
//! whole in memory, and hashing and file work run off the reactor.
//!
//! Bytes come before their row, and go after it. Between its bytes and its row a blob is pinned, and
//! only bytes that are locked are removed: so no row is ever left without its bytes.

mod pins;
mod probe;
mod scan;
mod uploads;

use std::{
    collections::HashSet,
    fmt, io,
    io::Write,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream::BoxStream};
use gristmill_protocol::Digest;
use object_store::{ObjectStore, ObjectStoreExt, local::LocalFileSystem, path::Path as Key};
use sha2::{Digest as _, Sha256};

use self::pins::Pins;
pub use self::{
    pins::{BlobLock, BlobPin},
    scan::StoredLog,
};
use crate::{entropy::Entropy, upload_files::UploadFiles, verify::verified};

/// Bytes that are hashed and written, or read, in one step off the reactor.
const STEP_BYTES: usize = 512 << 10;
/// Folder of unfinished uploads.
const UPLOADS: &str = "uploads";
/// Digests remembered as durable, so that the same small bytes cost no second sync.
const DURABLE_REMEMBERED_MAX: usize = 65_536;

/// Why bytes could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The sender's bytes are more than allowed; what came is thrown away.
    #[error("the body is larger than {max_bytes} bytes")]
    TooLarge {
        /// The limit.
        max_bytes: u64,
    },
    /// The bytes have another digest than was declared.
    #[error("the bytes have the digest {found}")]
    DigestMismatch {
        /// What they have.
        found: Digest,
    },
    /// The sender stopped before the end.
    #[error("the body ended early")]
    Body(#[source] BodyError),
    /// Stored bytes do not have their digest any more.
    #[error("the stored bytes of {digest} are damaged")]
    Damaged {
        /// What they should have.
        digest: Digest,
    },
    /// The local disk failed.
    #[error("the staging file failed")]
    Staging(#[from] io::Error),
    /// The object store failed.
    #[error("the object store failed")]
    Backend(#[from] object_store::Error),
}

/// Any error of a sender.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Bytes on their way in: whole, hashed and on the local disk, but under no key yet. Dropping it
/// throws them away.
#[derive(Debug)]
pub struct StagedBlob {
    path: PathBuf,
    key: Key,
    file: Option<std::fs::File>,
    digest: Digest,
    size: u64,
}

impl StagedBlob {
    /// The SHA-256 of the bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The bytes' number.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The staging file, to be read only.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StagedBlob {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        if path.as_os_str().is_empty() {
            return;
        }
        let remove = move || {
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, "a staging file was left behind");
            }
        };
        // Unlinking many gigabytes takes long enough to stall the reactor.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// Bytes that are stored under their digest. Hold it until the blob's row is handed to the store:
/// from then on the row keeps the bytes.
#[derive(Debug)]
#[must_use = "the bytes may be removed as soon as it is dropped, unless their row is handed over before"]
pub struct StoredBlob {
    /// The SHA-256 of the bytes.
    pub digest: Digest,
    /// The bytes' number.
    pub size: u64,
    _pin: BlobPin,
}

/// A blob, or a part of it, on its way out.
pub struct BlobRead {
    /// Size of the whole blob in bytes.
    pub size: u64,
    /// The part that the stream carries.
    pub range: Range<u64>,
    /// The bytes, in pieces of at most a few hundred KiB.
    pub stream: BoxStream<'static, Result<Bytes, BlobError>>,
}

impl fmt::Debug for BlobRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobRead")
            .field("size", &self.size)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

/// Where the bytes of a blob lie, below the directory or prefix of all bytes.
pub(crate) fn blob_path(digest: Digest) -> String {
    let hex = digest.hex();
    format!("blobs/sha256/{}/{}", &hex[..2], &hex[2..])
}

/// Where the bytes are.
#[derive(Debug)]
pub struct BlobStore {
    backend: Arc<dyn ObjectStore>,
    staging: PathBuf,
    uploads: UploadFiles,
    entropy: Arc<dyn Entropy>,
    durable: Mutex<HashSet<Digest>>,
    pins: Arc<Pins>,
    /// The local backend's directory, where a crash can leave more than the backend lists.
    directory: PathBuf,
}

impl BlobStore {
    /// Opens or makes the store in a local directory and throws away what an earlier process left
    /// half-written there.
    pub fn open_local(directory: &Path, entropy: Arc<dyn Entropy>) -> Result<Self, BlobError> {
        let staging = directory.join("staging");
        match std::fs::remove_dir_all(&staging) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        std::fs::create_dir_all(&staging)?;
        let backend =
            LocalFileSystem::new_with_prefix(directory)?.with_fsync(true).with_automatic_cleanup(true);
        Ok(Self {
            backend: Arc::new(backend),
            staging,
            uploads: UploadFiles::open(directory.join(UPLOADS))?,
            entropy,
            durable: Mutex::default(),
            pins: Arc::default(),
            directory: directory.to_owned(),
        })
    }

    fn blob_key(digest: Digest) -> Key {
        Key::from(blob_path(digest))
    }

    fn is_known_durable(&self, digest: Digest) -> bool {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(&digest)
    }

    fn note_durable(&self, digest: Digest) {
        let mut known = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= DURABLE_REMEMBERED_MAX {
            known.clear();
        }
        known.insert(digest);
    }

    /// Takes bytes to a staging file. Fails with `TooLarge` as soon as more than `max_bytes` have
    /// come. Dropping the future throws away what came.
    pub async fn stage<E>(
        &self,
        body: impl Stream<Item = Result<Bytes, E>> + Send,
        max_bytes: u64,
    ) -> Result<StagedBlob, BlobError>
    where
        E: Into<BodyError>,
    {
        let name = hex::encode(self.entropy.bytes::<16>());
        let mut staged = StagedBlob {
            path: self.staging.join(&name),
            key: Key::from(format!("staging/{name}")),
            file: None,
            digest: Digest::from_bytes([0; 32]),
            size: 0,
        };
        let path = staged.path.clone();
        let file = off_reactor(move || std::fs::File::create_new(path)).await?;
        let mut writer = Some((file, Sha256::new()));
        let mut waiting = BytesMut::with_capacity(STEP_BYTES);
        let mut body = std::pin::pin!(body);
        loop {
            let piece = body.next().await.transpose().map_err(|error| BlobError::Body(error.into()))?;
            let is_end = piece.is_none();
            if let Some(piece) = piece {
                staged.size += piece.len() as u64;
                if staged.size > max_bytes {
                    return Err(BlobError::TooLarge { max_bytes });
                }
                waiting.extend_from_slice(&piece);
            }
            if !waiting.is_empty() && (is_end || waiting.len() >= STEP_BYTES) {
                let (mut file, mut hasher) = writer.take().expect("the writer is put back below");
                let step = std::mem::take(&mut waiting);
                let (back, mut step) = off_reactor(move || {
                    hasher.update(&step);
                    file.write_all(&step)?;
                    Ok(((file, hasher), step))
                })
                .await?;
                writer = Some(back);
                step.clear();
                waiting = step;
            }
            if is_end {
                break;
            }
        }
        let (file, hasher) = writer.take().expect("the writer was put back in the loop");
        staged.file = Some(file);
        staged.digest = Digest::from_bytes(hasher.finalize().into());
        Ok(staged)
    }

    /// Gives staged bytes their key. They are durable when it returns. Idempotent.
    pub async fn commit(&self, mut staged: StagedBlob) -> Result<StoredBlob, BlobError> {
        let (digest, size) = (staged.digest, staged.size);
        let pin = self.pins.share(digest).await;
        if let Some(file) = staged.file.take() {
            off_reactor(move || file.sync_all()).await?;
        }
        // The staging directory lies inside the local backend, so that a rename is enough; a remote
        // backend uploads the staging file here instead.
        self.backend.rename(&staged.key, &Self::blob_key(digest)).await?;
        staged.path.clear();
        self.note_durable(digest);
        Ok(StoredBlob { digest, size, _pin: pin })
    }

    /// Stores bytes of a declared digest: [`Self::stage`], a check, [`Self::commit`].
    pub async fn put_stream<E>(
        &self,
        body: impl Stream<Item = Result<Bytes, E>> + Send,
        expected: Digest,
        max_bytes: u64,
    ) -> Result<StoredBlob, BlobError>
    where
        E: Into<BodyError>,
    {
        let staged = self.stage(body, max_bytes).await?;
        if staged.digest != expected {
            return Err(BlobError::DigestMismatch { found: staged.digest });
        }
        self.commit(staged).await
    }

    /// Stores bytes that are in memory, such as inline inputs, under the digest that the caller took
    /// of them. Durable when it returns; the same bytes again cost nothing.
    pub async fn put_bytes(&self, digest: Digest, bytes: Bytes) -> Result<StoredBlob, BlobError> {
        let pin = self.pins.share(digest).await;
        let size = bytes.len() as u64;
        if !self.is_known_durable(digest) {
            self.backend.put(&Self::blob_key(digest), bytes.into()).await?;
            self.note_durable(digest);
        }
        Ok(StoredBlob { digest, size, _pin: pin })
    }

    /// Size of a blob in bytes; `None` when there is none.
    pub async fn size(&self, digest: Digest) -> Result<Option<u64>, BlobError> {
        match self.backend.head(&Self::blob_key(digest)).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a blob, or the part of it that the range names (end exclusive, cut at the blob's
    /// end). `None` when there is no such blob. Bytes are read as the stream is polled. A stream of a
    /// whole blob fails before its end when the bytes do not have the digest.
    pub async fn open(
        &self,
        digest: Digest,
        range: Option<Range<u64>>,
    ) -> Result<Option<BlobRead>, BlobError> {
        let Some(size) = self.size(digest).await? else { return Ok(None) };
        let wanted = range.unwrap_or(0..size);
        let range = wanted.start.min(size)..wanted.end.min(size);
        let backend = Arc::clone(&self.backend);
        let key = Self::blob_key(digest);
        let end = range.end;
        let stream = futures_util::stream::try_unfold(range.start, move |start| {
            let (backend, key) = (Arc::clone(&backend), key.clone());
            async move {
                if start >= end {
                    return Ok(None);
                }
                let until = end.min(start + STEP_BYTES as u64);
                let bytes = backend.get_range(&key, start..until).await?;
                Ok(Some((bytes, until)))
            }
        });
        let is_whole = range == (0..size);
        let stream = if is_whole { verified(stream.boxed(), digest).boxed() } else { stream.boxed() };
        Ok(Some(BlobRead { size, range, stream }))
    }

    /// Reads a small blob whole; `None` when there is none. Fails with `TooLarge` beyond `max_bytes`.
    pub async fn read(&self, digest: Digest, max_bytes: u64) -> Result<Option<Bytes>, BlobError> {
        match self.size(digest).await? {
            None => Ok(None),
            Some(size) if size > max_bytes => Err(BlobError::TooLarge { max_bytes }),
            Some(_) => Ok(Some(self.backend.get(&Self::blob_key(digest)).await?.bytes().await?)),
        }
    }

    /// Keeps everybody from storing these bytes until the lock is dropped. `None` when they are being
    /// stored right now: then they are wanted, and not to be removed.
    pub fn try_lock(&self, digest: Digest) -> Option<BlobLock> {
        self.pins.try_lock(digest)
    }

    /// Removes the bytes of a blob; no error when there are none. Their row must be gone before.
    pub async fn delete(&self, lock: &BlobLock) -> Result<(), BlobError> {
        let digest = lock.digest();
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest);
        match self.backend.delete(&Self::blob_key(digest)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Stores a piece of a log under a key below `logs/` that the caller chooses. Durable when it
    /// returns; writing the same key again replaces it.
    pub async fn put_log(&self, key: &str, bytes: Bytes) -> Result<(), BlobError> {
        self.backend.put(&Key::from(key), bytes.into()).await?;
        Ok(())
    }

    /// Reads a piece of a log; `None` when there is none.
    pub async fn get_log(&self, key: &str) -> Result<Option<Bytes>, BlobError> {
        match self.backend.get(&Key::from(key)).await {
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Runs file work on a thread that may block.
pub(crate) async fn off_reactor<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use futures_util::{TryStreamExt, stream};

    use super::*;
    use crate::entropy::SystemEntropy;

    fn store() -> (tempfile::TempDir, BlobStore) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = BlobStore::open_local(directory.path(), Arc::new(SystemEntropy)).expect("opens");
        (directory, store)
    }

    fn body(pieces: usize, piece: usize) -> impl Stream<Item = Result<Bytes, io::Error>> + Send {
        stream::iter((0..pieces).map(move |n| Ok(Bytes::from(vec![n as u8; piece]))))
    }

    fn staged_files(directory: &tempfile::TempDir) -> usize {
        std::fs::read_dir(directory.path().join("staging")).expect("staging exists").count()
    }

    #[tokio::test]
    async fn bytes_come_back_whole_and_in_parts() {
        let (directory, store) = store();
        let staged = store.stage(body(70, 30_000), 1 << 30).await.expect("stages");
        let digest = staged.digest();
        let stored = store.commit(staged).await.expect("commits");
        assert_eq!((stored.digest, stored.size), (digest, 2_100_000));
        assert_eq!(staged_files(&directory), 0);
        let whole = store.open(digest, None).await.expect("reads").expect("is there");
        assert_eq!((whole.size, whole.range.clone()), (2_100_000, 0..2_100_000));
        let bytes: Vec<Bytes> = whole.stream.try_collect().await.expect("streams");
        assert_eq!(Digest::from_bytes(Sha256::digest(bytes.concat()).into()), digest);
        let part = store.open(digest, Some(29_999..30_001)).await.expect("reads").expect("is there");
        let bytes: Vec<Bytes> = part.stream.try_collect().await.expect("streams");
        assert_eq!(bytes.concat(), [0, 1]);
    }

    #[tokio::test]
    async fn what_is_refused_leaves_nothing_behind() {
        let (directory, store) = store();
        let too_large = store.stage(body(3, 10), 29).await;
        assert!(matches!(too_large, Err(BlobError::TooLarge { max_bytes: 29 })));
        let other = Digest::from_bytes([7; 32]);
        let mismatch = store.put_stream(body(1, 10), other, 29).await;
        assert!(matches!(mismatch, Err(BlobError::DigestMismatch { .. })));
        let broken = stream::iter([Ok(Bytes::from_static(b"a")), Err(io::Error::other("gone"))]);
        assert!(matches!(store.stage(broken, 29).await, Err(BlobError::Body(_))));
        for _ in 0..100 {
            if staged_files(&directory) == 0 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(staged_files(&directory), 0);
        assert!(store.open(other, None).await.expect("reads").is_none());
    }

    #[tokio::test]
    async fn small_bytes_and_logs_are_found_again() {
        let (_directory, store) = store();
        let digest = Digest::from_bytes(Sha256::digest(b"hello").into());
        for _ in 0..2 {
            let stored = store.put_bytes(digest, Bytes::from_static(b"hello")).await.expect("stores");
            assert!(store.try_lock(digest).is_none(), "{stored:?} waits for its row");
        }
        assert_eq!(store.read(digest, 5).await.expect("reads").as_deref(), Some(&b"hello"[..]));
        let lock = store.try_lock(digest).expect("nobody stores it");
        store.delete(&lock).await.expect("deletes");
        assert_eq!(store.size(digest).await.expect("looks"), None);
        store.put_log("logs/job_1/0", Bytes::from_static(b"x")).await.expect("stores");
        assert_eq!(store.get_log("logs/job_1/0").await.expect("reads").as_deref(), Some(&b"x"[..]));
        assert_eq!(store.get_log("logs/job_1/1").await.expect("reads"), None);
    }
}
