//! What a guest can reach in the file system.

use std::{fs, os::unix::fs::symlink};

use gristmill_protocol::Reason;

use crate::guest::{CREAT, Guest, RW, TRUNC, program};

/// Exits with the error number of opening.
fn open_exit(dir: u32, path: u32, len: u32, flags: u32, rights: u64) -> String {
    program(&format!(
        "(call $exit (call $open (i32.const {dir}) (i32.const {path}) (i32.const {len}) (i32.const {flags}) (i64.const {rights})))"
    ))
}

/// EPERM of preview 1, with which the engine answers every attempt to leave a directory.
const PERM: i32 = 63;

#[test]
fn nothing_leads_out_of_a_mount() {
    for (name, path, len) in [("..", 1020, 4), ("absolute", 1040, 11), ("symbolic link", 1060, 8)] {
        let mut guest = Guest::new(&open_exit(3, path, len, 0, 2));
        fs::write(guest.dir.path().join("x"), "secret").expect("a file");
        symlink("/etc", guest.root.join("l")).expect("a link");
        assert_eq!(guest.run().outcome.exit_code, Some(PERM), "{name}");
    }
}

#[test]
fn a_guest_cannot_make_a_link_that_leads_out() {
    // To an absolute path, which is refused at once.
    let made = program(
        "(call $exit (call $symlink (i32.const 1080) (i32.const 4) (i32.const 3) (i32.const 1090) (i32.const 1)))",
    );
    let mut guest = Guest::new(&made);
    assert_eq!(guest.run().outcome.exit_code, Some(PERM));
    assert!(fs::symlink_metadata(guest.root.join("l")).is_err());
}

#[test]
fn a_read_only_mount_can_be_read_and_nothing_else() {
    let read = program(
        "(call $check (call $open (i32.const 4) (i32.const 1000) (i32.const 1) (i32.const 0) (i64.const 2)))
         (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const 100))
         (call $check (call $fd_read (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8)))
         (call $check (call $write (i32.const 1) (i32.load (i32.const 8))))",
    );
    let ended = Guest::new(&read).read_only("/in", &[("a", "input")]).run();
    ended.assert_success();
    assert_eq!(ended.stdout, b"input");
    let refused = [
        ("write", open_exit(4, 1000, 1, 0, RW)),
        ("truncate", open_exit(4, 1000, 1, TRUNC, 2)),
        ("create", open_exit(4, 1010, 1, CREAT, RW)),
        ("mkdir", program("(call $exit (call $mkdir (i32.const 4) (i32.const 1010) (i32.const 1)))")),
        ("unlink", program("(call $exit (call $unlink (i32.const 4) (i32.const 1000) (i32.const 1)))")),
        ("link", program("(call $exit (call $link (i32.const 4) (i32.const 0) (i32.const 1000) (i32.const 1) (i32.const 3) (i32.const 1010) (i32.const 1)))")),
        ("rename out", program("(call $exit (call $rename (i32.const 4) (i32.const 1000) (i32.const 1) (i32.const 3) (i32.const 1010) (i32.const 1)))")),
        ("rename in", program("(call $check (call $open (i32.const 3) (i32.const 1010) (i32.const 1) (i32.const 1) (i64.const 66)))
            (call $exit (call $rename (i32.const 3) (i32.const 1010) (i32.const 1) (i32.const 4) (i32.const 1000) (i32.const 1)))")),
        ("symlink", program("(call $exit (call $symlink (i32.const 1000) (i32.const 1) (i32.const 4) (i32.const 1010) (i32.const 1)))")),
    ];
    for (name, text) in refused {
        let mut guest = Guest::new(&text).read_only("/in", &[("a", "input")]);
        assert_eq!(guest.run().outcome.exit_code, Some(PERM), "{name}");
        assert_eq!(fs::read(guest.dir.path().join("ro1/a")).expect("the file"), b"input", "{name}");
        assert_eq!(fs::read_dir(guest.dir.path().join("ro1")).expect("the directory").count(), 1, "{name}");
    }
}

#[test]
fn the_root_is_the_first_directory_whatever_the_order_of_the_mounts() {
    let mut guest = Guest::new(&open_exit(3, 1000, 1, CREAT, RW)).read_only("/in", &[]);
    guest.request.mounts.reverse();
    guest.run().assert_success();
    assert!(guest.root.join("a").exists());
}

#[test]
fn a_directory_is_listed_in_the_order_of_names_through_a_small_buffer() {
    // Reads with a buffer of 100 bytes, from the last whole entry on, and prints it all.
    let list = program(
        "(local $n i32) (local $at i32) (local $cookie i64) (local $end i32)
         (loop $more
           (call $check (call $readdir (i32.const 3) (i32.const 5000) (i32.const 100) (local.get $cookie) (i32.const 8)))
           (local.set $n (i32.load (i32.const 8)))
           (local.set $at (i32.const 5000))
           (local.set $end (i32.add (i32.const 5000) (local.get $n)))
           (loop $entry
             (if (i32.le_u (i32.add (local.get $at) (i32.const 24)) (local.get $end)) (then
               (if (i32.le_u (i32.add (i32.add (local.get $at) (i32.const 24)) (i32.load offset=16 (local.get $at))) (local.get $end)) (then
                 (i32.store (i32.const 0) (i32.add (local.get $at) (i32.const 24)))
                 (i32.store (i32.const 4) (i32.load offset=16 (local.get $at)))
                 (call $check (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))
                 (local.set $cookie (i64.load (local.get $at)))
                 (local.set $at (i32.add (i32.add (local.get $at) (i32.const 24)) (i32.load offset=16 (local.get $at))))
                 (br $entry))))))
           (br_if $more (i32.eq (local.get $n) (i32.const 100))))",
    );
    let mut guest = Guest::new(&list);
    for name in ["delta", "alpha", "charlie", "Bravo", "echo"] {
        fs::write(guest.root.join(name), "").expect("a file");
    }
    let ended = guest.run();
    ended.assert_success();
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "...Bravoalphacharliedeltaecho");
}

#[test]
fn one_read_and_write_may_be_larger_than_what_the_host_would_copy() {
    let text = "(module
      (import \"wasi_snapshot_preview1\" \"fd_write\" (func $fd_write (param i32 i32 i32 i32) (result i32)))
      (import \"wasi_snapshot_preview1\" \"fd_read\" (func $fd_read (param i32 i32 i32 i32) (result i32)))
      (import \"wasi_snapshot_preview1\" \"fd_seek\" (func $seek (param i32 i64 i32 i32) (result i32)))
      (import \"wasi_snapshot_preview1\" \"path_open\" (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
      (memory (export \"memory\") 4096) (data (i32.const 100) \"a\")
      (func (export \"_start\")
        (if (call $path_open (i32.const 3) (i32.const 0) (i32.const 100) (i32.const 1) (i32.const 1) (i64.const 70) (i64.const 70) (i32.const 0) (i32.const 16)) (then unreachable))
        (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 209715200))
        (if (call $fd_write (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
        (if (i32.ne (i32.load (i32.const 8)) (i32.const 209715200)) (then unreachable))
        (if (call $seek (i32.load (i32.const 16)) (i64.const 0) (i32.const 0) (i32.const 24)) (then unreachable))
        (if (call $fd_read (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
        (if (i32.ne (i32.load (i32.const 8)) (i32.const 209715200)) (then unreachable))))";
    Guest::new(text).run().assert_success();
}

#[test]
fn a_mount_that_is_gone_is_the_hosts_fault_and_its_path_stays_secret() {
    let mut guest = Guest::new(&program(""));
    guest.run().assert_success();
    // A file where a directory belongs.
    let gone = guest.dir.path().join("gone");
    std::fs::write(&gone, "").expect("a file");
    guest.request.mounts[0].host_dir = gone;
    let ended = guest.run();
    ended.assert_reason(Reason::ExecutorCrashed);
    let message = ended.outcome.message.expect("a message");
    assert!(!message.contains("gone"), "{message}");
}

#[test]
fn what_a_guest_reads_and_writes_is_counted() {
    let text = program(
        "(call $check (call $open (i32.const 4) (i32.const 1000) (i32.const 1) (i32.const 0) (i64.const 2)))
         (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const 100))
         (call $check (call $fd_read (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8)))
         (call $check (call $fd_read (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8)))
         (call $check (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
         (call $check (call $open (i32.const 3) (i32.const 1010) (i32.const 1) (i32.const 1) (i64.const 66)))
         (call $check (call $write (i32.load (i32.const 16)) (i32.const 1000)))
         (call $check (call $write (i32.const 1) (i32.const 20)))
         (call $check (call $write (i32.const 2) (i32.const 3)))",
    );
    let mut guest = Guest::new(&text).limits(|l| l.log_bytes = Some(5)).read_only("/in", &[("a", "input")]);
    let path = guest.dir.path().join("stdin");
    fs::write(&path, [7; 30]).expect("a file");
    guest.request.stdin = Some(path);
    let ended = guest.run();
    ended.assert_success();
    assert_eq!(ended.outcome.usage.read_bytes, Some(35), "the input, and standard input");
    assert_eq!(ended.outcome.usage.written_bytes, Some(1_023), "the file and both streams, what was cut too");
}
