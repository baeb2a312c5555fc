//! The slots' directories: what an executor may touch.
//!
//! An executor's file rules are fixed when it is assigned, before its first attempt is known; so each
//! has a slot directory for life, and an attempt's files are moved into it for the time of the run.

use std::{
    fs::{self, FileType},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{scratch::remove_tree, uids::Uids};

/// All slots below one directory.
#[derive(Debug)]
pub(crate) struct Slots {
    parent: PathBuf,
    used: Mutex<Vec<bool>>,
    uids: Option<Uids>,
}

/// The directories of one executor. Free for the next when dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    number: u32,
    uid: Option<u32>,
}

impl Slots {
    /// Slots in `parent`, with user ids of their own if there are any.
    pub(crate) fn below(parent: PathBuf, uids: Option<Uids>) -> Arc<Self> {
        Arc::new(Self { parent, used: Mutex::default(), uids })
    }

    /// Whether slots can have user ids of their own.
    pub(crate) fn has_uids(&self) -> bool {
        self.uids.is_some()
    }

    /// Removes what a former executor or a failed run left in the slot.
    fn clear(&self, slot: &Slot) -> io::Result<()> {
        let is_empty = |dir: &Path| fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none());
        if is_empty(&slot.readable()) && is_empty(&slot.writable()) {
            return Ok(());
        }
        tracing::warn!(slot = slot.number, "a slot was not empty; what was in it is removed");
        remove_tree(&self.parent.join(slot.number.to_string()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<bool>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the first free slot and makes its directories. With `own_uid` it has a user id of its own,
    /// if there are any. Blocks shortly.
    pub(crate) fn take(self: &Arc<Self>, own_uid: bool) -> io::Result<Slot> {
        let number = {
            let mut used = self.lock();
            let free = used.iter().position(|used| !used).unwrap_or_else(|| {
                used.push(false);
                used.len() - 1
            });
            used[free] = true;
            u32::try_from(free).map_err(io::Error::other)?
        };
        let mut slot = Slot { slots: Arc::clone(self), number, uid: None };
        if own_uid && let Some(uids) = &self.uids {
            slot.uid = Some(uids.of(number)?);
        }
        self.clear(&slot)?;
        for dir in [slot.readable(), slot.writable()] {
            fs::create_dir_all(&dir)?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        }
        Ok(slot)
    }
}

impl Slot {
    /// What the executor may read.
    pub fn readable(&self) -> PathBuf {
        self.slots.parent.join(self.number.to_string()).join("ro")
    }

    /// What the executor may also write.
    pub fn writable(&self) -> PathBuf {
        self.slots.parent.join(self.number.to_string()).join("rw")
    }

    /// The executor's user id, if it has one of its own.
    pub fn uid(&self) -> Option<u32> {
        self.uid
    }

    /// Lets the executor read everything below `dir`: what a node makes is private by default. Links are
    /// not followed, and files with a second name, which belong to the cache, are left as they are.
    /// Blocks.
    ///
    /// # Errors
    /// When the directory cannot be listed or a mode not be changed.
    pub fn show(&self, dir: &Path) -> io::Result<()> {
        if self.uid.is_none() {
            return Ok(());
        }
        walk(dir, |path, kind| {
            if kind.is_dir() {
                return fs::set_permissions(path, fs::Permissions::from_mode(0o755));
            }
            let metadata = fs::symlink_metadata(path)?;
            if metadata.is_file() && metadata.nlink() == 1 {
                fs::set_permissions(path, fs::Permissions::from_mode(metadata.mode() | 0o444))?;
            }
            Ok(())
        })
    }

    /// Gives everything below `dir` to the executor, which has to be able to write there. Links are
    /// not followed. Blocks.
    ///
    /// # Errors
    /// When the directory cannot be listed or an owner not be changed.
    pub fn give(&self, dir: &Path) -> io::Result<()> {
        let Some(uid) = self.uid else { return Ok(()) };
        walk(dir, |path, _| lchown(path, Some(uid), Some(uid)))
    }
}

/// Visits a directory and everything below it, a directory before what it holds. Links are not followed.
fn walk(dir: &Path, mut visit: impl FnMut(&Path, FileType) -> io::Result<()>) -> io::Result<()> {
    visit(dir, fs::symlink_metadata(dir)?.file_type())?;
    let mut waiting = vec![dir.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(&next)? {
            let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
            visit(&path, kind)?;
            if kind.is_dir() {
                waiting.push(path);
            }
        }
    }
    Ok(())
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(used) = self.slots.lock().get_mut(self.number as usize) {
            *used = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_free_again_when_its_executor_is_gone() {
        let temp = tempfile::tempdir().expect("a directory");
        let slots = Slots::below(temp.path().to_owned(), None);
        let first = slots.take(true).expect("a slot");
        let second = slots.take(true).expect("a slot");
        assert!(first.readable().is_dir() && first.writable().is_dir());
        assert_ne!(first.writable(), second.writable());
        let freed = first.writable();
        drop(first);
        assert_eq!(slots.take(true).expect("a slot").writable(), freed);
        assert_eq!(second.uid(), None);
        let left = second.writable().join("left");
        fs::create_dir(&left).expect("a directory");
        drop(second);
        let both = [slots.take(true).expect("a slot"), slots.take(true).expect("a slot")];
        assert!(!left.exists() && both[1].writable().is_dir(), "nothing is left for the next");
    }
}
