//! Private copies of unpacked trees, for inputs that a guest may change.

use std::{
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use cap_std::fs::Dir;

/// Copies what lies in `from` into the directory `to`, which must be there. Links are copied as
/// links. With `share`, files are hard links to the originals: for guests that may only read them.
///
/// Returns the bytes of all files. `stop` ends the copy early with an `Interrupted` error.
pub(crate) fn copy_tree(from: &Dir, to: &Dir, share: bool, stop: &AtomicBool) -> io::Result<u64> {
    let mut bytes = 0;
    let mut waiting = vec![PathBuf::new()];
    while let Some(dir) = waiting.pop() {
        for entry in from.read_dir(here(&dir))? {
            if stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let entry = entry?;
            let path = dir.join(entry.file_name());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                to.create_dir(&path)?;
                waiting.push(path);
            } else if kind.is_symlink() {
                to.symlink_contents(from.read_link_contents(&path)?, &path)?;
            } else if share && from.hard_link(&path, to, &path).is_ok() {
                bytes += entry.metadata()?.len();
            } else {
                bytes += copy_file(from, &path, to, &path)?;
            }
        }
    }
    Ok(bytes)
}

/// Copies one file so that its owner may write to the copy. Returns its size.
pub(crate) fn copy_file(from: &Dir, source: &Path, to: &Dir, target: &Path) -> io::Result<u64> {
    let mut input = from.open(source)?;
    let mut output = to.create(target)?;
    let bytes = io::copy(&mut input, &mut output)?;
    let times = rustix::fs::fstat(&input).map_err(io::Error::from)?;
    let time = rustix::fs::Timespec { tv_sec: times.st_mtime, tv_nsec: times.st_mtime_nsec as _ };
    let both = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::futimens(&output, &both).map_err(io::Error::from)?;
    Ok(bytes)
}

fn here(dir: &Path) -> &Path {
    if dir.as_os_str().is_empty() { Path::new(".") } else { dir }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use cap_std::ambient_authority;

    use super::*;

    fn open(path: &Path) -> Dir {
        fs::create_dir_all(path).expect("a directory");
        Dir::open_ambient_dir(path, ambient_authority()).expect("opened")
    }

    #[test]
    fn a_copy_can_be_changed_without_changing_the_original() {
        let temp = tempfile::tempdir().expect("a directory");
        let (from, to) = (open(&temp.path().join("from")), open(&temp.path().join("to")));
        from.create_dir_all("a/b").expect("directories");
        from.write("a/b/f", b"original").expect("a file");
        from.symlink("b/f", "a/link").expect("a link");
        let stop = AtomicBool::new(false);
        assert_eq!(copy_tree(&from, &to, false, &stop).expect("copied"), 8);
        to.write("a/b/f", b"changed").expect("writable");
        assert_eq!(from.read("a/b/f").expect("read"), b"original");
        assert_eq!(to.read("a/link").expect("read through the link"), b"changed");
    }

    #[test]
    fn a_shared_copy_costs_no_bytes_and_a_stopped_one_ends_early() {
        use std::os::unix::fs::MetadataExt;
        let temp = tempfile::tempdir().expect("a directory");
        let (from, to) = (open(&temp.path().join("from")), open(&temp.path().join("to")));
        from.write("f", b"original").expect("a file");
        let stop = AtomicBool::new(false);
        copy_tree(&from, &to, true, &stop).expect("shared");
        let inode = |path: &str| fs::metadata(temp.path().join(path)).expect("metadata").ino();
        assert_eq!(inode("from/f"), inode("to/f"));
        stop.store(true, Ordering::Relaxed);
        let other = open(&temp.path().join("other"));
        let error = copy_tree(&from, &other, true, &stop).expect_err("stopped");
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }
}
