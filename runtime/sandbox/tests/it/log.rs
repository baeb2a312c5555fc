//! stdout and stderr.

use crate::guest::{Guest, program};

#[test]
fn both_streams_arrive_whole_and_apart() {
    let ended = Guest::new(&program(
        "(i32.store8 (i32.const 4096) (i32.const 0)) (i32.store8 (i32.const 4097) (i32.const 255))
         (call $check (call $write (i32.const 1) (i32.const 2)))
         (call $check (call $write (i32.const 2) (i32.const 1)))
         (call $check (call $write (i32.const 1) (i32.const 1)))
         (call $exit (i32.const 9))",
    ))
    .run();
    assert_eq!((ended.stdout, ended.stderr), (vec![0, 255, 0], vec![0]));
    assert_eq!((ended.outcome.exit_code, ended.truncated), (Some(9), 0));
}

#[test]
fn a_large_output_is_complete() {
    let ended = Guest::new(&program(
        "(local $i i32)
         (loop
           (i32.store8 (i32.const 4096) (local.get $i))
           (call $check (call $write (i32.const 1) (i32.const 100000)))
           (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 40))))",
    ))
    .run();
    ended.assert_success();
    assert_eq!(ended.stdout.len(), 4_000_000);
    assert!((0..40).all(|i| ended.stdout[i * 100_000] == i as u8));
}

#[test]
fn output_beyond_the_limit_is_cut_and_the_guest_goes_on() {
    let ended = Guest::new(&program(
        "(local $i i32)
         (loop
           (call $check (call $write (i32.const 1) (i32.const 1000)))
           (call $check (call $write (i32.const 2) (i32.const 1000)))
           (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 2000))))
         (call $exit (i32.const 4))",
    ))
    .limits(|l| l.log_bytes = Some(300_500))
    .run();
    assert_eq!(ended.outcome.exit_code, Some(4));
    assert_eq!(ended.stdout.len() + ended.stderr.len(), 300_500);
    assert_eq!(ended.truncated, 1);
}

#[test]
fn a_stream_that_was_moved_to_another_descriptor_is_still_the_log() {
    let ended = Guest::new(&program(
        "(call $check (call $renumber (i32.const 2) (i32.const 1)))
         (call $check (call $write (i32.const 1) (i32.const 3)))
         (call $exit (call $write (i32.const 2) (i32.const 3)))",
    ))
    .run();
    assert_eq!((ended.stdout.len(), ended.stderr.len()), (0, 3));
    assert_eq!(ended.outcome.exit_code, Some(8), "the old descriptor is closed");
}

#[test]
fn a_redirected_stream_can_be_moved_back_to_its_closed_number() {
    // What programs do that have no `dup`: park stdout on a file's number, put the file there, undo it.
    let open = "(call $check (call $open (i32.const 3) (i32.const 1000) (i32.const 1) (i32.const 1) (i64.const 66)))";
    let mut guest = Guest::new(&program(&format!(
        "(local $parked i32) (local $file i32)
         {open} (local.set $parked (i32.load (i32.const 16)))
         {open} (local.set $file (i32.load (i32.const 16)))
         (call $check (call $renumber (i32.const 1) (local.get $parked)))
         (call $check (call $renumber (local.get $file) (i32.const 1)))
         (call $check (call $write (i32.const 1) (i32.const 5)))
         (call $check (call $fd_close (i32.const 1)))
         (call $check (call $renumber (local.get $parked) (i32.const 1)))
         (call $check (call $write (i32.const 1) (i32.const 3)))
         (call $exit (call $renumber (local.get $parked) (i32.const 1)))"
    )));
    let ended = guest.run();
    assert_eq!(ended.outcome.exit_code, Some(8), "what is not open cannot be moved");
    assert_eq!(ended.stdout.len(), 3);
    assert_eq!(std::fs::metadata(guest.root.join("a")).expect("the file").len(), 5);
}

#[test]
fn a_descriptor_moves_to_no_closed_number_beyond_the_standard_streams() {
    let open = "(call $check (call $open (i32.const 3) (i32.const 1000) (i32.const 1) (i32.const 1) (i64.const 66)))";
    let ended = Guest::new(&program(&format!(
        "(local $from i32) (local $to i32)
         {open} (local.set $from (i32.load (i32.const 16)))
         {open} (local.set $to (i32.load (i32.const 16)))
         (call $check (call $renumber (local.get $from) (local.get $to)))
         (call $exit (call $renumber (local.get $to) (local.get $from)))"
    )))
    .run();
    assert_eq!(ended.outcome.exit_code, Some(8));
}

#[test]
fn shutting_down_what_is_no_socket_is_refused_and_a_directory_is_no_descriptor_for_it() {
    for (descriptor, errno) in [(1, 57), (3, 8), (77, 8)] {
        let text = format!(
            r#"(module
              (import "wasi_snapshot_preview1" "sock_shutdown" (func $shutdown (param i32 i32) (result i32)))
              (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
              (memory (export "memory") 1)
              (func (export "_start") (call $exit (call $shutdown (i32.const {descriptor}) (i32.const 1)))))"#
        );
        let ended = Guest::new(&text).run();
        assert_eq!(ended.outcome.exit_code, Some(errno), "descriptor {descriptor}");
    }
}

#[test]
fn standard_input_is_read_to_its_end() {
    let mut guest = Guest::new(&program(
        "(local $n i32)
         (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const 100000))
         (loop
           (call $check (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
           (local.set $n (i32.load (i32.const 8)))
           (if (local.get $n) (then (call $check (call $write (i32.const 1) (local.get $n)))
             (i32.store (i32.const 4) (i32.const 100000)) (br 1))))",
    ));
    let input: Vec<u8> = (0..300_000u32).map(|i| (i / 7) as u8).collect();
    let path = guest.dir.path().join("stdin");
    std::fs::write(&path, &input).expect("a file");
    guest.request.stdin = Some(path);
    let ended = guest.run();
    ended.assert_success();
    assert!(ended.stdout == input);
    guest.request.stdin = None;
    assert!(guest.run().stdout.is_empty(), "without a file it is empty");
}
