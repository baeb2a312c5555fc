//! The attempt's own directory: what the guest sees at `/`, at `/in` and where inputs are mounted.
//!
//! Read-only trees are mounted straight from the cache. Everything that the guest may write to is a
//! private copy. No path is built from a guest's names without a directory handle. A mount has one
//! mode, so inputs that could not keep theirs are refused.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use cap_std::{ambient_authority, fs::Dir};
use gristmill_protocol::{
    input_place::{InputPlace, PlaceFault, place_faults},
    job::{InputKind, InputMode},
};

use super::scratch_dirs::{READABLE, WRITABLE};
use crate::cache::tree::{copy_file, copy_tree};

/// An input whose bytes are on this machine.
#[derive(Debug, Clone)]
pub(crate) struct StagedInput {
    /// Absolute guest path.
    pub(crate) guest_path: String,
    /// A file, or a directory when `kind` is a tree. It is never changed.
    pub(crate) source: PathBuf,
    /// A file or a tree.
    pub(crate) kind: InputKind,
    /// Read-only, or a writable copy.
    pub(crate) mode: InputMode,
}

/// A directory of this machine that the guest sees. There is always one for `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Absolute guest path, such as `/`, `/in` or `/share`.
    pub(crate) guest_path: String,
    /// The directory.
    pub(crate) host_dir: PathBuf,
    /// Whether the guest may write.
    pub(crate) writable: bool,
}

/// Why inputs cannot be laid out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayoutError {
    /// A guest path that cannot be mounted, or two that exclude each other.
    #[error("{0}")]
    Path(String),
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Where a guest directory lies on the node.
struct Place {
    host: PathBuf,
    writable: bool,
    /// Mounted as it is, so nothing may be put into it.
    is_shared: bool,
}

/// Places by guest path; the deepest one that contains a path is where the path lies.
struct Places<'a> {
    dir: &'a Dir,
    base: &'a Path,
    by_path: BTreeMap<PathBuf, Place>,
    stop: &'a AtomicBool,
}

/// Lays out an attempt in the fresh skeleton `dir` and returns the mounts, `/` first.
///
/// The guest's `/` is `dir/rw/root`, its `/in` is `dir/ro/in`. Blocks; `stop` ends long copies early
/// with an `Interrupted` error.
pub(crate) fn lay_out(
    dir: &Path,
    inputs: &[StagedInput],
    stop: &AtomicBool,
) -> Result<Vec<Mount>, LayoutError> {
    let opened = Dir::open_ambient_dir(dir, ambient_authority())?;
    let mut places = Places { dir: &opened, base: dir, by_path: BTreeMap::new(), stop };
    places.add("/", dir.join(WRITABLE).join("root"), true, false);
    places.add("/in", dir.join(READABLE).join("in"), false, false);
    let mut sorted: Vec<&StagedInput> = inputs.iter().collect();
    // Trees first, since files may lie in them; then read-only files, whose directories become
    // mounts that no writable file can lie in.
    sorted.sort_by_key(|input| {
        let is_file = input.kind == InputKind::File;
        (is_file, is_file && input.mode == InputMode::Rw, &input.guest_path)
    });
    check_places(&sorted)?;
    for (index, input) in sorted.iter().enumerate() {
        let mut others = sorted.iter().enumerate().filter(|(other, _)| *other != index);
        let clash = others.find(|(_, other)| {
            let is_dir_for = other.kind == InputKind::Tree && other.guest_path != input.guest_path;
            !is_dir_for && Path::new(&input.guest_path).starts_with(&other.guest_path)
        });
        if let Some((_, other)) = clash {
            return Err(same_path(input, other));
        }
    }
    for input in &sorted {
        let result = match input.kind {
            InputKind::Tree => places.place_tree(input, sorted.iter().any(|other| lies_in(other, input))),
            _ => places.place_file(input),
        };
        result.map_err(|error| match error {
            LayoutError::Io(error) if is_clash(&error) => path_taken(input, &sorted),
            error => error,
        })?;
    }
    Ok(places.mounts())
}

/// Whether `inner` is mounted below `outer`.
fn lies_in(inner: &StagedInput, outer: &StagedInput) -> bool {
    inner.guest_path != outer.guest_path && Path::new(&inner.guest_path).starts_with(&outer.guest_path)
}

fn same_path(one: &StagedInput, other: &StagedInput) -> LayoutError {
    let (one, other) = (&one.guest_path, &other.guest_path);
    LayoutError::Path(format!("the inputs {other} and {one} claim the same path"))
}

/// Something is in the way of `input`: what another input brought along, as only its bytes show.
fn path_taken(input: &StagedInput, inputs: &[&StagedInput]) -> LayoutError {
    let related = inputs.iter().filter(|other| lies_in(input, other) || lies_in(other, input));
    match related.max_by_key(|other| other.guest_path.len()) {
        Some(other) => same_path(input, other),
        None => LayoutError::Path(format!("the input at {} claims a path that is taken", input.guest_path)),
    }
}

/// Whether the error says that files and directories get in each other's way. A path that a link in
/// a tree leads out of the attempt's directory is one of these; it has no error of the system.
fn is_clash(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, IsADirectory, NotADirectory, PermissionDenied};
    matches!(error.kind(), AlreadyExists | NotADirectory | IsADirectory)
        || rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::LOOP)
        || (error.kind() == PermissionDenied && error.raw_os_error().is_none())
}

/// Refuses paths that cannot be mounted, and those at which an input could not keep its mode.
fn check_places(inputs: &[&StagedInput]) -> Result<(), LayoutError> {
    let places: Vec<_> = inputs
        .iter()
        .map(|input| InputPlace { guest_path: &input.guest_path, kind: input.kind, mode: input.mode })
        .collect();
    match place_faults(&places).first() {
        Some(PlaceFault { index, fault }) => {
            Err(LayoutError::Path(format!("the input at {:?} {fault}", places[*index].guest_path)))
        }
        None => Ok(()),
    }
}

impl Places<'_> {
    fn add(&mut self, guest: impl Into<PathBuf>, host: PathBuf, writable: bool, is_shared: bool) {
        self.by_path.insert(guest.into(), Place { host, writable, is_shared });
    }

    /// The deepest place that contains `path`, and the path below it.
    fn find<'p>(&self, path: &'p Path) -> (&PathBuf, &Place, &'p Path) {
        path.ancestors()
            .find_map(|above| {
                let (guest, place) = self.by_path.get_key_value(above)?;
                Some((guest, place, path.strip_prefix(above).unwrap_or(Path::new(""))))
            })
            .expect("the root is a place and every path is absolute")
    }

    /// A directory of the attempt, made if needed, as a path below the attempt's directory.
    fn own_dir(&self, host: &Path, below: &Path) -> io::Result<PathBuf> {
        let path = host.strip_prefix(self.base).map_err(io::Error::other)?.join(below);
        self.dir.create_dir_all(&path)?;
        Ok(path)
    }

    /// Makes an empty directory where a mount appears, so that listings show it.
    fn show_mount_point(&self, guest: &Path) -> io::Result<()> {
        let parent = guest.parent().unwrap_or(Path::new("/"));
        let (_, place, below) = self.find(parent);
        if !place.is_shared {
            let name = guest.file_name().map_or(Path::new(""), Path::new);
            let host = place.host.clone();
            self.own_dir(&host, &below.join(name))?;
        }
        Ok(())
    }

    fn place_tree(&mut self, input: &StagedInput, holds_another: bool) -> Result<(), LayoutError> {
        let guest = Path::new(&input.guest_path);
        let writable = input.mode == InputMode::Rw;
        self.show_mount_point(guest)?;
        if !writable && !holds_another {
            self.add(guest, input.source.clone(), false, true);
            return Ok(());
        }
        let (found, place, below) = self.find(guest);
        let host = if writable && found == Path::new("/") && place.writable {
            place.host.join(below)
        } else {
            let part = if writable { WRITABLE } else { READABLE };
            self.base.join(part).join("trees").join(self.by_path.len().to_string())
        };
        let own = self.own_dir(&host, Path::new(""))?;
        let from = Dir::open_ambient_dir(&input.source, ambient_authority())?;
        copy_tree(&from, &self.dir.open_dir(own)?, !writable, self.stop)?;
        self.add(guest, host, writable, false);
        Ok(())
    }

    fn place_file(&mut self, input: &StagedInput) -> Result<(), LayoutError> {
        let parent = Path::new(&input.guest_path).parent().unwrap_or(Path::new("/"));
        let wants_writable = input.mode == InputMode::Rw;
        let (found, _, _) = self.find(parent);
        if found == Path::new("/") && !wants_writable {
            // A read-only file cannot lie in the scratch directory: its parent becomes a mount.
            self.show_mount_point(parent)?;
            let host = self.base.join(READABLE).join("files").join(self.by_path.len().to_string());
            self.own_dir(&host, Path::new(""))?;
            self.add(parent, host, false, false);
        }
        let (_, place, below) = self.find(parent);
        if place.is_shared {
            return Err(LayoutError::Path(format!(
                "the input at {} lies in a tree that cannot take it",
                input.guest_path
            )));
        }
        let host = place.host.clone();
        let target = self.own_dir(&host, below)?.join(
            Path::new(&input.guest_path)
                .file_name()
                .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?,
        );
        if self.dir.symlink_metadata(&target).is_ok() {
            self.dir.remove_file(&target)?;
        }
        let source_dir = input.source.parent().unwrap_or(Path::new("/"));
        let source_name = input.source.file_name().map_or(Path::new(""), Path::new);
        let source = Dir::open_ambient_dir(source_dir, ambient_authority())?;
        // What the guest may write to must not be the cache's own file.
        if wants_writable || source.hard_link(source_name, self.dir, &target).is_err() {
            copy_file(&source, source_name, self.dir, &target)?;
        }
        Ok(())
    }

    fn mounts(self) -> Vec<Mount> {
        let mount = |(guest, place): (PathBuf, Place)| Mount {
            guest_path: guest.to_string_lossy().into_owned(),
            host_dir: place.host,
            writable: place.writable,
        };
        self.by_path.into_iter().map(mount).collect()
    }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
