//! What the node keeps for later jobs: blobs, unpacked trees and compiled code.
//!
//! An entry is whole or absent: it is made under a temporary name and renamed. Entries in use are
//! pinned; the least recently used of the others go when there is no room.

mod code_file;
mod download;
mod index;
mod marks;
mod open;
pub(crate) mod tree;
mod verify;
mod views;

use std::{
    collections::HashMap,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use gristmill_executor::remove_tree;

pub(crate) use self::{
    code_file::{CodeKey, FoundCode, OpenCode},
    download::{FetchError, fetch_blob, fetch_tree},
};
use self::{index::Index, verify::Stamp};

/// What an entry is; each kind has a directory of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// A file named by its digest.
    Blob,
    /// A directory unpacked from the blob of that digest.
    Tree,
    /// Compiled code, named by the executor's key.
    Code,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Blob, Self::Tree, Self::Code];

    fn dir(self) -> &'static str {
        match self {
            Self::Blob => "blobs",
            Self::Tree => "trees",
            Self::Code => "code",
        }
    }
}

type Key = (Kind, String);

/// The cache. Methods that touch the disk block; call them off the reactor.
#[derive(Debug)]
pub(crate) struct Cache {
    root: PathBuf,
    bytes_max: u64,
    index: Mutex<Index>,
    flights: Mutex<HashMap<Key, Weak<tokio::sync::Mutex<()>>>>,
    temps: AtomicU64,
}

/// An entry that cannot go away while this lives.
#[derive(Debug)]
pub(crate) struct Pinned {
    cache: Arc<Cache>,
    key: Key,
    id: u64,
}

impl Pinned {
    /// Where the entry lies.
    pub(crate) fn path(&self) -> PathBuf {
        self.cache.path(self.key.0, &self.key.1)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut index = self.cache.lock();
        if let Some(entry) = index.entries.get_mut(&self.key).filter(|entry| entry.id == self.id) {
            entry.pins -= 1;
        }
    }
}

/// The right to make one entry: whoever wants the same entry meanwhile waits for it.
#[derive(Debug)]
pub(crate) struct Flight {
    _guard: tokio::sync::OwnedMutexGuard<()>,
}

impl Cache {
    /// Opens the cache at `root`, dropping half-made entries. Compiled code is as good as the node's own
    /// program, so every directory but those of unpacked trees is for this user only.
    pub(crate) fn open(root: &Path, bytes_max: u64) -> io::Result<Arc<Self>> {
        let index = open::find_entries(root)?;
        Ok(Arc::new(Self {
            root: root.to_owned(),
            bytes_max,
            index: Mutex::new(index),
            flights: Mutex::default(),
            temps: AtomicU64::new(0),
        }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, kind: Kind, name: &str) -> PathBuf {
        self.root.join(kind.dir()).join(name)
    }

    /// Where verdicts on modules are kept, beside the entries.
    pub(crate) fn verdicts_file(&self) -> PathBuf {
        self.root.join("verdicts.json")
    }

    /// A new name for something half made, on the same file system as the entries.
    pub(crate) fn temp_path(&self) -> PathBuf {
        self.root.join("temp").join(self.temps.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// The entry, if it is there; it counts as used now. An entry whose bytes somebody has removed
    /// from the disk is forgotten.
    pub(crate) fn pin(self: &Arc<Self>, kind: Kind, name: &str) -> Option<Pinned> {
        let key = (kind, name.to_owned());
        let mut index = self.lock();
        let id = index.touch(&key)?;
        if let Err(error) = fs::symlink_metadata(self.path(kind, name)) {
            tracing::warn!(name, %error, "a cache entry is gone from the disk");
            index.forget(&key);
            return None;
        }
        drop(index);
        marks::note_use(&self.root, &key);
        Some(Pinned { cache: Arc::clone(self), key, id })
    }

    /// Whether the bytes of a blob have been checked since they last changed. Trees have no digest of
    /// their own and count as checked.
    pub(crate) fn is_verified(&self, pinned: &Pinned) -> bool {
        if pinned.key.0 != Kind::Blob {
            return true;
        }
        let verified = self.verified(pinned);
        verified.is_some() && Stamp::of(&pinned.path()).ok() == verified
    }

    fn verified(&self, pinned: &Pinned) -> Option<Stamp> {
        self.lock().entries.get(&pinned.key).filter(|entry| entry.id == pinned.id)?.verified
    }

    fn set_verified(&self, pinned: &Pinned, stamp: Stamp) {
        let mut index = self.lock();
        if let Some(entry) = index.entries.get_mut(&pinned.key).filter(|entry| entry.id == pinned.id) {
            entry.verified = Some(stamp);
        }
    }

    /// Checks a blob against its digest, and drops it from the cache if it has another one or cannot
    /// be read. Blocks for as long as reading it takes.
    pub(crate) fn verify(&self, pinned: Pinned) -> Option<Pinned> {
        let path = pinned.path();
        let checked = Stamp::of(&path).and_then(|stamp| Ok((stamp, verify::file_digest(&path)?)));
        match checked {
            Ok((stamp, digest)) if digest.hex() == pinned.key.1 => {
                self.set_verified(&pinned, stamp);
                Some(pinned)
            }
            other => {
                let error = other.err();
                tracing::warn!(name = pinned.key.1, ?error, "a cached blob has changed; it is fetched again");
                self.discard(&pinned);
                None
            }
        }
    }

    /// Takes an entry out of the cache and removes it. Whoever has it open keeps what he has.
    fn discard(&self, pinned: &Pinned) {
        let aside = {
            let mut index = self.lock();
            let is_there = index.entries.get(&pinned.key).is_some_and(|entry| entry.id == pinned.id);
            is_there.then(|| self.take_out(&mut index, &pinned.key)).flatten()
        };
        remove_aside(aside);
    }

    /// Waits until nobody else makes this entry. Look again afterwards whether it is there.
    pub(crate) async fn flight(&self, kind: Kind, name: &str) -> Flight {
        let lock = {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            flights.retain(|_, flight| flight.strong_count() > 0);
            let slot = flights.entry((kind, name.to_owned())).or_default();
            slot.upgrade().unwrap_or_else(|| {
                let fresh = Arc::new(tokio::sync::Mutex::new(()));
                *slot = Arc::downgrade(&fresh);
                fresh
            })
        };
        Flight { _guard: lock.lock_owned().await }
    }

    /// Takes in what was made at `temp`: makes room, renames, pins. Of two takers the first wins. The
    /// bytes of a blob must have been checked against its digest, the proof of code must be in its mark.
    pub(crate) fn adopt(
        self: &Arc<Self>,
        kind: Kind,
        name: &str,
        temp: &Path,
        bytes: u64,
    ) -> io::Result<Pinned> {
        if let Some(present) = self.pin(kind, name) {
            remove_any(temp)?;
            return Ok(present);
        }
        self.make_room(bytes);
        let verified = if kind == Kind::Blob { Some(Stamp::of(temp)?) } else { None };
        let key = (kind, name.to_owned());
        let mark = marks::mark(&self.root, &key);
        match kind {
            Kind::Blob => fs::write(mark, "")?,
            Kind::Tree => verify::mark_whole(&mark, temp)?,
            Kind::Code => {}
        }
        let mut index = self.lock();
        fs::rename(temp, self.path(kind, name))?;
        let id = index.add(key.clone(), bytes, 1, verified);
        Ok(Pinned { cache: Arc::clone(self), key, id })
    }

    /// Evicts until `bytes` more fit, as far as unpinned entries allow.
    pub(crate) fn make_room(&self, bytes: u64) {
        loop {
            let aside = {
                let mut index = self.lock();
                let Some(key) = index.victim(bytes, self.bytes_max) else { return };
                self.take_out(&mut index, &key)
            };
            remove_aside(aside);
        }
    }

    /// Forgets an entry and moves its bytes aside, in one step: who misses the entry afterwards finds
    /// its place free, and what is made there anew is not what is removed. Returns what to remove.
    fn take_out(&self, index: &mut Index, key: &Key) -> Option<PathBuf> {
        index.forget(key);
        let (path, aside) = (self.path(key.0, &key.1), self.temp_path());
        let moved = fs::rename(&path, &aside);
        let _ = fs::remove_file(marks::mark(&self.root, key));
        match moved {
            Ok(()) => Some(aside),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "failed to take out a cache entry");
                None
            }
        }
    }
}

/// Makes a directory for this user only, if need be.
fn make_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn remove_aside(aside: Option<PathBuf>) {
    if let Some(path) = aside
        && let Err(error) = remove_any(&path)
    {
        tracing::warn!(path = %path.display(), %error, "failed to remove a cache entry");
    }
}

/// Removes a file or a tree; nothing is done when there is no such thing.
pub(crate) fn remove_any(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => remove_tree(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
