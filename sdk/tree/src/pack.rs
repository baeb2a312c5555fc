//! Packs a directory into a plain tar, always the same bytes for the same tree: sorted paths, no
//! owners, no times, modes 0644 and 0755. The archive is never held in memory or on disk: it is
//! made once for its digest and again when it has to be sent.
//!
//! Symbolic links are kept when they are relative and stay inside the tree; others are refused, as
//! are sockets, pipes and devices. Hard links become files of their own.

use std::{
    fs,
    io::{self, Read as _, Write},
    path::{Path, PathBuf},
};

use gristmill_protocol::Digest;
use sha2::{Digest as _, Sha256};

use crate::link::stays_inside;

/// Why a directory could not be packed. The texts are for its owner and name paths.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Something in the directory cannot be in a tree.
    #[error("{detail}")]
    Refused {
        /// What it is.
        detail: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// Something could not be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// What it is.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something could not be put into the archive.
    #[error("cannot pack {}", path.display())]
    Unpackable {
        /// What it is.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The archive could not be written.
    #[error(transparent)]
    Sink(#[from] io::Error),
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> PackError {
    let path = path.to_owned();
    move |source| PackError::Unreadable { path: path.clone(), source }
}

/// A directory tree as it was when it was scanned.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    entries: Vec<Entry>,
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    /// Path in the archive, with `/` between parts.
    name: String,
    what: What,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    Directory,
    File { size: u64, executable: bool },
    Link { target: String },
}

impl Tree {
    /// Reads the tree's names and sizes. Blocks.
    pub fn scan(root: &Path) -> Result<Self, PackError> {
        let mut entries = Vec::new();
        scan_dir(root, "", &mut entries)?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { root: root.to_owned(), entries })
    }

    /// Digest and size in bytes of the archive. Blocks for as long as reading every file takes.
    pub fn digest(&self) -> Result<(Digest, u64), PackError> {
        let mut sink = DigestSink { hasher: Sha256::new(), size: 0 };
        self.write(&mut sink)?;
        Ok((Digest::from_bytes(sink.hasher.finalize().into()), sink.size))
    }

    /// Writes the archive, always the same bytes. Blocks. A file that shrinks meanwhile is an error; one that grows is cut where
    /// it ended at the scan.
    pub fn write(&self, sink: impl Write) -> Result<(), PackError> {
        let mut archive = tar::Builder::new(sink);
        archive.sparse(false);
        for entry in &self.entries {
            self.append(&mut archive, entry).map_err(|source| {
                let path = self.root.join(&entry.name);
                PackError::Unpackable { path, source }
            })?;
        }
        archive.finish()?;
        Ok(())
    }

    fn append(&self, archive: &mut tar::Builder<impl Write>, entry: &Entry) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        match &entry.what {
            What::Directory => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
                archive.append_data(&mut header, format!("{}/", entry.name), io::empty())
            }
            What::File { size, executable } => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_mode(if *executable { 0o755 } else { 0o644 });
                header.set_size(*size);
                let file = fs::File::open(self.root.join(&entry.name))?;
                let mut exact = Exact { inner: file.take(*size), left: *size };
                archive.append_data(&mut header, &entry.name, &mut exact)
            }
            What::Link { target } => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                archive.append_link(&mut header, &entry.name, target)
            }
        }
    }
}

fn scan_dir(dir: &Path, prefix: &str, entries: &mut Vec<Entry>) -> Result<(), PackError> {
    for item in fs::read_dir(dir).map_err(unreadable(dir))? {
        let item = item.map_err(unreadable(dir))?;
        let path = item.path();
        let Ok(part) = item.file_name().into_string() else {
            return Err(PackError::Refused {
                detail: format!("{} has a name that is not UTF-8", path.display()),
                hint: "rename it; guests see UTF-8 names only",
            });
        };
        let name = if prefix.is_empty() { part } else { format!("{prefix}/{part}") };
        let meta = fs::symlink_metadata(&path).map_err(unreadable(&path))?;
        let what = classify(&path, &name, &meta)?;
        let is_directory = what == What::Directory;
        entries.push(Entry { name: name.clone(), what });
        if is_directory {
            scan_dir(&path, &name, entries)?;
        }
    }
    Ok(())
}

fn classify(path: &Path, name: &str, meta: &fs::Metadata) -> Result<What, PackError> {
    use std::os::unix::fs::PermissionsExt as _;
    let kind = meta.file_type();
    if kind.is_dir() {
        return Ok(What::Directory);
    }
    if kind.is_file() {
        let executable = meta.permissions().mode() & 0o100 != 0;
        return Ok(What::File { size: meta.len(), executable });
    }
    if kind.is_symlink() {
        let target = fs::read_link(path).map_err(unreadable(path))?;
        let inside =
            stays_inside(Path::new(name), &target).then(|| target.to_str().map(str::to_owned)).flatten();
        return match inside {
            Some(target) => Ok(What::Link { target }),
            None => Err(PackError::Refused {
                detail: format!(
                    "{} is a symbolic link to {}, outside the tree",
                    path.display(),
                    target.display()
                ),
                hint: "make it relative and point inside the directory, or replace it by a copy",
            }),
        };
    }
    Err(PackError::Refused {
        detail: format!("{} is neither file, directory nor symbolic link", path.display()),
        hint: "sockets, pipes and devices cannot be inputs; remove it from the directory",
    })
}

/// Reads exactly the announced number of bytes; an early end is an error instead of a wrong archive.
struct Exact<R> {
    inner: R,
    left: u64,
}

impl<R: io::Read> io::Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left -= count as u64;
        if count == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was packed",
            ));
        }
        Ok(count)
    }
}

struct DigestSink {
    hasher: Sha256,
    size: u64,
}

impl Write for DigestSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn archive(tree: &Tree) -> Vec<u8> {
        let mut bytes = Vec::new();
        tree.write(&mut bytes).expect("packed");
        bytes
    }

    fn sample(order: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("sub")).expect("made");
        for name in order {
            fs::write(dir.path().join(name), name.repeat(1_000)).expect("written");
        }
        symlink("../b.txt", dir.path().join("sub/link")).expect("linked");
        fs::set_permissions(dir.path().join("b.txt"), fs::Permissions::from_mode(0o640)).expect("set");
        dir
    }

    #[test]
    fn the_same_tree_gives_the_same_bytes_wherever_and_whenever_it_was_made() {
        let first = sample(&["a", "b.txt", "sub/z"]);
        let second = sample(&["sub/z", "b.txt", "a"]);
        let later = fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH);
        fs::File::open(second.path().join("a")).and_then(|f| f.set_times(later)).expect("touched");
        let trees = [first.path(), second.path()].map(|path| Tree::scan(path).expect("scanned"));
        let bytes = archive(&trees[0]);
        assert_eq!(bytes, archive(&trees[1]));
        let (digest, size) = trees[0].digest().expect("digested");
        assert_eq!(digest, Digest::from_bytes(Sha256::digest(&bytes).into()));
        assert_eq!(size, bytes.len() as u64);
    }

    #[test]
    fn modes_owners_and_times_do_not_leak() {
        let dir = sample(&["a", "b.txt", "sub/z"]);
        fs::set_permissions(dir.path().join("a"), fs::Permissions::from_mode(0o777)).expect("set");
        let bytes = archive(&Tree::scan(dir.path()).expect("scanned"));
        let mut seen = Vec::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().expect("an archive") {
            let entry = entry.expect("an entry");
            let header = entry.header();
            assert_eq!(
                (header.mtime().ok(), header.uid().ok(), header.gid().ok()),
                (Some(0), Some(0), Some(0))
            );
            seen.push((String::from_utf8_lossy(&entry.path_bytes()).into_owned(), header.mode().ok()));
        }
        let expected =
            [("a", 0o755), ("b.txt", 0o644), ("sub/", 0o755), ("sub/link", 0o777), ("sub/z", 0o644)];
        assert_eq!(seen, expected.map(|(name, mode)| (name.to_owned(), Some(mode))));
    }

    #[test]
    fn names_longer_than_the_header_survive() {
        let dir = tempfile::tempdir().expect("a directory");
        let name = format!("{0}/{0}", "x".repeat(200));
        fs::create_dir(dir.path().join("x".repeat(200))).expect("made");
        fs::write(dir.path().join(&name), "deep").expect("written");
        let bytes = archive(&Tree::scan(dir.path()).expect("scanned"));
        let names: Vec<_> = tar::Archive::new(bytes.as_slice())
            .entries()
            .expect("an archive")
            .map(|entry| entry.expect("an entry").path().expect("a path").into_owned())
            .collect();
        assert!(names.contains(&PathBuf::from(name)), "{names:?}");
    }

    #[test]
    fn links_that_leave_the_tree_are_refused_with_a_reason() {
        let dir = tempfile::tempdir().expect("a directory");
        symlink("/etc/passwd", dir.path().join("link")).expect("linked");
        let error = Tree::scan(dir.path()).expect_err("refused");
        assert!(error.to_string().contains("outside the tree"), "{error}");
    }

    #[test]
    fn what_is_no_file_is_refused_and_a_shrunk_file_is_noticed() {
        let dir = tempfile::tempdir().expect("a directory");
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).expect("bound");
        assert!(Tree::scan(dir.path()).is_err());
        fs::remove_file(dir.path().join("socket")).expect("removed");
        fs::write(dir.path().join("file"), "long enough").expect("written");
        let tree = Tree::scan(dir.path()).expect("scanned");
        fs::write(dir.path().join("file"), "short").expect("written");
        assert!(tree.digest().is_err());
    }
}
