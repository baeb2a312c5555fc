//! Archives: good trees, and each kind of entry that is refused.

use std::io;

use tar::{Builder, EntryType, Header};

fn entry(archive: &mut Builder<Vec<u8>>, kind: EntryType, path: &[u8], link: &[u8], content: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(1_000_000_000);
    // Written as they are: the crate's own checks would refuse some of them.
    header.as_old_mut().name[..path.len()].copy_from_slice(path);
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
    header.set_cksum();
    archive.append(&header, content).expect("written to memory");
}

fn archive(build: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    build(&mut archive);
    archive.into_inner().expect("written to memory")
}

/// Names and bytes.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let (file, dir, link) = (EntryType::Regular, EntryType::Directory, EntryType::Symlink);
    let plain = archive(|to| {
        entry(to, dir, b"./", b"", b"");
        entry(to, dir, b"share/", b"", b"");
        entry(to, file, b"share/a.txt", b"", b"hello");
        entry(to, file, b"implied/dir/b", b"", b"");
        entry(to, link, b"share/link", b"../implied/./dir/b", b"");
    });
    let long = archive(|to| {
        let mut header = Header::new_gnu();
        header.set_size(4);
        to.append_data(&mut header, "d/".repeat(60) + "file", b"long".as_slice()).expect("written to memory");
        to.append_pax_extensions([("path", b"from/pax".as_slice()), ("linkpath", b"x")])
            .expect("written to memory");
        entry(to, file, b"short", b"", b"pax");
        let mut header = Header::new_gnu();
        header.set_entry_type(link);
        to.append_link(&mut header, "link", "t/".repeat(60) + "target").expect("written to memory");
    });
    let escapes = archive(|to| entry(to, file, b"a/../../evil", b"", b"x"));
    let link_out = archive(|to| entry(to, link, b"link", b"../x", b""));
    let behind_link = archive(|to| {
        entry(to, link, b"link", b"dir", b"");
        entry(to, file, b"link/y", b"", b"y");
    });
    let special = archive(|to| {
        entry(to, EntryType::Fifo, b"pipe", b"", b"");
        entry(to, EntryType::Link, b"hard", b"a", b"");
        entry(to, EntryType::GNUSparse, b"sparse", b"", b"");
    });
    let twice = archive(|to| {
        entry(to, file, b"a", b"", b"1");
        entry(to, file, b"./a", b"", b"2");
    });
    let pax_size = archive(|to| {
        to.append_pax_extensions([("size", b"99999999".as_slice())]).expect("written to memory");
        entry(to, file, b"a", b"", b"x");
    });
    let cut = plain[..1_300].to_vec();
    let mut empty = Builder::new(Vec::new());
    empty.finish().expect("written to memory");
    let empty = empty.into_inner().map_err(io::Error::other).expect("written to memory");
    vec![
        ("plain", plain),
        ("long_names", long),
        ("escapes", escapes),
        ("link_out", link_out),
        ("behind_link", behind_link),
        ("special", special),
        ("twice", twice),
        ("pax_size", pax_size),
        ("cut", cut),
        ("empty", empty),
    ]
}
