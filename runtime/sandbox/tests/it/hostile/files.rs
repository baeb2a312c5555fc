//! Guests that fill disks, hoard handles and confuse the file table.

use std::{fs, os::unix::fs::MetadataExt as _, time::Instant};

use gristmill_protocol::{LimitsSpec, Reason};

use super::memory;
use crate::guest::{CREAT, Guest, RW, program, program_with};

const FD: &str = "(i32.load (i32.const 16))";

fn open(path: u32, flags: u32) -> String {
    format!(
        "(call $check (call $open (i32.const 3) (i32.const {path}) (i32.const 1) (i32.const {flags}) (i64.const {RW})))"
    )
}

fn disk(bytes: u64, files: u64) -> impl FnOnce(&mut LimitsSpec) {
    move |limits| {
        limits.disk_bytes = Some(bytes);
        limits.disk_files = Some(files);
    }
}

/// A name of eight digits at 7000, counted up by `$next_name`.
const COUNTED_NAME: &str = "
  (data (i32.const 7000) \"00000000\")
  (func $next_name (local $at i32)
    (local.set $at (i32.const 7007))
    (loop $carry
      (i32.store8 (local.get $at) (i32.add (i32.load8_u (local.get $at)) (i32.const 1)))
      (if (i32.gt_u (i32.load8_u (local.get $at)) (i32.const 57)) (then
        (i32.store8 (local.get $at) (i32.const 48))
        (local.set $at (i32.sub (local.get $at) (i32.const 1)))
        (br $carry)))))";

#[test]
fn h49_opening_files_without_end_is_handles_exceeded() {
    for path in [1000, 1110] {
        // A file again and again, and the directory itself again and again.
        let flags = if path == 1000 { CREAT } else { 0 };
        let rights = if path == 1000 { RW } else { 0 };
        let text = program(&format!(
            "(loop (call $check (call $open (i32.const 3) (i32.const {path}) (i32.const 1) (i32.const {flags}) (i64.const {rights}))) (br 0))"
        ));
        let ended = Guest::new(&text).run();
        ended.assert_reason(Reason::HandlesExceeded);
        let message = ended.outcome.message.expect("a message");
        assert!(message.contains("1024"), "the limit is named: {message}");
    }
}

#[test]
fn h50_descriptors_closed_twice_moved_about_and_moved_onto_each_other_do_no_harm() {
    let storm = "(local $i i32) (local $a i32) (local $b i32)
        (loop $more
          (local.set $a (i32.rem_u (i32.mul (local.get $i) (i32.const 7)) (i32.const 12)))
          (local.set $b (i32.rem_u (i32.mul (local.get $i) (i32.const 11)) (i32.const 13)))
          (drop (call $renumber (local.get $a) (local.get $b)))
          (drop (call $renumber (local.get $a) (local.get $a)))
          (drop (call $renumber (local.get $a) (i32.const -1)))
          (drop (call $renumber (i32.const -1) (local.get $b)))
          (if (i32.eqz (i32.rem_u (local.get $i) (i32.const 5))) (then
            (drop (call $fd_close (local.get $b)))
            (drop (call $fd_close (local.get $b)))))
          (drop (call $open (i32.const 3) (i32.const 1000) (i32.const 1) (i32.const 1) (i64.const 66)))
          (drop (call $write (local.get $a) (i32.const 10)))
          (br_if $more (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 3000))))";
    let mut guest = Guest::new(&program(storm)).limits(|l| l.handles = Some(64));
    let ended = guest.run();
    assert!(matches!(ended.outcome.reason, None | Some(Reason::HandlesExceeded)), "{:?}", ended.outcome);
    let close_all = "(local $fd i32)
        (loop $more
          (drop (call $fd_close (local.get $fd))) (drop (call $fd_close (local.get $fd)))
          (br_if $more (i32.lt_u (local.tee $fd (i32.add (local.get $fd) (i32.const 1))) (i32.const 8))))
        (if (i32.ne (call $write (i32.const 1) (i32.const 3)) (i32.const 8)) (then unreachable))
        (if (i32.ne (call $open (i32.const 3) (i32.const 1000) (i32.const 1) (i32.const 1) (i64.const 66)) (i32.const 8)) (then unreachable))";
    let ended = Guest::new(&program(close_all)).run();
    ended.assert_success();
    assert!(ended.stdout.is_empty());
}

#[test]
fn h51_filling_the_scratch_directory_is_disk_exceeded_at_the_limit() {
    let text =
        program(&format!("{} (loop (drop (call $write {FD} (i32.const 65536))) (br 0))", open(1000, CREAT)));
    let mut guest = Guest::new(&text).limits(disk(10 << 20, 100));
    let ended = guest.run();
    ended.assert_reason(Reason::DiskExceeded);
    assert_eq!(fs::metadata(guest.root.join("a")).expect("the file").len(), 10 << 20);
    assert_eq!(ended.outcome.usage.disk_peak_bytes, Some(10 << 20));
    assert_eq!(ended.outcome.usage.written_bytes, Some(10 << 20));
}

#[test]
fn h52_a_flood_of_files_or_directories_is_disk_exceeded() {
    let make = [
        "(call $check (call $open (i32.const 3) (i32.const 7000) (i32.const 8) (i32.const 1) (i64.const 66))) (call $check (call $fd_close (i32.load (i32.const 16))))",
        "(call $check (call $mkdir (i32.const 3) (i32.const 7000) (i32.const 8)))",
        "(call $check (call $symlink (i32.const 1000) (i32.const 1) (i32.const 3) (i32.const 7000) (i32.const 8)))",
        // Hard links to one file.
        "(drop (call $open (i32.const 3) (i32.const 1000) (i32.const 1) (i32.const 1) (i64.const 66))) (drop (call $fd_close (i32.load (i32.const 16))))
         (call $check (call $link (i32.const 3) (i32.const 0) (i32.const 1000) (i32.const 1) (i32.const 3) (i32.const 7000) (i32.const 8)))",
    ];
    for step in make {
        let text = program_with(20, COUNTED_NAME, &format!("(loop {step} (call $next_name) (br 0))"));
        let mut guest = Guest::new(&text).limits(disk(1 << 30, 2_000));
        guest.run().assert_reason(Reason::DiskExceeded);
        let count = fs::read_dir(&guest.root).expect("the directory").count();
        assert!((2_000..=2_001).contains(&count), "{count} entries");
    }
    // One below the other, each opened from the one above.
    let deep = program(
        "(local $dir i32) (local $next i32) (local.set $dir (i32.const 3))
         (loop
           (call $check (call $mkdir (local.get $dir) (i32.const 1000) (i32.const 1)))
           (call $check (call $open (local.get $dir) (i32.const 1000) (i32.const 1) (i32.const 2) (i64.const 0)))
           (local.set $next (i32.load (i32.const 16)))
           (if (i32.gt_u (local.get $dir) (i32.const 3)) (then (call $check (call $fd_close (local.get $dir)))))
           (local.set $dir (local.get $next))
           (br 0))",
    );
    Guest::new(&deep).limits(disk(1 << 30, 3_000)).run().assert_reason(Reason::DiskExceeded);
}

#[test]
fn h53_a_sparse_file_counts_with_its_whole_size() {
    let grow = [
        format!("(drop (call $set_size {FD} (i64.const 0x1000000000000000)))"),
        format!(
            "(i32.store (i32.const 4) (i32.const 1)) (drop (call $fd_pwrite {FD} (i32.const 0) (i32.const 1) (i64.const 0x0fffffffffffffff) (i32.const 8)))"
        ),
        format!(
            "(call $check (call $seek {FD} (i64.const 0x0fffffffffffffff) (i32.const 0) (i32.const 24))) (drop (call $write {FD} (i32.const 1)))"
        ),
        format!("(drop (call $set_size {FD} (i64.const 1048577)))"),
        format!("(drop (call $allocate {FD} (i64.const 0) (i64.const 0x1000000000000000)))"),
        format!("(drop (call $allocate {FD} (i64.const -1) (i64.const -1)))"),
        format!("(drop (call $allocate {FD} (i64.const 1048576) (i64.const 1)))"),
    ];
    for grow in grow {
        let mut guest =
            Guest::new(&program(&[open(1000, CREAT), grow.clone()].concat())).limits(disk(1 << 20, 10));
        let ended = guest.run();
        assert_eq!(ended.outcome.reason, Some(Reason::DiskExceeded), "{grow}: {:?}", ended.outcome);
        assert_eq!(fs::metadata(guest.root.join("a")).expect("the file").blocks(), 0);
    }
    // Within the limit allocating ahead is not provided; negative places are no places.
    for (call, errno) in [
        (format!("(call $allocate {FD} (i64.const 0) (i64.const 1048576))"), 58),
        (format!("(call $seek {FD} (i64.const -1) (i32.const 0) (i32.const 24))"), 28),
    ] {
        let text = program(&[open(1000, CREAT), format!("(call $exit {call})")].concat());
        let ended = Guest::new(&text).limits(disk(1 << 20, 10)).run();
        assert_eq!(ended.outcome.exit_code, Some(errno), "{call}");
    }
}

#[test]
fn h54_a_huge_directory_is_read_through_a_tiny_buffer_in_bounded_time_and_memory() {
    // A tenth of the list's number: making a million files takes a busy disk minutes. The whole number is
    // in the test of the listing itself.
    const ENTRIES: usize = 100_000;
    // Reads with a buffer that holds one entry at a time and counts them.
    let text = program(
        "(local $cookie i64) (local $n i32) (local $count i32)
         (loop $more
           (call $check (call $readdir (i32.const 3) (i32.const 5000) (i32.const 40) (local.get $cookie) (i32.const 8)))
           (local.set $n (i32.load (i32.const 8)))
           (if (i32.ge_u (local.get $n) (i32.const 24)) (then
             (local.set $cookie (i64.load (i32.const 5000)))
             (local.set $count (i32.add (local.get $count) (i32.const 1)))
             (br $more))))
         (i32.store (i32.const 4096) (local.get $count))
         (call $check (call $write (i32.const 1) (i32.const 4)))",
    );
    let mut guest = Guest::new(&text).limits(|l| l.disk_files = Some(200_000));
    for number in 0..ENTRIES {
        fs::write(guest.root.join(format!("{number:06}")), "").expect("a file");
    }
    let start = Instant::now();
    let ended = guest.run();
    ended.assert_success();
    assert_eq!(ended.stdout, (ENTRIES as u32 + 2).to_le_bytes());
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    let peak = ended.outcome.usage.memory_peak_bytes.expect("is measured");
    assert!(peak > ENTRIES as u64 * 30 && peak < 64 << 20, "the listing counts: {peak}");
    // Held by the host for the guest, so it is bounded by the guest's own limit.
    let mut small = guest.limits(memory(2 << 20));
    let ended = small.run();
    ended.assert_reason(Reason::MemoryExceeded);
    assert_eq!(ended.outcome.exit_code, Some(48), "NOMEM");
}
