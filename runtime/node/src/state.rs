//! The node's private directory: who may use it, and what lies where.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use gristmill_executor::empty_dir;
use rustix::fs::{FlockOperation, flock};

/// How often the lock is tried, and the time in between.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// The opened state directory. It is locked while this lives.
#[derive(Debug)]
pub(crate) struct StateDir {
    root: PathBuf,
    _lock: File,
}

/// Takes the lock. A process that is being started right now has a copy of every descriptor until it
/// executes its program, that of a lock which its owner has given up among them; so this tries for two
/// seconds.
fn is_locked(lock: &File) -> bool {
    for _ in 0..LOCK_TRIES {
        if flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return true;
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    false
}

impl StateDir {
    /// Makes the directory if needed (mode 0700), locks it, and removes what a former process left
    /// half done. A second node on the same state is refused.
    ///
    /// After a crash of the whole machine the cache is emptied: what was not yet on the disk may be
    /// there in part, and nothing would tell.
    pub(crate) fn open(root: &Path) -> anyhow::Result<Self> {
        for dir in [root.to_owned(), root.join("attempts"), root.join("slots"), root.join("cache")] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .with_context(|| format!("failed to make the node's state directory {}", dir.display()))?;
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(root.join("lock"))
            .with_context(|| format!("failed to open the lock in {}", root.display()))?;
        if !is_locked(&lock) {
            bail!(
                "another node is using the state directory {}; stop it, or give this node a directory of its own",
                root.display()
            );
        }
        let state = Self { root: root.to_owned(), _lock: lock };
        for dir in [state.attempts(), state.slots()] {
            empty_dir(&dir).context("failed to remove the scratch of a former run")?;
        }
        state.begin_boot().context("failed to check the node's cache")?;
        Ok(state)
    }

    pub(crate) fn attempts(&self) -> PathBuf {
        self.root.join("attempts")
    }

    /// Where attempts lie while they run.
    pub(crate) fn slots(&self) -> PathBuf {
        self.root.join("slots")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// The secret by which the node knows its own compiled code.
    pub(crate) fn code_key_file(&self) -> PathBuf {
        self.root.join("code.key")
    }

    pub(crate) fn identity_file(&self) -> PathBuf {
        self.root.join("identity.json")
    }

    fn boot_file(&self) -> PathBuf {
        self.root.join("boot")
    }

    /// Trusts the cache if the machine has not been restarted since, or if the node came to an
    /// orderly end before that.
    fn begin_boot(&self) -> io::Result<()> {
        let now = boot_id();
        let before = fs::read_to_string(self.boot_file()).unwrap_or_default();
        if before != now && before != "clean" {
            empty_dir(&self.cache())?;
        }
        write_private(&self.boot_file(), now.as_bytes())
    }

    /// Marks an orderly end, after bringing everything to the disk.
    pub(crate) fn close(&self) {
        let flushed = File::open(&self.root).and_then(|dir| {
            #[cfg(target_os = "linux")]
            rustix::fs::syncfs(&dir)?;
            #[cfg(not(target_os = "linux"))]
            dir.sync_all()?;
            Ok(())
        });
        if let Err(error) = flushed.and_then(|()| write_private(&self.boot_file(), b"clean")) {
            tracing::debug!(%error, "the cache will not be kept over a restart of the machine");
        }
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "unknown".into(), |text| text.trim().to_owned())
}

/// Writes a file that only this user may read, whole or not at all, and durably.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temp = path.with_extension("tmp");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temp, path)?;
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_second_node_on_the_same_state_is_refused() {
        let temp = tempfile::tempdir().expect("a directory");
        let first = StateDir::open(temp.path()).expect("the first");
        let error = StateDir::open(temp.path()).expect_err("the second");
        assert!(error.to_string().contains("another node"), "{error}");
        drop(first);
        StateDir::open(temp.path()).expect("free again");
    }

    #[test]
    fn stale_scratch_goes_and_the_cache_stays_after_a_crash_of_the_node_alone() {
        let temp = tempfile::tempdir().expect("a directory");
        drop(StateDir::open(temp.path()).expect("opened"));
        fs::create_dir_all(temp.path().join("attempts/job-1/root")).expect("scratch");
        fs::write(temp.path().join("cache/blob"), "x").expect("a blob");
        let state = StateDir::open(temp.path()).expect("opened again");
        assert_eq!(fs::read_dir(state.attempts()).expect("listed").count(), 0);
        assert!(temp.path().join("cache/blob").exists());
    }

    #[test]
    fn the_cache_survives_a_restart_of_the_machine_only_after_an_orderly_end() {
        let temp = tempfile::tempdir().expect("a directory");
        let state = StateDir::open(temp.path()).expect("opened");
        fs::write(temp.path().join("cache/blob"), "x").expect("a blob");
        state.close();
        drop(state);
        drop(StateDir::open(temp.path()).expect("after an orderly end"));
        assert!(temp.path().join("cache/blob").exists());
        fs::write(temp.path().join("boot"), "another boot").expect("as after a power cut");
        drop(StateDir::open(temp.path()).expect("after a power cut"));
        assert!(!temp.path().join("cache/blob").exists());
    }

    #[test]
    fn private_files_are_private() {
        let temp = tempfile::tempdir().expect("a directory");
        let path = temp.path().join("secret.json");
        write_private(&path, b"x").expect("written");
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
