//! Guests that flood their log, or end in odd ways.

use gristmill_protocol::Reason;

use crate::guest::{Guest, program, program_with};

#[test]
fn h58_ten_gibibytes_of_output_are_cut_and_the_guest_goes_on() {
    let text = program_with(
        20,
        "",
        "(local $i i32)
         (loop
           (call $check (call $write (i32.const 1) (i32.const 1048576)))
           (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 10240))))
         (call $exit (i32.const 7))",
    );
    let ended = Guest::new(&text).limits(|l| l.wall_time_ms = Some(120_000)).run();
    ended.assert_reason(Reason::ExitCode);
    assert_eq!(ended.outcome.exit_code, Some(7), "it went on to its end");
    assert_eq!((ended.stdout.len(), ended.truncated), (64 << 20, 1));
    assert_eq!(ended.outcome.usage.written_bytes, Some(10 << 30));
}

#[test]
fn h59_ten_million_tiny_writes_come_in_few_pieces() {
    let text = program(
        "(local $i i32)
         (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const 1))
         (loop
           (call $check (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
           (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 10000000))))",
    );
    let ended = Guest::new(&text).limits(|l| l.wall_time_ms = Some(120_000)).run();
    ended.assert_success();
    assert_eq!(ended.stdout.len(), 10_000_000);
    // One per full buffer, and one per 20 ms at most.
    let wall_ms = ended.outcome.usage.wall_us.expect("is measured") / 1_000;
    let most = 10_000_000 / 65_536 + wall_ms as usize / 10 + 10;
    assert!(ended.events < most, "{} pieces in {wall_ms} ms", ended.events);
}

#[test]
fn h64_every_way_to_exit_is_recorded_and_the_output_before_it_is_whole() {
    for code in [1, 2, 100, 125, 126, 127, 128, 254, 255, 256, -1, i32::MIN, i32::MAX] {
        // Writes without a newline, and exits in the same breath.
        let text = program(&format!(
            "(call $check (call $write (i32.const 1) (i32.const 70001)))
             (call $check (call $write (i32.const 2) (i32.const 3)))
             (call $exit (i32.const {code}))"
        ));
        let ended = Guest::new(&text).run();
        ended.assert_reason(Reason::ExitCode);
        assert_eq!(ended.outcome.exit_code, Some(code));
        assert_eq!((ended.stdout.len(), ended.stderr.len()), (70_001, 3), "{code}");
    }
    let traps = program("(call $check (call $write (i32.const 1) (i32.const 70001))) unreachable");
    assert_eq!(Guest::new(&traps).run().stdout.len(), 70_001);
}
