//! The bytes of unfinished uploads: one file each, written at its end only, synced before anything
//! is claimed of it.

use std::{
    fs::File,
    io,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use bytes::BytesMut;
use gristmill_protocol::{Digest, UploadId};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::blob::off_reactor;

/// Bytes that are hashed and written, or read, in one step off the reactor.
const STEP_BYTES: usize = 512 << 10;

/// A checksum that one piece of an upload must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PieceChecksum {
    /// SHA-1, which tus 1.0 asks servers to know.
    Sha1(Vec<u8>),
    /// SHA-256.
    Sha256(Vec<u8>),
}

impl PieceChecksum {
    fn begin(&self) -> Context {
        Context::new(match self {
            Self::Sha1(_) => &SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256(_) => &SHA256,
        })
    }

    fn is(&self, found: &[u8]) -> bool {
        let (Self::Sha1(expected) | Self::Sha256(expected)) = self;
        expected == found
    }
}

/// A running SHA-256 over the first bytes of an upload.
#[derive(Debug, Clone)]
pub struct RunningHash {
    hasher: Sha256,
    at: u64,
}

impl RunningHash {
    /// The hash over no bytes.
    pub fn begin() -> Self {
        Self { hasher: Sha256::new(), at: 0 }
    }

    /// How many bytes it covers.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The digest of what it covers.
    pub fn digest(self) -> Digest {
        Digest::from_bytes(self.hasher.finalize().into())
    }
}

/// The folder of unfinished uploads.
#[derive(Debug, Clone)]
pub struct UploadFiles {
    dir: PathBuf,
}

impl UploadFiles {
    /// Opens or makes the folder. What earlier processes left there stays.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    fn path(&self, id: UploadId) -> PathBuf {
        self.dir.join(id.to_string())
    }

    /// Opens an upload's file to write on from `offset`; what lies behind it was never claimed and is
    /// cut off. `None` when the file has lost bytes before it. The hash goes on if it covers exactly
    /// the bytes before `offset`; else the digest has to be taken at the end.
    pub async fn write_from(
        &self,
        id: UploadId,
        offset: u64,
        hash: Option<RunningHash>,
        checksum: Option<&PieceChecksum>,
    ) -> io::Result<Option<UploadWriter>> {
        let (path, dir) = (self.path(id), self.dir.clone());
        let file = off_reactor(move || open_at(&path, &dir, offset)).await?;
        let hash =
            if offset == 0 { Some(RunningHash::begin()) } else { hash.filter(|hash| hash.at == offset) };
        let checking = checksum.map(PieceChecksum::begin);
        Ok(file.map(|file| UploadWriter {
            state: Some(Writing { file, hash, checking }),
            waiting: BytesMut::new(),
            end: offset,
        }))
    }

    /// Reads an upload's file for its digest; `None` when it has not `size` bytes, or when `stop` came
    /// first.
    pub async fn digest(
        &self,
        id: UploadId,
        size: u64,
        stop: &CancellationToken,
    ) -> io::Result<Option<Digest>> {
        let (path, stop) = (self.path(id), stop.clone());
        off_reactor(move || {
            let mut file = File::open(path)?;
            let mut hash = RunningHash::begin();
            let mut buffer = vec![0; STEP_BYTES];
            loop {
                let count = file.read(&mut buffer)?;
                if count == 0 {
                    return Ok((hash.at == size).then(|| hash.digest()));
                }
                if stop.is_cancelled() {
                    return Ok(None);
                }
                hash.hasher.update(&buffer[..count]);
                hash.at += count as u64;
            }
        })
        .await
    }

    /// Removes an upload's file; no error when there is none.
    pub async fn remove(&self, id: UploadId) -> io::Result<()> {
        let path = self.path(id);
        off_reactor(move || match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .await
    }

    /// The uploads that have a file.
    pub async fn list(&self) -> io::Result<Vec<UploadId>> {
        let dir = self.dir.clone();
        off_reactor(move || {
            let mut found = Vec::new();
            for entry in std::fs::read_dir(dir)? {
                found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<UploadId>().ok()));
            }
            Ok(found)
        })
        .await
    }
}

fn open_at(path: &Path, dir: &Path, offset: u64) -> io::Result<Option<File>> {
    let mut file = match File::options().write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && offset == 0 => {
            let file = File::options().write(true).create_new(true).open(path)?;
            // The name has to be as durable as the bytes will be.
            File::open(dir)?.sync_all()?;
            file
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    if length < offset {
        return Ok(None);
    }
    if length > offset {
        file.set_len(offset)?;
    }
    file.seek(SeekFrom::Start(offset))?;
    Ok(Some(file))
}

struct Writing {
    file: File,
    hash: Option<RunningHash>,
    checking: Option<Context>,
}

/// An upload's file while a piece comes in. Dropping it leaves behind what was written; nothing of
/// that is claimed.
pub struct UploadWriter {
    /// `None` after a failure, and while a step is under way.
    state: Option<Writing>,
    waiting: BytesMut,
    end: u64,
}

impl std::fmt::Debug for UploadWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UploadWriter").field("end", &self.end).finish_non_exhaustive()
    }
}

impl UploadWriter {
    /// Where the bytes taken so far end.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Takes bytes; they are hashed and written when there are enough of them.
    pub async fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.end += bytes.len() as u64;
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= STEP_BYTES { self.step(false).await } else { Ok(()) }
    }

    /// Writes what waits and makes all of it durable.
    pub async fn sync(&mut self) -> io::Result<()> {
        self.step(true).await
    }

    async fn step(&mut self, is_sync: bool) -> io::Result<()> {
        let mut state = self.state.take().ok_or_else(|| io::Error::other("an earlier step failed"))?;
        let mut step = std::mem::take(&mut self.waiting);
        let (state, step) = off_reactor(move || {
            if let Some(hash) = &mut state.hash {
                hash.hasher.update(&step);
                hash.at += step.len() as u64;
            }
            if let Some(checking) = &mut state.checking {
                checking.update(&step);
            }
            state.file.write_all(&step)?;
            if is_sync {
                state.file.sync_data()?;
            }
            step.clear();
            Ok((state, step))
        })
        .await?;
        self.state = Some(state);
        self.waiting = step;
        Ok(())
    }

    /// Whether the bytes of this piece have their checksum; all of them have been synced.
    pub fn has(&mut self, checksum: &PieceChecksum) -> bool {
        let context = self.state.as_mut().and_then(|state| state.checking.take());
        context.is_some_and(|context| checksum.is(context.finish().as_ref()))
    }

    /// The hash over everything, for the piece that comes next.
    pub fn into_hash(self) -> Option<RunningHash> {
        self.state?.hash
    }
}
