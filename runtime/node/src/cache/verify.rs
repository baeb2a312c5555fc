//! Whether what lies in the cache is still what was put there: a crash, a bad disk or a person with
//! an editor may have changed it while nobody looked.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use gristmill_protocol::Digest;
use gristmill_tree::tree_size;
use sha2::{Digest as _, Sha256};

/// What changes when a file is written to or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    bytes: u64,
    time_s: i64,
    time_ns: i64,
}

impl Stamp {
    /// The stamp of the file at `path`; a link is not followed. It stays the same when the file gets
    /// another name as well.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            time_s: metadata.mtime(),
            time_ns: metadata.mtime_nsec(),
        })
    }

    /// The stamp of an open file. Its time is the one that nobody can set back.
    pub(super) fn of_open(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            time_s: metadata.ctime(),
            time_ns: metadata.ctime_nsec(),
        })
    }
}

/// The SHA-256 of a file's bytes. Blocks for as long as reading them takes.
pub(super) fn file_digest(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Digest::from_bytes(hash.finalize().into())),
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Notes at `mark` what the whole tree at `tree` amounts to.
pub(super) fn mark_whole(mark: &Path, tree: &Path) -> io::Result<()> {
    fs::write(mark, mark_text(tree_size(tree)?))
}

/// The bytes of the tree at `tree`, if it is as its mark says. A tree that was cut short by a loss of
/// power has fewer entries or bytes; one without a mark was never whole.
pub(super) fn whole_bytes(mark: &Path, tree: &Path) -> io::Result<Option<u64>> {
    let noted = match fs::read_to_string(mark) {
        Ok(noted) => noted,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let size = tree_size(tree)?;
    Ok((noted == mark_text(size)).then_some(size.1))
}

fn mark_text((entries, bytes): (u64, u64)) -> String {
    format!("{entries} entries, {bytes} bytes\n")
}
