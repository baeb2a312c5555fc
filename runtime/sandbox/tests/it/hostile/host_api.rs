//! Guests that call their host with nonsense.

use std::time::Duration;

use gristmill_protocol::{Reason, TrapKind};

use super::cancel_after;
use crate::guest::{Guest, program, program_with};

/// Pointers and lengths at and beyond the end of 20 pages, and where their sum overflows.
const PLACES: [(i64, i64); 8] = [
    (0, 0xffff_ffff),
    (1_310_720, 1),
    (1_310_719, 2),
    (1_310_720, 0),
    (0xffff_ffff, 1),
    (0xffff_ffff, 0xffff_ffff),
    (0xffff_fff8, 16),
    (8, 0x8000_0000),
];

#[test]
fn h75_bad_pointers_and_lengths_are_errors_or_traps_of_the_guest() {
    let calls: [fn(i64, i64) -> String; 12] = [
        |p, n| format!("(call $random (i32.const {p}) (i32.const {n}))"),
        |p, n| {
            format!("(call $open (i32.const 3) (i32.const {p}) (i32.const {n}) (i32.const 1) (i64.const 66))")
        },
        |p, n| format!("(call $mkdir (i32.const 3) (i32.const {p}) (i32.const {n}))"),
        |p, n| format!("(call $fd_write (i32.const 1) (i32.const {p}) (i32.const {n}) (i32.const 8))"),
        |p, n| format!("(call $fd_read (i32.const 0) (i32.const {p}) (i32.const {n}) (i32.const 8))"),
        |p, n| format!("(call $poll (i32.const {p}) (i32.const 8) (i32.const {n}) (i32.const 8))"),
        |p, n| format!("(call $poll (i32.const 8) (i32.const {p}) (i32.const {n}) (i32.const {p}))"),
        |p, n| {
            format!(
                "(call $readdir (i32.const 3) (i32.const {p}) (i32.const {n}) (i64.const 0) (i32.const 8))"
            )
        },
        |p, n| {
            format!(
                "(call $readdir (i32.const 3) (i32.const 64) (i32.const 64) (i64.const {n}) (i32.const {p}))"
            )
        },
        |p, n| {
            format!(
                "(call $readlink (i32.const 3) (i32.const 1000) (i32.const 1) (i32.const {p}) (i32.const {n}) (i32.const {p}))"
            )
        },
        |p, n| format!("(call $clock (i32.const {n}) (i64.const -1) (i32.const {p}))"),
        |p, n| {
            format!(
                "(i32.or (call $args (i32.const {p}) (i32.const {n})) (call $fd_stat (i32.const {n}) (i32.const {p})))"
            )
        },
    ];
    let buffers = |p: i64, n: i64| {
        // One good buffer, and a bad one behind it.
        format!(
            "(i32.store (i32.const 64) (i32.const 4096)) (i32.store (i32.const 68) (i32.const 4))
             (i32.store (i32.const 72) (i32.const {p})) (i32.store (i32.const 76) (i32.const {n}))
             (drop (call $fd_write (i32.const 1) (i32.const 64) (i32.const 2) (i32.const 8)))
             (drop (call $fd_read (i32.const 0) (i32.const 64) (i32.const 2) (i32.const 8)))"
        )
    };
    for (p, n) in PLACES {
        let mut bodies: Vec<String> = calls.iter().map(|call| format!("(drop {})", call(p, n))).collect();
        bodies.push(buffers(p, n));
        for body in bodies {
            let outcome = Guest::new(&program(&body)).run().outcome;
            let harmless = match outcome.reason {
                None | Some(Reason::HandlesExceeded) => true,
                Some(Reason::Trap) => {
                    matches!(outcome.trap_kind, Some(TrapKind::OutOfBounds | TrapKind::Other))
                }
                _ => false,
            };
            assert!(harmless, "{body}: {outcome:?}");
        }
    }
    // Where the answer overlaps with the question nothing breaks.
    let overlap = "(i32.store (i32.const 0) (i32.const 0)) (i32.store (i32.const 4) (i32.const 12))
        (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 4)))
        (drop (call $random (i32.const 0) (i32.const 1000000)))";
    Guest::new(&program(overlap)).run().assert_success();
}

#[test]
fn h76_four_gibibytes_of_random_bytes_in_one_call_are_a_trap() {
    for bytes in [0xffff_ffff_u32, (64 << 20) + 1] {
        let text =
            program_with(20, "", &format!("(call $exit (call $random (i32.const 0) (i32.const {bytes})))"));
        let ended = Guest::new(&text).run();
        ended.assert_reason(Reason::Trap);
        let message = ended.outcome.message.expect("a message");
        assert!(!message.contains('/'), "no path of the host: {message}");
    }
}

#[test]
fn random_bytes_fill_a_buffer_of_several_pieces_to_its_end_and_not_beyond() {
    let last = (2 << 20) + 5;
    let text = program_with(
        40,
        "",
        &format!(
            "(if (call $random (i32.const 8) (i32.const {last})) (then unreachable))
             (if (i64.eqz (i64.load (i32.const 8))) (then unreachable))
             (if (i64.eqz (i64.load (i32.const {second}))) (then unreachable))
             (if (i64.eqz (i64.load (i32.const {end}))) (then unreachable))
             (if (i64.ne (i64.load (i32.const 0)) (i64.const 0)) (then unreachable))
             (if (i64.ne (i64.load (i32.const {beyond})) (i64.const 0)) (then unreachable))",
            second = 8 + (1 << 20),
            end = last,
            beyond = 8 + last,
        ),
    );
    Guest::new(&text).run().assert_success();
    let all = program_with(1_024, "", "(call $exit (call $random (i32.const 0) (i32.const 67108864)))");
    Guest::new(&all).run().assert_success();
    let none = program("(call $exit (call $random (i32.const 0) (i32.const 0)))");
    Guest::new(&none).run().assert_success();
}

#[test]
fn sockets_of_preview_1_do_not_exist() {
    let text = program(
        "(if (i32.eqz (call $sock_accept (i32.const 3) (i32.const 0) (i32.const 16))) (then unreachable))
         (if (i32.eqz (call $sock_accept (i32.const 99) (i32.const 0) (i32.const 16))) (then unreachable))
         (if (i32.eqz (call $sock_send (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 8))) (then unreachable))",
    );
    Guest::new(&text).run().assert_success();
}

#[test]
fn h81_a_call_that_is_cut_off_anywhere_does_no_harm() {
    // Opens, writes, lists, sleeps and computes in turn; stopped at a different place each time.
    let text = program(
        "(local $i i32)
         (i32.store (i32.const 2016) (i32.const 1)) (i64.store (i32.const 2024) (i64.const 300000))
         (loop
           (drop (call $open (i32.const 3) (i32.const 1000) (i32.const 1) (i32.const 1) (i64.const 66)))
           (drop (call $write (i32.load (i32.const 16)) (i32.const 100000)))
           (drop (call $write (i32.const 1) (i32.const 100000)))
           (drop (call $readdir (i32.const 3) (i32.const 5000) (i32.const 100) (i64.const 0) (i32.const 8)))
           (drop (call $poll (i32.const 2000) (i32.const 3000) (i32.const 1) (i32.const 8)))
           (drop (call $fd_close (i32.load (i32.const 16))))
           (local.set $i (i32.const 0))
           (loop (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 100000))))
           (br 0))",
    );
    let mut guest = Guest::new(&text);
    for micros in (0..40).map(|step| step * 457) {
        let (ended, elapsed) = cancel_after(&mut guest, Duration::from_micros(micros));
        let outcome = ended.stuck.first().unwrap_or(&ended.outcome);
        assert_eq!(outcome.reason, Some(Reason::CancelledByUser), "{outcome:?}");
        assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
    }
}
