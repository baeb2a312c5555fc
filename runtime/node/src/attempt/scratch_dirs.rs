//! The directories in which attempts run, used again and again.
//!
//! Making and removing the same few directories for every small job is what a file system does
//! worst: it looks long for a number that was not in use a moment ago. So an attempt's directory is
//! emptied afterwards and kept for the next, if the guest left it in order.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use gristmill_executor::remove_tree;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};

/// What every attempt's directory holds at its start; all of it empty.
const SKELETON: [&str; 7] = ["ro", "ro/in", "rw", "rw/root", "rw/root/in", "rw/root/out", "rw/root/tmp"];
/// The part of an attempt's directory that the guest can only read, and the part that it can write.
pub(crate) const READABLE: &str = "ro";
/// See [`READABLE`].
pub(crate) const WRITABLE: &str = "rw";
/// The size of a directory that never held much. A larger one would tell the next guest about this one.
const DIRECTORY_BYTES_MAX: u64 = 4_096;
/// A directory that held more entries than this is slow to list for ever after; it is not kept.
const ENTRIES_MAX: usize = 1_000;

/// Directories of attempts: some in use, some kept for later.
#[derive(Debug)]
pub(crate) struct ScratchDirs {
    parent: PathBuf,
    spare: Mutex<Vec<PathBuf>>,
    spare_max: usize,
    names: AtomicU64,
}

/// The directory of one attempt. When it is dropped, which blocks, it is emptied and kept, or removed;
/// so whatever still works in it, also for an attempt that was given up, holds it.
#[derive(Debug)]
pub(crate) struct ScratchDir {
    dirs: Arc<ScratchDirs>,
    path: PathBuf,
    /// It is there, and holds the skeleton.
    is_made: bool,
}

/// Makes the directory `dir` with everything that an attempt starts with. Executors with a user id of
/// their own can read in it; `dir` itself only its owner can enter.
pub(crate) fn make_skeleton(dir: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(dir)?;
    SKELETON.iter().try_for_each(|name| DirBuilder::new().mode(0o755).create(dir.join(name)))
}

/// Gives a directory the times of one that was just made.
fn make_new(dir: &Path) -> io::Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    Ok(utimensat(CWD, dir, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

impl ScratchDirs {
    /// Directories below `parent`; at most `spare_max` are kept.
    pub(crate) fn below(parent: PathBuf, spare_max: usize) -> Arc<Self> {
        Arc::new(Self { parent, spare: Mutex::default(), spare_max, names: AtomicU64::new(0) })
    }

    /// A directory for an attempt, to be provided before it is used. Does not block.
    pub(crate) fn take(self: &Arc<Self>) -> ScratchDir {
        let dirs = Arc::clone(self);
        if let Some(path) = self.spare().pop() {
            return ScratchDir { dirs, path, is_made: true };
        }
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        ScratchDir { dirs, path: self.parent.join(number.to_string()), is_made: false }
    }

    fn spare(&self) -> std::sync::MutexGuard<'_, Vec<PathBuf>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_back(&self, path: &Path) -> io::Result<()> {
        let has_place = self.spare().len() < self.spare_max;
        if !has_place || !restore(path)? {
            return remove_tree(path);
        }
        self.spare().push(path.to_owned());
        Ok(())
    }

    /// Removes the directories that are kept. Blocks.
    pub(crate) fn remove_spare(&self) {
        let kept = std::mem::take(&mut *self.spare());
        for dir in kept {
            if let Err(error) = remove_tree(&dir) {
                tracing::debug!(%error, "failed to remove a spare directory; the next start does");
            }
        }
    }
}

impl ScratchDir {
    /// Where it is, once it is provided.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the empty skeleton, or makes it new. Blocks.
    pub(crate) fn provide(&self) -> io::Result<()> {
        if !self.is_made {
            return make_skeleton(&self.path);
        }
        // A guest can set the times of its directories, and must not find those of another.
        SKELETON.iter().try_for_each(|name| make_new(&self.path.join(name)))
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        if let Err(error) = self.dirs.take_back(&self.path) {
            tracing::warn!(dir = %self.path.display(), %error, "failed to empty an attempt's directory");
        }
    }
}

/// Empties the skeleton. False if a part of it is missing, is no directory, or held too much; then
/// the whole has to go.
fn restore(dir: &Path) -> io::Result<bool> {
    let parts = [
        ("", &["ro", "rw"][..]),
        ("ro", &["in"]),
        ("ro/in", &[]),
        ("rw", &["root"]),
        ("rw/root", &["in", "out", "tmp"]),
    ];
    let inner = ["rw/root/in", "rw/root/out", "rw/root/tmp"].map(|name| (name, &[][..]));
    let mut entries = 0;
    for (name, keeps) in parts.into_iter().chain(inner) {
        let here = dir.join(name);
        match fs::symlink_metadata(&here) {
            Ok(metadata) if metadata.is_dir() && metadata.len() <= DIRECTORY_BYTES_MAX => {}
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
        let mut missing: BTreeSet<&str> = keeps.iter().copied().collect();
        for entry in fs::read_dir(&here)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| missing.remove(name)) {
                continue;
            }
            entries += 1;
            if entries > ENTRIES_MAX {
                return Ok(false);
            }
            if entry.file_type()?.is_dir() {
                remove_tree(&entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        if !missing.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn listing(dir: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut waiting = vec![dir.to_owned()];
        while let Some(next) = waiting.pop() {
            for entry in fs::read_dir(next).expect("listed") {
                let entry = entry.expect("an entry");
                if entry.file_type().expect("a type").is_dir() {
                    waiting.push(entry.path());
                }
                let path = entry.path();
                found.push(path.strip_prefix(dir).expect("below").to_string_lossy().into_owned());
            }
        }
        found.sort();
        found
    }

    fn provided(dirs: &Arc<ScratchDirs>) -> ScratchDir {
        let dir = dirs.take();
        dir.provide().expect("provided");
        dir
    }

    /// Lets a guest loose in a directory and returns what the next attempt finds.
    fn after(guest: impl Fn(&Path)) -> Vec<String> {
        let temp = tempfile::tempdir().expect("a directory");
        let dirs = ScratchDirs::below(temp.path().to_owned(), 2);
        let first = provided(&dirs);
        guest(&first.path);
        drop(first);
        listing(&provided(&dirs).path)
    }

    #[test]
    fn the_next_attempt_finds_nothing_of_the_one_before() {
        let expected = SKELETON.map(String::from).to_vec();
        let guests: [&dyn Fn(&Path); 7] = [
            &|_| {},
            &|dir| fs::write(dir.join("rw/root/tmp/secret"), "x").expect("written"),
            &|dir| fs::create_dir_all(dir.join("rw/root/a/b/c")).expect("made"),
            &|dir| fs::create_dir_all(dir.join("ro/files/3")).expect("made"),
            &|dir| fs::remove_dir(dir.join("rw/root/out")).expect("removed"),
            &|dir| {
                fs::remove_dir(dir.join("rw/root/out")).expect("removed");
                symlink("/etc", dir.join("rw/root/out")).expect("a link");
            },
            &|dir| {
                for n in 0..1_100 {
                    fs::write(dir.join(format!("rw/root/out/{n}")), "").expect("written");
                }
            },
        ];
        for guest in guests {
            assert_eq!(after(guest), expected);
        }
    }

    #[test]
    fn the_next_attempt_finds_no_times_and_no_sizes_of_the_one_before() {
        let temp = tempfile::tempdir().expect("a directory");
        let dirs = ScratchDirs::below(temp.path().to_owned(), 2);
        let first = provided(&dirs);
        let path = first.path.clone();
        let message = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(0x4c45_414b);
        for name in SKELETON {
            let times = fs::FileTimes::new().set_accessed(message).set_modified(message);
            fs::File::open(path.join(name)).and_then(|dir| dir.set_times(times)).expect("set");
        }
        drop(first);
        let second = provided(&dirs);
        assert_eq!(second.path, path, "it is the same directory");
        for name in SKELETON {
            let metadata = fs::metadata(second.path.join(name)).expect("metadata");
            assert_ne!(metadata.modified().expect("a time"), message, "{name}");
            assert_ne!(metadata.accessed().expect("a time"), message, "{name}");
            assert!(metadata.len() <= DIRECTORY_BYTES_MAX, "{name}");
        }
    }

    #[test]
    fn links_in_a_directory_are_removed_and_not_followed() {
        let temp = tempfile::tempdir().expect("a directory");
        fs::write(temp.path().join("keep"), "x").expect("written");
        let outside = temp.path().to_owned();
        after(move |dir| symlink(&outside, dir.join("rw/root/tmp/link")).expect("a link"));
        assert!(temp.path().join("keep").exists());
    }

    #[test]
    fn only_so_many_are_kept() {
        let temp = tempfile::tempdir().expect("a directory");
        let dirs = ScratchDirs::below(temp.path().to_owned(), 1);
        let all: Vec<ScratchDir> = (0..3).map(|_| provided(&dirs)).collect();
        drop(all);
        assert_eq!(fs::read_dir(temp.path()).expect("listed").count(), 1);
        dirs.remove_spare();
        assert_eq!(fs::read_dir(temp.path()).expect("listed").count(), 0);
    }
}
