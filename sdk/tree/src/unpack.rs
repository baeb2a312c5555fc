//! Unpacking input trees. The archive comes from a user and is hostile until shown otherwise.
//!
//! Only plain tar with files, directories and links that stay inside the tree is accepted. Every
//! path is checked by hand and created through a directory handle that cannot be left.

use std::{
    collections::HashMap,
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};
use rustix::fs::{AtFlags, Mode, Timespec, Timestamps};
use tar::EntryType;

use crate::link::stays_inside;

/// Most entries of a tree.
pub const ENTRIES_MAX: usize = 200_000;
/// Longest path in a tree, in bytes.
const PATH_BYTES_MAX: usize = 1_024;
/// Deepest path in a tree, in parts.
const DEPTH_MAX: usize = 64;
/// Longest extension header (long names), in bytes.
const EXTENSION_BYTES_MAX: u64 = 64 << 10;

/// Why an archive is no tree.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The archive breaks a rule.
    #[error("{0}")]
    Refused(String),
    /// Reading the archive or writing the tree failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn refused(path: &Path, what: &str) -> TreeError {
    let name: String = path.to_string_lossy().chars().take(200).flat_map(char::escape_default).collect();
    TreeError::Refused(format!("the tree's entry {name:?} {what}"))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    /// Not in the archive, but needed by an entry below it.
    ImpliedDir,
    Dir,
    Leaf,
}

struct Unpacking<'a> {
    root: &'a Dir,
    bytes_left: u64,
    bytes: u64,
    made: HashMap<PathBuf, Made>,
}

/// Names that an extension header gives to the entry after it.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

/// Unpacks the archive into the empty directory `root` and returns the bytes of all files. Blocks.
///
/// At most `bytes_max` bytes of file content and [`ENTRIES_MAX`] entries are written, all of them below
/// `root`. What an archive that is refused in its middle has left there is for the caller to remove.
/// Times are those of the archive; modes are 0444 for files and 0755 for directories.
pub fn unpack(archive: impl Read, root: &Dir, bytes_max: u64) -> Result<u64, TreeError> {
    let mut unpacking = Unpacking { root, bytes_left: bytes_max, bytes: 0, made: HashMap::new() };
    let mut archive = tar::Archive::new(archive);
    let mut extension = Extension::default();
    // Raw: the crate's own handling of long names reads them whole, whatever their size.
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry.map_err(not_an_archive)?;
        let kind = entry.header().entry_type();
        if is_extension(kind) {
            read_extension(&mut entry, kind, &mut extension)?;
            continue;
        }
        let named = std::mem::take(&mut extension);
        let path = match &named.path {
            Some(bytes) => bytes_path(bytes),
            None => bytes_path(&entry.header().path_bytes()),
        };
        let link = match &named.link {
            Some(bytes) => Some(bytes_path(bytes)),
            None => entry.header().link_name_bytes().map(|bytes| bytes_path(&bytes)),
        };
        unpacking.entry(&mut entry, kind, &path, link.as_deref())?;
    }
    Ok(unpacking.bytes)
}

fn not_an_archive(error: io::Error) -> TreeError {
    // The crate reports damaged headers as errors of the kind `Other`; a broken transfer is not one.
    if matches!(error.kind(), io::ErrorKind::Other | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
    {
        TreeError::Refused(format!("the tree is no tar archive: {error}"))
    } else {
        TreeError::Io(error)
    }
}

fn bytes_path(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

fn is_extension(kind: EntryType) -> bool {
    kind.is_gnu_longname()
        || kind.is_gnu_longlink()
        || kind.is_pax_local_extensions()
        || kind.is_pax_global_extensions()
}

fn read_extension(
    entry: &mut impl Read,
    kind: EntryType,
    extension: &mut Extension,
) -> Result<(), TreeError> {
    let mut bytes = Vec::new();
    entry.take(EXTENSION_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > EXTENSION_BYTES_MAX {
        return Err(TreeError::Refused("the tree has an extension header of more than 64 KiB".into()));
    }
    if kind.is_pax_global_extensions() {
        return Ok(());
    }
    if kind.is_pax_local_extensions() {
        for record in tar::PaxExtensions::new(&bytes) {
            let record = record.map_err(not_an_archive)?;
            match record.key_bytes() {
                b"path" => extension.path = Some(record.value_bytes().to_vec()),
                b"linkpath" => extension.link = Some(record.value_bytes().to_vec()),
                b"size" | b"GNU.sparse.major" | b"GNU.sparse.map" => {
                    return Err(TreeError::Refused(
                        "the tree has a file in a form that is not plain tar (sparse, or with a pax size); pack it with `tar --format=gnu`"
                            .into(),
                    ));
                }
                _ => {}
            }
        }
        return Ok(());
    }
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    if kind.is_gnu_longname() {
        extension.path = Some(bytes);
    } else {
        extension.link = Some(bytes);
    }
    Ok(())
}

impl Unpacking<'_> {
    fn entry<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        kind: EntryType,
        path: &Path,
        link: Option<&Path>,
    ) -> Result<(), TreeError> {
        let clean = clean_path(path)?;
        if clean.as_os_str().is_empty() {
            // `./`, the tree's own root.
            return if kind.is_dir() { Ok(()) } else { Err(refused(path, "has no name")) };
        }
        self.make_parents(&clean)?;
        if kind.is_dir() {
            self.make_dir(&clean)
        } else if kind.is_file() {
            self.make_file(entry, &clean)
        } else if kind.is_symlink() {
            let target = link.ok_or_else(|| refused(path, "is a link to nothing"))?;
            self.make_link(&clean, target)
        } else {
            Err(refused(path, "is neither a file, a directory nor a symbolic link"))
        }
    }

    fn record(&mut self, path: &Path, made: Made) -> Result<(), TreeError> {
        if self.made.len() >= ENTRIES_MAX {
            return Err(TreeError::Refused(format!("the tree has more than {ENTRIES_MAX} entries")));
        }
        match self.made.insert(path.to_owned(), made) {
            None => Ok(()),
            Some(Made::ImpliedDir) if made == Made::Dir => Ok(()),
            Some(_) => Err(refused(path, "is there twice")),
        }
    }

    /// Parents are directories that this unpacking made itself; in particular no parent is a link.
    fn make_parents(&mut self, path: &Path) -> Result<(), TreeError> {
        let mut parents: Vec<&Path> =
            path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()).collect();
        parents.reverse();
        for parent in parents {
            match self.made.get(parent) {
                Some(Made::Dir | Made::ImpliedDir) => {}
                Some(Made::Leaf) => return Err(refused(path, "lies below something that is no directory")),
                None => {
                    self.record(parent, Made::ImpliedDir)?;
                    self.create_dir(parent)?;
                }
            }
        }
        Ok(())
    }

    fn make_dir(&mut self, path: &Path) -> Result<(), TreeError> {
        let implied = self.made.get(path) == Some(&Made::ImpliedDir);
        self.record(path, Made::Dir)?;
        if !implied {
            self.create_dir(path)?;
        }
        Ok(())
    }

    /// Others may read the tree, whatever the umask.
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.root.create_dir(path)?;
        Ok(rustix::fs::chmodat(self.root, path, Mode::from_raw_mode(0o755), AtFlags::empty())?)
    }

    fn make_file<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, path: &Path) -> Result<(), TreeError> {
        self.record(path, Made::Leaf)?;
        let size = entry.header().entry_size().map_err(not_an_archive)?;
        if size > self.bytes_left {
            return Err(refused(path, "makes the tree larger than it may be"));
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o444);
        let file = self.root.open_with(path, &options)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o444)).map_err(io::Error::from)?;
        let copied = io::copy(&mut entry.take(size), &mut &file)?;
        if copied != size {
            return Err(TreeError::Refused("the tree's archive ends in the middle of a file".into()));
        }
        self.bytes_left -= size;
        self.bytes += size;
        let seconds = entry.header().mtime().unwrap_or(0).min(u64::from(u32::MAX));
        let time = Timespec { tv_sec: seconds as i64, tv_nsec: 0 };
        rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time })
            .map_err(io::Error::from)?;
        Ok(())
    }

    fn make_link(&mut self, path: &Path, target: &Path) -> Result<(), TreeError> {
        self.record(path, Made::Leaf)?;
        if !stays_inside(path, target) || target.as_os_str().len() > PATH_BYTES_MAX {
            return Err(refused(path, "is a link that leads out of the tree"));
        }
        self.root.symlink(target, path)?;
        Ok(())
    }
}

/// The path without `.` parts; absolute paths, `..` and names that cannot be are refused.
fn clean_path(path: &Path) -> Result<PathBuf, TreeError> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            _ => return Err(refused(path, "has a path that leads out of the tree")),
        }
    }
    let bytes = clean.as_os_str().as_encoded_bytes();
    if bytes.contains(&0) || std::str::from_utf8(bytes).is_err() {
        return Err(refused(path, "has a name that is not UTF-8"));
    }
    if bytes.len() > PATH_BYTES_MAX || clean.components().count() > DEPTH_MAX {
        return Err(refused(path, "has a path that is too long or too deep"));
    }
    Ok(clean)
}

/// Number of entries of an unpacked tree, and the bytes of all its files and links.
pub fn tree_size(dir: &Path) -> io::Result<(u64, u64)> {
    let (mut entries, mut bytes) = (0, 0);
    let mut waiting = vec![dir.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in std::fs::read_dir(next)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            entries += 1;
            if metadata.is_dir() {
                waiting.push(entry.path());
            } else {
                bytes += metadata.len();
            }
        }
    }
    Ok((entries, bytes))
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
