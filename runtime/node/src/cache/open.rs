//! Finding again what an earlier process of the node left in the cache.

use std::{
    collections::HashSet,
    fs::{self, DirEntry},
    io,
    path::Path,
    time::SystemTime,
};

use gristmill_executor::{empty_dir, remove_tree};

use super::{Key, Kind, index::Index, marks, remove_any, verify, views};

/// Entries that were found: last use, key, bytes.
type Found = Vec<(SystemTime, Key, u64)>;

/// Reads what is there, in the order of its last use. What is not whole is removed.
pub(super) fn find_entries(root: &Path) -> io::Result<Index> {
    for name in [marks::MARKS, "temp"].into_iter().chain(Kind::ALL.map(Kind::dir)) {
        super::make_private_dir(&root.join(name))?;
    }
    views::make_readable_dir(&root.join(Kind::Tree.dir()))?;
    empty_dir(&root.join("temp"))?;
    let mut found = Found::new();
    for kind in [Kind::Blob, Kind::Code] {
        for entry in fs::read_dir(root.join(kind.dir()))? {
            find_file(root, kind, &entry?, &mut found)?;
        }
    }
    for tenant in fs::read_dir(root.join(Kind::Tree.dir()))? {
        find_trees(root, &tenant?, &mut found)?;
    }
    found.sort();
    let needed: HashSet<_> = found.iter().map(|(_, key, _)| marks::mark(root, key)).collect();
    marks::remove_others(root, |path| needed.contains(path))?;
    let mut index = Index::default();
    for (_, key, bytes) in found {
        index.add(key, bytes, 0, None);
    }
    Ok(index)
}

fn find_file(root: &Path, kind: Kind, entry: &DirEntry, found: &mut Found) -> io::Result<()> {
    let metadata = entry.metadata()?;
    let name = entry.file_name().into_string();
    let Some(key) = name.ok().filter(|_| metadata.is_file()).map(|name| (kind, name)) else {
        return remove_any(&entry.path());
    };
    let used = marks::last_use(root, &key);
    if kind == Kind::Code && used.is_none() {
        tracing::warn!(name = key.1, "compiled code without a proof of its origin is removed");
        return fs::remove_file(entry.path());
    }
    found.push((used.map_or_else(|| metadata.modified(), Ok)?, key, metadata.len()));
    Ok(())
}

/// Finds the trees of one tenant; anything else is removed.
fn find_trees(root: &Path, tenant: &DirEntry, found: &mut Found) -> io::Result<()> {
    let view = tenant.file_name().into_string().ok().filter(|name| views::is_view(name));
    let Some(view) = view.filter(|_| tenant.file_type().is_ok_and(|kind| kind.is_dir())) else {
        return remove_any(&tenant.path());
    };
    for entry in fs::read_dir(tenant.path())? {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().filter(|name| !name.starts_with('.'));
        let Some(name) = name.filter(|_| entry.file_type().is_ok_and(|kind| kind.is_dir())) else {
            remove_any(&entry.path())?;
            continue;
        };
        let key = (Kind::Tree, format!("{view}/{name}"));
        if let Some(bytes) = verify::whole_bytes(&marks::mark(root, &key), &entry.path())? {
            let used = marks::last_use(root, &key).map_or_else(|| entry.metadata()?.modified(), Ok)?;
            found.push((used, key, bytes));
        } else {
            tracing::warn!(tree = name, "a cached tree is not whole; it is fetched again");
            remove_tree(&entry.path())?;
        }
    }
    // Stays if there is something in it.
    let _ = fs::remove_dir(tenant.path());
    Ok(())
}
