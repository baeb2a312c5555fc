//! Where inputs may appear in the guest's file tree. The server asks at submit and the node before it
//! lays the inputs out, so that neither accepts what the other refuses.

use crate::job::{InputKind, InputMode, InputSpec};

/// Longest guest path, in bytes.
const PATH_BYTES_MAX: usize = 1_024;
/// Longest part of a guest path, in bytes.
const PART_BYTES_MAX: usize = 255;

/// Where one input appears to the guest, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputPlace<'a> {
    /// Absolute guest path.
    pub guest_path: &'a str,
    /// A file or a tree.
    pub kind: InputKind,
    /// Read-only, or a writable copy.
    pub mode: InputMode,
}

/// An input that cannot be where it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceFault {
    /// Which input, from 0.
    pub index: usize,
    /// What is wrong and what to do; it reads on after the input's path.
    pub fault: &'static str,
}

/// The directory that a path lies in; the empty text stands for `/`.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// A directory and all directories above it, the deepest first, without `/`.
fn upwards(directory: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(directory), |path| Some(parent(path))).take_while(|path| !path.is_empty())
}

impl<'a> InputPlace<'a> {
    /// The place that a job's input asks for; `guest_path` is [`InputSpec::guest_path`].
    pub fn of(input: &InputSpec, guest_path: &'a str) -> Self {
        Self { guest_path, kind: input.kind, mode: input.mode }
    }

    fn is_file(&self, mode: InputMode) -> bool {
        self.kind == InputKind::File && self.mode == mode
    }

    /// What is wrong with the place itself, whatever else the job has. `/in` is read-only as a
    /// whole, and `/` and `/tmp` are writable as a whole.
    fn own_fault(&self) -> Option<&'static str> {
        let path = self.guest_path;
        if path.len() > PATH_BYTES_MAX || path.contains('\0') {
            return Some("must be at most 1,024 bytes long and hold no zero byte");
        }
        let is_good = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= PART_BYTES_MAX;
        if !path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_good)) {
            return Some(
                "must be a plain absolute path with parts of at most 255 bytes, without empty parts, . or .., and not / itself",
            );
        }
        if matches!(path, "/in" | "/out" | "/tmp") {
            return Some("must not be /in, /out or /tmp themselves; mount below or beside them");
        }
        if path.starts_with("/out/") {
            return Some("must not lie below /out, where the outputs are collected");
        }
        if self.mode == InputMode::Rw && path.starts_with("/in/") {
            return Some("is writable (:rw) and needs an absolute path outside /in, which is read-only");
        }
        let is_loose = self.is_file(InputMode::Ro) && matches!(parent(path), "" | "/tmp");
        is_loose.then_some(
            "is a read-only file directly in / or /tmp, which are writable; put it into a directory, or make it writable (:rw)",
        )
    }

    /// What is wrong with a file among the other inputs: a directory has one mode, that of the tree
    /// that it belongs to, or read-only because a read-only file lies in it.
    fn mode_fault(&self, places: &[InputPlace<'_>]) -> Option<&'static str> {
        if self.kind != InputKind::File {
            return None;
        }
        for directory in upwards(parent(self.guest_path)) {
            let tree =
                places.iter().find(|place| place.kind == InputKind::Tree && place.guest_path == directory);
            let has_read_only = || {
                places
                    .iter()
                    .any(|place| place.is_file(InputMode::Ro) && parent(place.guest_path) == directory)
            };
            let mode = match tree {
                Some(tree) => tree.mode,
                None if directory == "/in" || has_read_only() => InputMode::Ro,
                None => continue,
            };
            return match (self.mode, mode) {
                (InputMode::Rw, InputMode::Ro) => Some(
                    "is writable (:rw) and lies in a directory that holds read-only inputs; give it a directory of its own",
                ),
                (InputMode::Ro, InputMode::Rw) => Some(
                    "is read-only and lies in a directory that is writable as a whole; give it a directory of its own",
                ),
                _ => None,
            };
        }
        None
    }
}

/// Every input that cannot be where it is asked for, with the first thing wrong about each. Two
/// inputs that claim one path are not looked for here.
pub fn place_faults(places: &[InputPlace<'_>]) -> Vec<PlaceFault> {
    let fault_of = |place: &InputPlace<'_>| place.own_fault().or_else(|| place.mode_fault(places));
    places
        .iter()
        .enumerate()
        .filter_map(|(index, place)| fault_of(place).map(|fault| PlaceFault { index, fault }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> InputPlace<'_> {
        let (kind, mode, guest_path) = match text.split_once(' ').expect("how and where") {
            ("file", path) => (InputKind::File, InputMode::Ro, path),
            ("file:rw", path) => (InputKind::File, InputMode::Rw, path),
            ("tree", path) => (InputKind::Tree, InputMode::Ro, path),
            (_, path) => (InputKind::Tree, InputMode::Rw, path),
        };
        InputPlace { guest_path, kind, mode }
    }

    fn faulty(texts: &[&str]) -> Vec<usize> {
        let places: Vec<_> = texts.iter().map(|text| place(text)).collect();
        place_faults(&places).iter().map(|fault| fault.index).collect()
    }

    #[test]
    fn places_that_would_hide_the_guests_own_or_are_no_plain_paths_are_refused() {
        let long = format!("file /{}", "x".repeat(256));
        for bad in [
            "tree /",
            "tree /in",
            "tree /out",
            "tree /tmp",
            "file /out/a",
            "file /a/../b",
            "file //a",
            "file /a/",
            "file a/b",
            "file ",
            "file /a/.",
            "file /a\0",
            &long,
        ] {
            assert_eq!(faulty(&[bad]), [0], "{bad}");
        }
        for good in ["file /in/a.csv", "file /share/data", "tree /work", "file /tmp/x/y", "file:rw /a"] {
            assert_eq!(faulty(&[good]), [] as [usize; 0], "{good}");
        }
    }

    #[test]
    fn an_input_is_refused_where_its_own_mode_could_not_be_kept() {
        for bad in ["file /a", "file /tmp/a", "file:rw /in/a", "tree:rw /in/a"] {
            assert_eq!(faulty(&[bad]), [0], "{bad}");
        }
    }

    #[test]
    fn read_only_and_writable_files_do_not_share_a_directory() {
        assert_eq!(faulty(&["file /d/a", "file:rw /d/b"]), [1]);
        assert_eq!(faulty(&["file:rw /d/b", "file /d/a"]), [0]);
        assert_eq!(faulty(&["file /d/a", "file:rw /d/e/b"]), [1], "also not further down");
        assert_eq!(faulty(&["file /d/e/a", "file:rw /d/b"]), [] as [usize; 0], "above is another directory");
        assert_eq!(faulty(&["file /d/a", "file:rw /e/b", "file:rw /b"]), [] as [usize; 0]);
        assert_eq!(faulty(&["file /d/a", "tree:rw /d/t"]), [] as [usize; 0], "a tree is a mount of its own");
    }

    #[test]
    fn a_file_in_a_tree_has_the_trees_mode() {
        assert_eq!(faulty(&["tree:rw /t", "file /t/a", "file:rw /t/b"]), [1]);
        assert_eq!(faulty(&["tree /t", "file /t/a", "file:rw /t/b"]), [2]);
        assert_eq!(faulty(&["tree /in/t", "file /in/t/a"]), [] as [usize; 0]);
        assert_eq!(faulty(&["file /d/a", "tree:rw /d/t", "file:rw /d/t/b"]), [] as [usize; 0]);
    }
}
