//! The disk limit, at the call.

use std::fs;

use gristmill_protocol::{LimitsSpec, Reason};

use crate::guest::{CREAT, Guest, RW, TRUNC, program};

fn open(path: u32, flags: u32) -> String {
    format!(
        "(call $check (call $open (i32.const 3) (i32.const {path}) (i32.const 1) (i32.const {flags}) (i64.const {RW})))"
    )
}

const FD: &str = "(i32.load (i32.const 16))";

fn write(bytes: u32) -> String {
    format!("(call $check (call $write {FD} (i32.const {bytes})))")
}

fn close() -> String {
    format!("(call $check (call $fd_close {FD}))")
}

fn kib(kib: u64) -> impl FnOnce(&mut LimitsSpec) {
    move |l| l.disk_bytes = Some(kib << 10)
}

#[test]
fn writes_up_to_the_limit_succeed_and_one_byte_more_does_not() {
    let exact = [open(1000, CREAT), write(60_000), write(5_536)].concat();
    let ended = Guest::new(&program(&exact)).limits(kib(64)).run();
    ended.assert_success();
    assert_eq!(ended.outcome.usage.disk_peak_bytes, Some(65_536));
    let over = [open(1000, CREAT), write(60_000), write(5_537)].concat();
    let mut guest = Guest::new(&program(&over)).limits(kib(64));
    guest.run().assert_reason(Reason::DiskExceeded);
    assert_eq!(fs::metadata(guest.root.join("a")).expect("the file").len(), 60_000);
}

#[test]
fn every_way_to_make_a_file_larger_is_limited() {
    for grow in [
        format!("(drop (call $set_size {FD} (i64.const 65537)))"),
        format!(
            "(i32.store (i32.const 4) (i32.const 2)) (drop (call $fd_pwrite {FD} (i32.const 0) (i32.const 1) (i64.const 65535) (i32.const 8)))"
        ),
        format!("(drop (call $set_size {FD} (i64.const 1152921504606846976)))"),
        format!(
            "(i32.store (i32.const 4) (i32.const 2)) (drop (call $fd_pwrite {FD} (i32.const 0) (i32.const 1) (i64.const -2) (i32.const 8)))"
        ),
        "(loop (drop (call $write (i32.load (i32.const 16)) (i32.const 1))) (br 0))".to_owned(),
    ] {
        let body = [open(1000, CREAT), grow.clone()].concat();
        let ended = Guest::new(&program(&body)).limits(kib(64)).run();
        assert_eq!(ended.outcome.reason, Some(Reason::DiskExceeded), "{grow}: {:?}", ended.outcome);
    }
}

#[test]
fn truncation_and_deletion_give_space_back() {
    // Forty times the limit, through one file: cut by size, cut by opening, deleted, replaced.
    let rounds = format!(
        "(local $i i32) (loop {} (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 10))))",
        [
            open(1000, CREAT),
            write(60_000),
            format!("(call $check (call $set_size {FD} (i64.const 0)))"),
            format!("(i32.store (i32.const 4) (i32.const 60000)) (call $check (call $fd_pwrite {FD} (i32.const 0) (i32.const 1) (i64.const 0) (i32.const 8)))"),
            close(),
            open(1000, CREAT | TRUNC),
            write(60_000),
            close(),
            "(call $check (call $rename (i32.const 3) (i32.const 1000) (i32.const 1) (i32.const 3) (i32.const 1010) (i32.const 1)))".to_owned(),
            "(call $check (call $unlink (i32.const 3) (i32.const 1010) (i32.const 1)))".to_owned(),
        ]
        .concat()
    );
    let mut guest = Guest::new(&program(&rounds)).limits(|l| {
        l.disk_bytes = Some(64 << 10);
        l.disk_files = Some(1);
    });
    let ended = guest.run();
    ended.assert_success();
    assert_eq!(ended.outcome.usage.disk_peak_bytes, Some(60_000));
    assert_eq!(fs::read_dir(&guest.root).expect("the directory").count(), 0);
}

#[test]
fn a_deleted_file_that_is_still_open_takes_space() {
    let unlink = "(call $check (call $unlink (i32.const 3) (i32.const 1000) (i32.const 1)))";
    let body =
        [open(1000, CREAT), write(60_000), unlink.to_owned(), open(1010, CREAT), write(60_000)].concat();
    Guest::new(&program(&body)).limits(kib(64)).run().assert_reason(Reason::DiskExceeded);
    let closed =
        [open(1000, CREAT), write(60_000), unlink.to_owned(), close(), open(1010, CREAT), write(60_000)]
            .concat();
    Guest::new(&program(&closed)).limits(kib(64)).run().assert_success();
}

#[test]
fn replacing_a_file_by_renaming_gives_its_space_back() {
    let rename = "(call $check (call $rename (i32.const 3) (i32.const 1000) (i32.const 1) (i32.const 3) (i32.const 1010) (i32.const 1)))";
    let body = [
        open(1010, CREAT),
        write(30_000),
        close(),
        open(1000, CREAT),
        write(30_000),
        close(),
        rename.to_owned(),
        open(1000, CREAT),
        write(30_000),
        close(),
        rename.to_owned(),
    ]
    .concat();
    let ended = Guest::new(&program(&body)).limits(kib(64)).run();
    ended.assert_success();
    assert_eq!(ended.outcome.usage.disk_peak_bytes, Some(60_000));
}

#[test]
fn a_second_name_takes_an_entry_but_no_space() {
    let link = "(call $check (call $link (i32.const 3) (i32.const 0) (i32.const 1000) (i32.const 1) (i32.const 3) (i32.const 1010) (i32.const 1)))
        (call $check (call $unlink (i32.const 3) (i32.const 1000) (i32.const 1)))";
    let body = [open(1000, CREAT), write(60_000), close(), link.to_owned(), open(1000, CREAT), write(60_000)]
        .concat();
    let ended = Guest::new(&program(&body)).limits(kib(64)).run();
    ended.assert_reason(Reason::DiskExceeded);
    assert_eq!(ended.outcome.usage.disk_peak_bytes, Some(60_000));
}

#[test]
fn entries_of_every_kind_are_limited() {
    let make = [
        ("file", open(1000, CREAT), open(1010, CREAT)),
        (
            "directory",
            "(call $check (call $mkdir (i32.const 3) (i32.const 1000) (i32.const 1)))".to_owned(),
            "(call $check (call $mkdir (i32.const 3) (i32.const 1010) (i32.const 1)))".to_owned(),
        ),
        (
            "symbolic link",
            "(call $check (call $symlink (i32.const 1110) (i32.const 1) (i32.const 3) (i32.const 1000) (i32.const 1)))".to_owned(),
            "(call $check (call $symlink (i32.const 1110) (i32.const 1) (i32.const 3) (i32.const 1010) (i32.const 1)))".to_owned(),
        ),
    ];
    for (name, first, second) in make {
        let one = |l: &mut LimitsSpec| l.disk_files = Some(1);
        Guest::new(&program(&first)).limits(one).run().assert_success();
        let ended = Guest::new(&program(&[first, second].concat())).limits(one).run();
        assert_eq!(ended.outcome.reason, Some(Reason::DiskExceeded), "{name}: {:?}", ended.outcome);
    }
}

#[test]
fn what_was_there_before_counts_but_is_no_fault() {
    let mut guest = Guest::new(&program(&[open(1010, CREAT), write(1)].concat())).limits(kib(1));
    fs::write(guest.root.join("big"), [0; 5_000]).expect("a file");
    guest.run().assert_reason(Reason::DiskExceeded);
    let mut guest = Guest::new(&program("")).limits(kib(1));
    fs::write(guest.root.join("big"), [0; 5_000]).expect("a file");
    guest.run().assert_success();
}

#[test]
fn open_handles_are_limited_and_closing_gives_them_back() {
    let leak = format!("(loop {} (br 0))", open(1000, CREAT));
    Guest::new(&program(&leak)).limits(|l| l.handles = Some(16)).run().assert_reason(Reason::HandlesExceeded);
    let careful = format!(
        "(local $i i32) (loop {}{} (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 100))))",
        open(1000, CREAT),
        close()
    );
    Guest::new(&program(&careful)).limits(|l| l.handles = Some(16)).run().assert_success();
    let timers =
        program("(drop (call $poll (i32.const 2000) (i32.const 200000) (i32.const 2000) (i32.const 8)))");
    Guest::new(&timers).limits(|l| l.handles = Some(16)).run().assert_reason(Reason::HandlesExceeded);
}
