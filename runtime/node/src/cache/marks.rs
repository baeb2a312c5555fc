//! Marks beside the entries: what shows that an entry is whole and the node's own, and, by the mark's
//! time of change, when the entry was last used. The entries themselves stay as they are.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::Key;

/// The directory of the marks.
pub(super) const MARKS: &str = "marks";

/// Where the mark of an entry lies.
pub(super) fn mark(root: &Path, (kind, name): &Key) -> PathBuf {
    root.join(MARKS).join(format!("{}-{}", kind.dir(), name.replace('/', "-")))
}

/// Notes that an entry is used now. Without a mark nothing is noted: then its age decides.
pub(super) fn note_use(root: &Path, key: &Key) {
    let noted = File::options().write(true).open(mark(root, key));
    let noted = noted.and_then(|file| file.set_modified(SystemTime::now()));
    if let Err(error) = noted {
        tracing::debug!(name = key.1, %error, "the use of a cache entry is not noted");
    }
}

/// When an entry was last used, as far as that was noted.
pub(super) fn last_use(root: &Path, key: &Key) -> Option<SystemTime> {
    fs::metadata(mark(root, key)).and_then(|metadata| metadata.modified()).ok()
}

/// Removes the marks for which `is_needed` does not hold.
pub(super) fn remove_others(root: &Path, is_needed: impl Fn(&Path) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(root.join(MARKS))? {
        let path = entry?.path();
        if !is_needed(&path) {
            super::remove_any(&path)?;
        }
    }
    Ok(())
}
