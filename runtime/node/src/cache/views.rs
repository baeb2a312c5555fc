//! Each tenant's own view of the unpacked trees: one directory, which is all of the cache that its
//! executors can reach.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use gristmill_protocol::Digest;
use sha2::{Digest as _, Sha256};

use super::{Cache, Kind};

/// Characters of a view's name.
const VIEW_CHARS: usize = 32;

/// The name of a tenant's view; it says nothing about the tenant.
fn view(tenant: &str) -> String {
    let mut name = hex::encode(Sha256::digest(tenant));
    name.truncate(VIEW_CHARS);
    name
}

pub(super) fn is_view(name: &str) -> bool {
    name.len() == VIEW_CHARS && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The name of a tenant's tree in the cache.
pub(super) fn tree_name(tenant: &str, digest: &Digest) -> String {
    format!("{}/{}", view(tenant), digest.hex())
}

/// Makes a directory, if need be, that other users can read as far as those above it let them,
/// whatever the process's umask.
pub(super) fn make_readable_dir(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    fs::set_permissions(path, Permissions::from_mode(0o755))
}

impl Cache {
    /// The directory of the unpacked trees that a tenant may see, made if need be. It stays while the
    /// node runs. Blocks.
    pub(crate) fn tenant_trees(self: &Arc<Self>, tenant: &str) -> io::Result<PathBuf> {
        let dir = self.root.join(Kind::Tree.dir()).join(view(tenant));
        make_readable_dir(&dir)?;
        Ok(dir)
    }
}
