//! The rule for symbolic links, the same on both sides.

use std::path::{Component, Path};

/// Whether a link at `path`, relative to the tree's root, points to a place below that root when it is
/// read as text. An empty target does not.
pub(crate) fn stays_inside(path: &Path, target: &Path) -> bool {
    let mut depth = path.components().count().saturating_sub(1);
    let inside = target.components().all(|part| match part {
        Component::Normal(_) => {
            depth += 1;
            true
        }
        Component::CurDir => true,
        Component::ParentDir if depth > 0 => {
            depth -= 1;
            true
        }
        _ => false,
    });
    inside && !target.as_os_str().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_to_places_below_the_root_stay_inside() {
        for target in ["/etc/passwd", "../outside", "sub/../../x", ""] {
            assert!(!stays_inside(Path::new("link"), Path::new(target)), "{target}");
        }
        for (path, target) in [("sub/link", "../a"), ("link", "."), ("a/b/link", "../../c/./d")] {
            assert!(stays_inside(Path::new(path), Path::new(target)), "{path} -> {target}");
        }
    }
}
