//! Good and hostile archives.

use cap_std::ambient_authority;
use tar::{Builder, Header};

use super::*;

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(1_000_000_000);
    header
}

/// Writes a path into a header without the checks of the tar crate.
fn raw_path(header: &mut Header, path: &[u8]) {
    header.as_old_mut().name[..path.len()].copy_from_slice(path);
    header.set_cksum();
}

fn file(builder: &mut Builder<Vec<u8>>, path: &[u8], content: &[u8]) {
    let mut header = header(EntryType::Regular, content.len() as u64);
    raw_path(&mut header, path);
    builder.append(&header, content).expect("appended");
}

fn special(builder: &mut Builder<Vec<u8>>, kind: EntryType, path: &[u8], link: &[u8]) {
    let mut header = header(kind, 0);
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
    raw_path(&mut header, path);
    builder.append(&header, io::empty()).expect("appended");
}

fn run(build: impl FnOnce(&mut Builder<Vec<u8>>)) -> (Result<u64, TreeError>, tempfile::TempDir) {
    let mut builder = Builder::new(Vec::new());
    build(&mut builder);
    let archive = builder.into_inner().expect("an archive");
    let temp = tempfile::tempdir().expect("a directory");
    let tree = temp.path().join("tree");
    std::fs::create_dir(&tree).expect("a directory");
    let root = Dir::open_ambient_dir(&tree, ambient_authority()).expect("opened");
    (unpack(archive.as_slice(), &root, 1 << 20), temp)
}

fn assert_refused(what: &str, build: impl FnOnce(&mut Builder<Vec<u8>>)) {
    let (result, temp) = run(build);
    match result {
        Err(TreeError::Refused(text)) => assert!(text.contains(what), "{text}"),
        other => panic!("expected a refusal with {what:?}, found {other:?}"),
    }
    let outside: Vec<_> = std::fs::read_dir(temp.path()).expect("listed").collect();
    assert_eq!(outside.len(), 1, "nothing may appear beside the tree");
}

#[test]
fn a_plain_tree_is_unpacked_with_its_times_and_links() {
    let long = format!("share/{}/file", "d".repeat(150));
    let (result, temp) = run(|builder| {
        special(builder, EntryType::Directory, b"./", b"");
        special(builder, EntryType::Directory, b"share/", b"");
        file(builder, b"share/a.txt", b"hello");
        file(builder, b"implied/dir/b", b"");
        special(builder, EntryType::Directory, b"implied/", b"");
        special(builder, EntryType::Symlink, b"share/link", b"../implied/./dir/b");
        let mut header = header(EntryType::Regular, 4);
        builder.append_data(&mut header, &long, b"long".as_slice()).expect("a long name");
        let pax = [("path", b"from/pax".as_slice())];
        builder.append_pax_extensions(pax).expect("pax");
        file(builder, b"short", b"pax");
    });
    assert_eq!(result.expect("unpacked"), 12);
    let tree = temp.path().join("tree");
    assert_eq!(std::fs::read(tree.join("share/a.txt")).expect("read"), b"hello");
    assert_eq!(std::fs::read(tree.join("share/link")).expect("read through the link"), b"");
    assert_eq!(std::fs::read(tree.join(long)).expect("read"), b"long");
    assert_eq!(std::fs::read(tree.join("from/pax")).expect("read"), b"pax");
    assert_eq!(tree_size(&tree).expect("counted").1, 12 + "../implied/./dir/b".len() as u64);
    let modified = std::fs::metadata(tree.join("share/a.txt")).and_then(|meta| meta.modified());
    let since = modified.expect("a time").duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    assert_eq!(since.as_secs(), 1_000_000_000);
}

#[test]
fn a20_paths_that_leave_the_tree_are_refused() {
    for path in [b"../evil".as_slice(), b"/etc/evil", b"a/../../evil", b"a/.."] {
        assert_refused("leads out of the tree", |builder| file(builder, path, b"x"));
    }
    assert_refused("leads out of the tree", |builder| {
        builder.append_pax_extensions([("path", b"../evil".as_slice())]).expect("pax");
        file(builder, b"good", b"x");
    });
}

#[test]
fn a20_links_that_leave_the_tree_and_files_behind_links_are_refused() {
    for target in [b"/etc/passwd".as_slice(), b"..", b"../x", b"a/../../x", b""] {
        assert_refused("link", |builder| special(builder, EntryType::Symlink, b"link", target));
    }
    assert_refused("below something that is no directory", |builder| {
        file(builder, b"dir/x", b"x");
        special(builder, EntryType::Symlink, b"link", b"dir");
        file(builder, b"link/y", b"y");
    });
    assert_refused("neither a file", |builder| special(builder, EntryType::Link, b"hard", b"a"));
}

#[test]
fn devices_pipes_and_sparse_files_are_refused() {
    for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::GNUSparse] {
        assert_refused("neither a file", |builder| special(builder, kind, b"thing", b""));
    }
    assert_refused("not plain tar", |builder| {
        builder.append_pax_extensions([("size", b"99999999".as_slice())]).expect("pax");
        file(builder, b"a", b"x");
    });
}

#[test]
fn a_name_that_is_there_twice_is_refused() {
    assert_refused("is there twice", |builder| {
        file(builder, b"a", b"1");
        file(builder, b"./a", b"2");
    });
    assert_refused("is there twice", |builder| {
        special(builder, EntryType::Symlink, b"a", b"b");
        file(builder, b"a", b"through the link");
    });
    assert_refused("is there twice", |builder| {
        special(builder, EntryType::Directory, b"d/", b"");
        special(builder, EntryType::Directory, b"d/", b"");
    });
    assert_refused("is there twice", |builder| {
        file(builder, b"d/x", b"1");
        file(builder, b"d", b"2");
    });
}

#[test]
fn trees_that_are_too_large_too_deep_or_no_archive_are_refused() {
    assert_refused("larger than it may be", |builder| file(builder, b"a", &vec![0; (1 << 20) + 1]));
    assert_refused("too long or too deep", |builder| {
        let deep = "d/".repeat(65) + "f";
        file(builder, &deep.as_bytes()[..99.min(deep.len())], b"x");
        let mut header = header(EntryType::Regular, 0);
        builder.append_data(&mut header, &deep, io::empty()).expect("a long name");
    });
    assert_refused("extension header", |builder| {
        let content = vec![b'x'; 70 << 10];
        let mut header = header(EntryType::GNULongName, content.len() as u64);
        raw_path(&mut header, b"././@LongLink");
        builder.append(&header, content.as_slice()).expect("appended");
    });
    assert_refused("not UTF-8", |builder| file(builder, b"\xff\xfe", b"x"));
    let temp = tempfile::tempdir().expect("a directory");
    let root = Dir::open_ambient_dir(temp.path(), ambient_authority()).expect("opened");
    let garbage = vec![7u8; 2_048];
    assert!(matches!(unpack(garbage.as_slice(), &root, 1), Err(TreeError::Refused(_))));
}

#[test]
fn an_archive_that_ends_early_is_refused() {
    let mut builder = Builder::new(Vec::new());
    file(&mut builder, b"a", &[1; 2_000]);
    let archive = builder.into_inner().expect("an archive");
    let temp = tempfile::tempdir().expect("a directory");
    let root = Dir::open_ambient_dir(temp.path(), ambient_authority()).expect("opened");
    assert!(unpack(&archive[..1_500], &root, 1 << 20).is_err());
}
