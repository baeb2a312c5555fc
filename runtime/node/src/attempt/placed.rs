//! An attempt's files in the slot of the executor that runs it.
//!
//! An executor can touch its slot and nothing else, so the attempt's two directories are moved there
//! for the time of the run and back afterwards. Moving a directory costs the same whatever it holds.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use gristmill_executor::Slot;

use super::{
    layout::Mount,
    scratch_dirs::{READABLE, WRITABLE},
};

/// The name of an attempt's directory in a slot; a slot holds one at a time.
const NAME: &str = "attempt";

/// Where the parts of an attempt lie: each as it was laid out, and as it is in the slot.
struct Parts([(PathBuf, PathBuf); 2]);

impl Parts {
    fn of(dir: &Path, slot: &Slot) -> Self {
        Self([
            (dir.join(READABLE), slot.readable().join(NAME)),
            (dir.join(WRITABLE), slot.writable().join(NAME)),
        ])
    }
}

/// Moves the attempt in `dir` into a slot and makes it the executor's. The answer is where the mounts
/// lie now, in their order. Blocks.
pub(crate) fn place(dir: &Path, slot: &Slot, mounts: &[Mount]) -> io::Result<Vec<PathBuf>> {
    let parts = Parts::of(dir, slot);
    let [(readable, _), (writable, _)] = &parts.0;
    slot.show(readable)?;
    // Only what lies in it: that it is there, and what it is called, stays the node's business.
    fs::set_permissions(writable, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(writable)? {
        slot.give(&entry?.path())?;
    }
    for (laid_out, placed) in &parts.0 {
        if let Err(error) = fs::rename(laid_out, placed) {
            take_back(dir, slot)?;
            return Err(error);
        }
    }
    let moved = |mount: &Mount| {
        let found = parts.0.iter().find_map(|(laid_out, placed)| {
            let below = mount.host_dir.strip_prefix(laid_out).ok()?;
            Some(placed.join(below))
        });
        found.unwrap_or_else(|| mount.host_dir.clone())
    };
    Ok(mounts.iter().map(moved).collect())
}

/// Moves an attempt back to `dir`. What is there already stays. Blocks.
pub(crate) fn take_back(dir: &Path, slot: &Slot) -> io::Result<()> {
    for (laid_out, placed) in Parts::of(dir, slot).0 {
        match fs::rename(placed, laid_out) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
