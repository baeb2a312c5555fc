//! Bringing blobs to the node: streamed, resumed, verified, then adopted by the cache.

use std::{
    fs::{self, Permissions},
    io,
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use cap_std::{ambient_authority, fs::Dir};
use gristmill_client::node::{Backoff, CallError, NodeClient};
use gristmill_protocol::{
    Digest, ErrorCode,
    node_api::{BlobGrant, LeaseRef},
};
use gristmill_tree::{TreeError, unpack};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::{
    Cache, Key, Kind, Pinned, remove_any,
    views::{make_readable_dir, tree_name},
};

/// Pieces under way between the network and the disk; a piece is at most a few hundred KiB.
const PIECES_IN_FLIGHT: usize = 8;

/// Why a blob did not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The server has no such blob for this attempt.
    #[error("the bytes of {0} are no longer stored")]
    Missing(Digest),
    /// The bytes that came are others, twice.
    #[error("the bytes that came for {0} have another digest")]
    Mismatch(Digest),
    /// The lease is no longer held.
    #[error("the lease is lost")]
    LeaseLost,
    /// The server refuses for another reason, and asking again does not help.
    #[error("the server refuses to give {digest}: {detail}")]
    Refused {
        /// What was asked for.
        digest: Digest,
        /// The server's code, if it gave one.
        code: Option<ErrorCode>,
        /// What the server said.
        detail: String,
    },
    /// The blob is no tree.
    #[error("{0}")]
    NoTree(String),
    /// The node's own disk failed.
    #[error("the node failed to store {0}: {1}")]
    Disk(Digest, io::Error),
}

/// Fetches a file into the cache, or finds it there. Repeats what fails by the network until the
/// future is dropped; dropping it leaves nothing behind but a temporary file that soon goes.
pub(crate) async fn fetch_blob(
    cache: &Arc<Cache>,
    client: &NodeClient,
    lease: &LeaseRef,
    blob: &BlobGrant,
) -> Result<Pinned, FetchError> {
    fetch(cache, client, lease, blob, (Kind::Blob, blob.digest.hex())).await
}

/// Fetches a tree into a tenant's view of the cache and unpacks it on the way, or finds it there.
pub(crate) async fn fetch_tree(
    cache: &Arc<Cache>,
    client: &NodeClient,
    lease: &LeaseRef,
    tenant: &str,
    blob: &BlobGrant,
) -> Result<Pinned, FetchError> {
    let (keeper, owner) = (Arc::clone(cache), tenant.to_owned());
    let making = tokio::task::spawn_blocking(move || keeper.tenant_trees(&owner));
    let made = making.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
    made.map_err(|error| FetchError::Disk(blob.digest, error))?;
    fetch(cache, client, lease, blob, (Kind::Tree, tree_name(tenant, &blob.digest))).await
}

async fn fetch(
    cache: &Arc<Cache>,
    client: &NodeClient,
    lease: &LeaseRef,
    blob: &BlobGrant,
    key: Key,
) -> Result<Pinned, FetchError> {
    if let Some(pinned) = cache.pin(key.0, &key.1).filter(|pinned| cache.is_verified(pinned)) {
        return Ok(pinned);
    }
    let _flight = cache.flight(key.0, &key.1).await;
    if let Some(pinned) = cache.pin(key.0, &key.1)
        && let Some(verified) = verified(cache, pinned).await
    {
        return Ok(verified);
    }
    for _ in 0..2 {
        let (pieces, incoming) = mpsc::channel(PIECES_IN_FLIGHT);
        let (keeper, wanted, key) = (Arc::clone(cache), blob.clone(), key.clone());
        let storing = tokio::task::spawn_blocking(move || store(&keeper, &wanted, &key, incoming));
        let sent = send_pieces(client, lease, blob, &pieces).await;
        drop(pieces);
        let stored = storing.await.unwrap_or_else(|panic| Err(StoreError::Disk(io::Error::other(panic))));
        match stored {
            Ok(pinned) => return Ok(pinned),
            // The storing side fails in its own way when the pieces stop coming.
            Err(_) if sent.is_err() => return Err(sent.expect_err("checked by the guard")),
            Err(StoreError::Mismatch) => {}
            Err(StoreError::NoTree(text)) => return Err(FetchError::NoTree(text)),
            Err(StoreError::Disk(error)) => return Err(FetchError::Disk(blob.digest, error)),
        }
    }
    Err(FetchError::Mismatch(blob.digest))
}

/// The entry again, if its bytes are what they should be.
async fn verified(cache: &Arc<Cache>, pinned: Pinned) -> Option<Pinned> {
    if cache.is_verified(&pinned) {
        return Some(pinned);
    }
    let keeper = Arc::clone(cache);
    tokio::task::spawn_blocking(move || keeper.verify(pinned)).await.ok().flatten()
}

/// Sends the whole blob to the storing side, resuming where a broken transfer stopped.
async fn send_pieces(
    client: &NodeClient,
    lease: &LeaseRef,
    blob: &BlobGrant,
    pieces: &mpsc::Sender<Piece>,
) -> Result<(), FetchError> {
    let mut backoff = Backoff::between(Duration::from_millis(200), Duration::from_secs(5));
    let mut offset = 0;
    loop {
        let before = offset;
        match send_from(client, lease, blob, &mut offset, pieces).await {
            Ok(()) => return Ok(()),
            Err(error) => match error.code() {
                Some(ErrorCode::NotFound) => return Err(FetchError::Missing(blob.digest)),
                Some(ErrorCode::LeaseLost) => return Err(FetchError::LeaseLost),
                _ if error.is_worth_repeating() => {
                    if offset > before {
                        backoff.reset();
                    }
                    tracing::debug!(%error, digest = %blob.digest, offset, "a transfer broke; resuming");
                    tokio::time::sleep(backoff.next_delay(error.retry_after())).await;
                }
                _ => {
                    let (digest, code) = (blob.digest, error.code());
                    return Err(FetchError::Refused { digest, code, detail: error.to_string() });
                }
            },
        }
    }
}

async fn send_from(
    client: &NodeClient,
    lease: &LeaseRef,
    blob: &BlobGrant,
    offset: &mut u64,
    pieces: &mpsc::Sender<Piece>,
) -> Result<(), CallError> {
    if *offset < blob.size || blob.size == 0 {
        let mut body = client.blob(lease, &blob.digest, blob.size, *offset).await?;
        while let Some(bytes) = body.next().await? {
            // More than was declared is cut here; the digest will tell.
            let bytes = bytes.slice(..bytes.len().min((blob.size - *offset) as usize));
            *offset += bytes.len() as u64;
            if pieces.send(Piece::Bytes(bytes)).await.is_err() {
                // The storing side has failed and says why.
                return Ok(());
            }
        }
        if *offset < blob.size {
            return Err(CallError::Unknown { detail: "the transfer ended early".into() });
        }
    }
    // A closed channel without this mark means that the transfer was given up.
    let _ = pieces.send(Piece::End).await;
    Ok(())
}

enum Piece {
    Bytes(Bytes),
    End,
}

#[derive(Debug)]
enum StoreError {
    Mismatch,
    NoTree(String),
    Disk(io::Error),
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

/// Reads the pieces as one stream and hashes them on the way.
struct Incoming {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    hash: Sha256,
    is_complete: bool,
}

impl Incoming {
    /// The next piece, empty at the end.
    fn advance(&mut self) -> io::Result<()> {
        while self.current.is_empty() && !self.is_complete {
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => {
                    self.hash.update(&bytes);
                    self.current = bytes;
                }
                Some(Piece::End) => self.is_complete = true,
                None => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        Ok(())
    }

    /// Reads what is left and gives the digest of everything.
    fn finish(mut self) -> io::Result<Digest> {
        while !self.is_complete {
            self.current = Bytes::new();
            self.advance()?;
        }
        Ok(Digest::from_bytes(self.hash.finalize().into()))
    }
}

impl io::Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.advance()?;
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

fn store(
    cache: &Arc<Cache>,
    blob: &BlobGrant,
    (kind, name): &Key,
    pieces: mpsc::Receiver<Piece>,
) -> Result<Pinned, StoreError> {
    let temp = cache.temp_path();
    let incoming = Incoming { pieces, current: Bytes::new(), hash: Sha256::new(), is_complete: false };
    cache.make_room(blob.size);
    let result =
        fill(&temp, blob, *kind, incoming).and_then(|bytes| Ok(cache.adopt(*kind, name, &temp, bytes)?));
    if result.is_err()
        && let Err(error) = remove_any(&temp)
    {
        tracing::warn!(%error, "failed to remove a broken download");
    }
    result
}

fn fill(temp: &Path, blob: &BlobGrant, kind: Kind, mut incoming: Incoming) -> Result<u64, StoreError> {
    let (bytes, refusal) = if kind == Kind::Tree {
        make_readable_dir(temp)?;
        let root = Dir::open_ambient_dir(temp, ambient_authority())?;
        match unpack(&mut incoming, &root, blob.size) {
            Ok(bytes) => (bytes, None),
            Err(TreeError::Refused(text)) => (0, Some(text)),
            Err(TreeError::Io(error)) => return Err(error.into()),
        }
    } else {
        (write_file(temp, &mut incoming)?, None)
    };
    // Wrong bytes explain a bad archive better than the archive's own error.
    if incoming.finish()? != blob.digest {
        return Err(StoreError::Mismatch);
    }
    refusal.map_or(Ok(bytes), |text| Err(StoreError::NoTree(text)))
}

fn write_file(path: &Path, incoming: &mut Incoming) -> io::Result<u64> {
    use io::Write;
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o444).open(path)?;
    // Whatever the umask: an executor may run as another user.
    file.set_permissions(Permissions::from_mode(0o444))?;
    let mut bytes = 0;
    loop {
        incoming.advance()?;
        if incoming.current.is_empty() {
            return Ok(bytes);
        }
        let piece = std::mem::take(&mut incoming.current);
        file.write_all(&piece)?;
        bytes += piece.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(content: &[u8]) -> BlobGrant {
        let digest = Digest::from_bytes(Sha256::digest(content).into());
        BlobGrant { digest, size: content.len() as u64 }
    }

    fn store_pieces(
        cache: &Arc<Cache>,
        blob: &BlobGrant,
        kind: Kind,
        pieces: Vec<Piece>,
    ) -> Result<Pinned, StoreError> {
        let name = match kind {
            Kind::Tree => tree_name("tenant", &blob.digest),
            _ => blob.digest.hex(),
        };
        let (sender, receiver) = mpsc::channel(pieces.len().max(1));
        for piece in pieces {
            assert!(sender.try_send(piece).is_ok(), "there is room");
        }
        drop(sender);
        store(cache, blob, &(kind, name), receiver)
    }

    fn temps(cache: &Cache) -> usize {
        let temp = cache.temp_path();
        fs::read_dir(temp.parent().expect("a parent")).expect("listed").count()
    }

    #[test]
    fn verified_bytes_become_an_entry() {
        let temp = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(temp.path(), 1 << 20).expect("a cache");
        let blob = grant(b"hello world");
        let pieces = vec![
            Piece::Bytes(Bytes::from_static(b"hello ")),
            Piece::Bytes(Bytes::from_static(b"world")),
            Piece::End,
        ];
        let pinned = store_pieces(&cache, &blob, Kind::Blob, pieces).expect("stored");
        assert_eq!(fs::read(pinned.path()).expect("read"), b"hello world");
        assert!(cache.pin(Kind::Blob, &blob.digest.hex()).is_some());
    }

    #[test]
    fn other_bytes_and_transfers_that_were_given_up_leave_nothing() {
        let temp = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(temp.path(), 1 << 20).expect("a cache");
        let blob = grant(b"hello world");
        let wrong = vec![Piece::Bytes(Bytes::from_static(b"jello world")), Piece::End];
        assert!(matches!(store_pieces(&cache, &blob, Kind::Blob, wrong), Err(StoreError::Mismatch)));
        let cut = vec![Piece::Bytes(Bytes::from_static(b"hello "))];
        assert!(matches!(store_pieces(&cache, &blob, Kind::Blob, cut), Err(StoreError::Disk(_))));
        assert!(cache.pin(Kind::Blob, &blob.digest.hex()).is_none());
        assert_eq!(temps(&cache), 0);
    }

    #[test]
    fn a_tree_is_unpacked_on_the_way_and_refused_if_it_is_none() {
        let temp = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(temp.path(), 1 << 20).expect("a cache");
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        builder.append_data(&mut header, "dir/file", b"hello".as_slice()).expect("appended");
        let archive = Bytes::from(builder.into_inner().expect("an archive"));
        let blob = grant(&archive);
        let pieces = archive.chunks(100).map(|part| Piece::Bytes(Bytes::copy_from_slice(part)));
        let pieces = pieces.chain([Piece::End]).collect();
        cache.tenant_trees("tenant").expect("a directory");
        let pinned = store_pieces(&cache, &blob, Kind::Tree, pieces).expect("stored");
        assert_eq!(fs::read(pinned.path().join("dir/file")).expect("read"), b"hello");
        let garbage = Bytes::from(vec![7; 1_024]);
        let blob = grant(&garbage);
        let refused = store_pieces(&cache, &blob, Kind::Tree, vec![Piece::Bytes(garbage), Piece::End]);
        assert!(matches!(refused, Err(StoreError::NoTree(_))));
        assert_eq!(temps(&cache), 0);
    }
}
