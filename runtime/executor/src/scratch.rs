//! Removing directories that a hostile guest has filled.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Removes `dir` and everything below it; nothing is done when there is no such thing. Links are
/// removed, never followed. `dir` must be on the same file system as its parent.
///
/// A guest can nest directories deeper than any recursion or path allows. So every directory found
/// is first moved up, beside `dir`, and emptied there: the depth is always one.
pub fn remove_tree(dir: &Path) -> io::Result<()> {
    let parent = dir.parent().unwrap_or(Path::new("."));
    let Some(first) = move_aside(dir, parent)? else { return Ok(()) };
    let mut waiting = vec![first];
    while let Some(next) = waiting.pop() {
        let entries = fs::read_dir(&next).or_else(|_| {
            // A directory that nobody may read can still be given back its owner's rights.
            fs::set_permissions(&next, fs::Permissions::from_mode(0o700))?;
            fs::read_dir(&next)
        });
        for entry in entries? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                waiting.extend(move_aside(&entry.path(), parent)?);
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        fs::remove_dir(&next)?;
    }
    Ok(())
}

fn move_aside(dir: &Path, parent: &Path) -> io::Result<Option<PathBuf>> {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let aside = parent.join(format!(".gone-{}-{number}", std::process::id()));
    match fs::rename(dir, &aside) {
        Ok(()) => Ok(Some(aside)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes everything in `dir`, but not `dir` itself.
pub fn empty_dir(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_any_path_is_removed_and_links_are_not_followed() {
        let temp = tempfile::tempdir().expect("a directory");
        let keep = temp.path().join("keep");
        fs::write(&keep, "x").expect("a file");
        let top = temp.path().join("top");
        fs::create_dir(&top).expect("a directory");
        let mut deepest =
            cap_std::fs::Dir::open_ambient_dir(&top, cap_std::ambient_authority()).expect("top");
        for level in 0..3_000 {
            deepest.create_dir("a-rather-long-name").expect("a directory");
            if level % 1_000 == 0 {
                deepest.write("file", b"x").expect("a file");
                deepest.symlink_contents(&keep, "link").expect("a link");
            }
            deepest = deepest.open_dir("a-rather-long-name").expect("the directory");
        }
        drop(deepest);
        remove_tree(&top).expect("removed");
        assert_eq!(fs::read_dir(temp.path()).expect("listed").count(), 1, "only the kept file is left");
        assert!(keep.exists());
        remove_tree(&top).expect("nothing to do");
    }

    #[test]
    fn emptying_keeps_the_directory_itself() {
        let temp = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(temp.path().join("a/b")).expect("directories");
        fs::write(temp.path().join("a/b/c"), "x").expect("a file");
        fs::write(temp.path().join("d"), "x").expect("a file");
        empty_dir(temp.path()).expect("emptied");
        assert_eq!(fs::read_dir(temp.path()).expect("listed").count(), 0);
    }
}
