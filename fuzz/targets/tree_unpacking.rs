//! Archives that somebody gives as a tree: nothing appears outside the tree, the limits hold, and what
//! was accepted can be packed and unpacked again.
#![no_main]

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Component, Path, PathBuf},
    sync::LazyLock,
};

use cap_std::{ambient_authority, fs::Dir};
use gristmill_tree::{ENTRIES_MAX, Tree, TreeError, tree_size, unpack};
use libfuzzer_sys::fuzz_target;

/// Bytes of files that a tree may have here.
const BYTES_MAX: u64 = 16 << 10;

/// Everything happens in here; in memory, where that can be had.
static SCRATCH: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("gristmill-fuzz-").tempdir_in(parent).expect("a directory")
});

/// A directory with one directory in it, the tree's.
struct Place {
    dir: PathBuf,
}

impl Place {
    fn make(name: &str) -> Self {
        let dir = SCRATCH.path().join(name);
        fs::DirBuilder::new().mode(0o700).create(&dir).expect("a directory");
        fs::create_dir(dir.join("tree")).expect("a directory");
        Self { dir }
    }

    fn tree(&self) -> PathBuf {
        self.dir.join("tree")
    }

    fn unpack(&self, archive: &[u8]) -> Result<u64, TreeError> {
        let root = Dir::open_ambient_dir(self.tree(), ambient_authority()).expect("opened");
        unpack(archive, &root, BYTES_MAX)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.dir).expect("removed");
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("listed");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// Checks every entry below `dir`, which is `depth` parts below the tree's root, and sums up the files.
fn check(dir: &Path, depth: usize) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).expect("listed") {
        let path = entry.expect("an entry").path();
        let metadata = fs::symlink_metadata(&path).expect("metadata");
        let kind = metadata.file_type();
        assert!(path.to_str().is_some(), "a name that is not UTF-8");
        assert!(depth < 64, "too deep");
        if kind.is_dir() {
            bytes += check(&path, depth + 1);
        } else if kind.is_symlink() {
            let mut left = depth as i64;
            for part in fs::read_link(&path).expect("a target").components() {
                left += match part {
                    Component::Normal(_) => 1,
                    Component::CurDir => 0,
                    Component::ParentDir => -1,
                    other => panic!("a link to {other:?}"),
                };
                assert!(left >= 0, "a link that leads out of the tree");
            }
        } else {
            assert!(kind.is_file(), "neither file, directory nor link");
            assert_eq!(metadata.nlink(), 1);
            assert_eq!(metadata.permissions().mode() & 0o7222, 0, "writable, or worse");
            bytes += metadata.len();
        }
    }
    bytes
}

/// What is in a tree can be packed; that archive is accepted and packs to itself.
fn repack(first: &Path) {
    // A link may name what is not UTF-8, which is never packed.
    let Ok(scanned) = Tree::scan(first) else { return };
    let mut archive = Vec::new();
    scanned.write(&mut archive).expect("packed");
    let again = Place::make("again");
    again.unpack(&archive).expect("an archive of our own is accepted");
    let mut second = Vec::new();
    Tree::scan(&again.tree()).expect("scanned").write(&mut second).expect("packed");
    assert_eq!(archive, second, "the same tree packs to the same bytes");
}

fuzz_target!(|archive: &[u8]| {
    let place = Place::make("first");
    let result = place.unpack(archive);
    assert_eq!(names(&place.dir), ["tree"], "something appeared beside the tree");
    assert_eq!(names(SCRATCH.path()), ["first"], "something appeared outside");
    let bytes = check(&place.tree(), 0);
    assert!(bytes <= BYTES_MAX, "{bytes} bytes were written");
    let (entries, _) = tree_size(&place.tree()).expect("counted");
    assert!(entries <= ENTRIES_MAX as u64);
    match result {
        Ok(said) => {
            assert_eq!(said, bytes);
            repack(&place.tree());
        }
        Err(TreeError::Refused(text)) => assert!(!text.contains("gristmill-fuzz-"), "a host path in {text}"),
        Err(TreeError::Io(_)) => {}
    }
});
