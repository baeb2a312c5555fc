//! Guests that compute, recurse or wait without end.

use std::{fmt::Write as _, time::Duration};

use gristmill_protocol::{Metering, Outcome, Reason, TrapKind, module::ModuleWorld};

use super::{ENDLESS, cancel_after, wall_ms};
use crate::guest::{Guest, program, program_with};

/// How late a guest may be stopped on a busy machine.
const LATE: Duration = Duration::from_secs(2);

/// Insists on a guest that ran out of wall time, whether it stopped or had to be given up.
#[track_caller]
fn assert_out_of_time(guest: &mut Guest, limit: Duration) {
    let ended = guest.run();
    let outcome: &Outcome = ended.stuck.first().unwrap_or(&ended.outcome);
    assert_eq!(outcome.reason, Some(Reason::WallTimeExceeded), "{outcome:?}");
    let wall = Duration::from_micros(outcome.usage.wall_us.expect("is measured"));
    assert!(wall >= limit && wall < limit + LATE, "{wall:?}");
}

#[test]
fn h19_an_import_of_the_wrong_type_is_a_link_error() {
    for import in [
        "(import \"wasi_snapshot_preview1\" \"proc_exit\" (func (param i64)))",
        "(import \"wasi_snapshot_preview1\" \"fd_write\" (func))",
        "(import \"wasi_snapshot_preview1\" \"fd_write\" (global i32))",
    ] {
        let ended = Guest::new(&format!("(module {import} (func (export \"_start\")))")).run();
        ended.assert_reason(Reason::LinkError);
        let message = ended.outcome.message.expect("a message");
        assert!(message.contains("wasi_snapshot_preview1"), "{message}");
    }
    for now in ["(func (result string))", "(func (param \"at\" u64) (result u64))", "(func)"] {
        let text = format!(
            "(component (import \"wasi:clocks/monotonic-clock@0.2.0\" (instance (export \"now\" {now})))
               (core module $m (func (export \"run\") (result i32) i32.const 0)) (core instance $i (instantiate $m))
               (func $run (result (result)) (canon lift (core func $i \"run\")))
               (instance $api (export \"run\" (func $run))) (export \"wasi:cli/run@0.2.0\" (instance $api)))"
        );
        let component = wat::parse_str(text).expect("well-formed text");
        let ended = Guest::of(component, ModuleWorld::WasiP2).run();
        ended.assert_reason(Reason::LinkError);
        let message = ended.outcome.message.expect("a message");
        assert!(message.contains("monotonic-clock"), "{message}");
    }
}

#[test]
fn h21_a_start_function_is_under_the_same_limits_as_the_run() {
    let module =
        |body: &str| format!("(module (memory 1) (func $s {body}) (start $s) (func (export \"_start\")))");
    let spin = module("(loop (br 0))");
    assert_out_of_time(&mut Guest::new(&spin).limits(wall_ms(100)), Duration::from_millis(100));
    Guest::new(&spin).limits(|l| l.fuel = Some(1_000_000)).run().assert_reason(Reason::FuelExhausted);
    let (ended, elapsed) = cancel_after(&mut Guest::new(&spin), Duration::from_millis(20));
    ended.assert_reason(Reason::CancelledByUser);
    assert!(elapsed < LATE, "{elapsed:?}");
    let grows = module("(if (i32.eq (memory.grow (i32.const 60000)) (i32.const -1)) (then unreachable))");
    Guest::new(&grows).limits(super::memory(1 << 20)).run().assert_reason(Reason::MemoryExceeded);
}

#[test]
fn h25_a_loop_ends_at_the_same_instruction_every_time() {
    // Says how far it came: a difference of one turn would show.
    let text = program(
        "(local $i i32)
         (loop
           (i32.store (i32.const 4096) (local.tee $i (i32.add (local.get $i) (i32.const 1))))
           (if (i32.eqz (i32.rem_u (local.get $i) (i32.const 1000)))
             (then (call $check (call $write (i32.const 1) (i32.const 4)))))
           (br 0))",
    );
    let mut guest = Guest::new(&text).limits(|l| l.fuel = Some(10_000_000));
    let mut runs = (0..3).map(|_| {
        let ended = guest.run();
        ended.assert_reason(Reason::FuelExhausted);
        assert!(ended.stdout.len() > 1_000);
        (ended.outcome.usage.fuel, ended.stdout)
    });
    let first = runs.next();
    assert!(runs.all(|run| Some(run) == first));
    let bare = || Guest::new(&program("(loop (br 0))")).limits(|l| l.fuel = Some(500_000_000)).run();
    assert_eq!(bare().outcome.usage.fuel, bare().outcome.usage.fuel, "also over several hand-backs");
}

#[test]
fn h26_a_loop_with_endless_fuel_ends_by_wall_time_and_its_fuel_is_known() {
    let spin = program("(loop (br 0))");
    assert_out_of_time(&mut Guest::new(&spin).limits(wall_ms(300)), Duration::from_millis(300));
    let ended = Guest::new(&spin).limits(wall_ms(600)).run();
    assert!(ended.outcome.usage.fuel.is_some_and(|fuel| fuel >= 10_000_000), "{:?}", ended.outcome.usage);
    let unmetered = |l: &mut gristmill_protocol::LimitsSpec| {
        l.metering = Some(Metering::None);
        l.wall_time_ms = Some(100);
    };
    assert_out_of_time(&mut Guest::new(&spin).limits(unmetered), Duration::from_millis(100));
}

#[test]
fn h27_infinite_recursion_is_a_stack_overflow() {
    for text in [
        program("(call $deep (i64.const 0))").replace(
            "(func (export \"_start\")",
            "(func $deep (param i64) (call $deep (i64.add (local.get 0) (i64.const 1))) (i64.store (i32.const 8) (local.get 0))) (func (export \"_start\")",
        ),
        "(module (func $f (export \"_start\") (call $f)))".to_owned(),
    ] {
        Guest::new(&text).run().assert_trap(TrapKind::StackOverflow);
    }
}

#[test]
fn h28_mutual_recursion_overflows_the_stack_and_tail_calls_use_up_the_fuel() {
    let mutual = |call: &str| {
        format!(
            "(module (table funcref (elem $a $b)) (type $t (func (param i32)))
               (func $a (param i32) ({call} (type $t) (i32.add (local.get 0) (i32.const 1)) (i32.const 1)))
               (func $b (param i32) ({call} (type $t) (i32.add (local.get 0) (i32.const 1)) (i32.const 0)))
               (func (export \"_start\") (call $a (i32.const 0))))"
        )
    };
    Guest::new(&mutual("call_indirect")).run().assert_trap(TrapKind::StackOverflow);
    // A tail call takes no stack, so this is a loop.
    let mut tail = Guest::new(&mutual("return_call_indirect")).limits(|l| l.fuel = Some(10_000_000));
    tail.run().assert_reason(Reason::FuelExhausted);
    assert_out_of_time(&mut tail.limits(wall_ms(100)), Duration::from_millis(100));
}

#[test]
fn h30_filling_and_copying_the_whole_memory_again_and_again_ends_by_wall_time() {
    for step in [
        "(memory.fill (i32.const 0) (i32.const 1) (i32.const 67108864))",
        "(memory.copy (i32.const 0) (i32.const 33554432) (i32.const 33554432))",
    ] {
        let text = format!("(module (memory 1024) (func (export \"_start\") (loop {step} (br 0))))");
        assert_out_of_time(&mut Guest::new(&text).limits(wall_ms(200)), Duration::from_millis(200));
    }
    // One step of four gigabytes: the guest is given up instead.
    let giant = "(module (memory i64 65536) (func (export \"_start\")
        (memory.fill (i64.const 0) (i32.const 1) (i64.const 4294967296))))";
    assert_out_of_time(&mut Guest::new(giant).limits(wall_ms(50)), Duration::from_millis(50));
}

#[test]
fn h31_operations_whose_fuel_is_cheap_end_by_wall_time() {
    for (locals, step) in [
        (
            "(local $x f64)",
            "(local.set $x (f64.sqrt (f64.div (f64.const 2) (f64.add (local.get $x) (f64.const 1)))))",
        ),
        ("(local $n i64)", "(local.set $n (i64.rem_u (i64.const -1) (i64.or (local.get $n) (i64.const 3))))"),
        ("", "(table.fill (i32.const 0) (ref.null func) (i32.const 1000000))"),
    ] {
        let text = format!(
            "(module (table 1000000 funcref) (func (export \"_start\") {locals} (loop {step} (br 0))))"
        );
        assert_out_of_time(&mut Guest::new(&text).limits(wall_ms(150)), Duration::from_millis(150));
    }
}

/// A subscription to one timer at 2000: relative if `flags` is 0.
fn timer(nanoseconds: u64, flags: u32) -> String {
    format!(
        "(i32.store (i32.const 2016) (i32.const 1)) (i64.store (i32.const 2024) (i64.const {nanoseconds}))
         (i32.store16 (i32.const 2040) (i32.const {flags}))"
    )
}

#[test]
fn h32_a_sleep_without_end_is_ended_by_the_host() {
    let sleep = "(drop (call $poll (i32.const 2000) (i32.const 3000) (i32.const 1) (i32.const 8)))";
    for subscription in [timer(u64::MAX >> 1, 0), timer(u64::MAX >> 1, 1), timer(3_600_000_000_000, 0)] {
        let text = program(&format!("{subscription} {sleep}"));
        let ended = Guest::new(&text).limits(|l| l.wall_time_ms = Some(100)).run();
        ended.assert_reason(Reason::WallTimeExceeded);
        assert!(ended.stuck.is_empty(), "it can be woken");
        assert!(ended.outcome.usage.fuel.is_some_and(|fuel| fuel < 1_000), "and used no fuel for it");
    }
}

#[test]
fn h33_a_hundred_thousand_subscriptions_are_an_error_of_the_guest() {
    // 4.8 MB of subscriptions to a timer that is due, at 65536; more than one call may copy.
    let text = program_with(
        200,
        "",
        "(call $exit (call $poll (i32.const 65536) (i32.const 6000000) (i32.const 100000) (i32.const 8)))",
    );
    let mut guest = Guest::new(&text);
    for reproducible in [false, true] {
        guest.request.reproducible = reproducible;
        let ended = guest.run();
        ended.assert_reason(Reason::ExitCode);
        assert_eq!(ended.outcome.exit_code, Some(48), "NOMEM");
    }
    let fewer = text.replace("100000", "50000");
    let ended = Guest::new(&fewer).run();
    ended.assert_reason(Reason::HandlesExceeded);
}

#[test]
fn h34_a_blocked_read_ends_by_wall_time() {
    // Standard input is a file, so it cannot block; a pipe in an input can.
    let mut guest = Guest::new(&program(
        "(call $check (call $open (i32.const 3) (i32.const 1100) (i32.const 1) (i32.const 0) (i64.const 2)))
         (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const 10))
         (drop (call $fd_read (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8)))",
    ))
    .limits(|l| l.wall_time_ms = Some(100));
    let pipe = guest.root.join("f");
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, 0o600.into(), 0).expect("a pipe");
    guest.request.stdin = Some(pipe.clone());
    let refused = guest.run();
    refused.assert_reason(Reason::ExecutorCrashed);
    assert!(refused.outcome.message.is_some_and(|text| text.contains("not a regular file")));
    guest.request.stdin = None;
    let unblock = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(600));
        // Lets the blocked thread go, so that the test ends.
        _ = std::fs::OpenOptions::new().write(true).open(pipe);
    });
    let ended = guest.run();
    unblock.join().expect("unblocks");
    assert_eq!(ended.stuck.first().and_then(|outcome| outcome.reason), Some(Reason::WallTimeExceeded));
}

#[test]
fn h35_a_guest_that_ignores_a_cancel_is_stopped() {
    let catches = "(module (tag $t) (func $f (loop (throw $t)))
        (func (export \"_start\") (loop $again (block $h (try_table (catch_all $h) (call $f))) (br $again))))";
    let fills = "(module (memory 1024) (func (export \"_start\")
        (loop (memory.fill (i32.const 0) (i32.const 1) (i32.const 67108864)) (br 0))))";
    let sleeps = program(&format!(
        "(loop {} (drop (call $poll (i32.const 2000) (i32.const 3000) (i32.const 1) (i32.const 8))) (br 0))",
        timer(1_000_000, 0)
    ));
    for text in [catches, fills, &sleeps] {
        let mut guest = Guest::new(text).limits(|l| l.fuel = Some(ENDLESS));
        let (ended, _) = cancel_after(&mut guest, Duration::from_millis(60));
        let outcome = ended.stuck.first().unwrap_or(&ended.outcome);
        assert_eq!(outcome.reason, Some(Reason::CancelledByUser), "{outcome:?}");
        let wall = Duration::from_micros(outcome.usage.wall_us.expect("is measured"));
        assert!(wall < LATE, "{wall:?}");
    }
}

#[test]
fn h36_the_bits_of_a_nan_are_the_same_everywhere_in_the_reproducible_mode() {
    // Sign and payload of a computed NaN are the machine's choice.
    let mut body = String::new();
    let cases = [
        "(f64.div (f64.const 0) (f64.const 0))",
        "(f64.sub (f64.const inf) (f64.const inf))",
        "(f64.sqrt (f64.const -1))",
        "(f64.mul (f64.reinterpret_i64 (i64.const 0xfff4123456789abc)) (f64.const 1))",
        "(f64.promote_f32 (f32.div (f32.const 0) (f32.const 0)))",
        "(f64.min (f64.reinterpret_i64 (i64.const 0x7ff4deadbeef0000)) (f64.const 1))",
        "(f64x2.extract_lane 1 (f64x2.sqrt (f64x2.splat (f64.const -1))))",
    ];
    for (number, case) in cases.iter().enumerate() {
        let _ = write!(body, "(f64.store (i32.const {}) {case})", 4096 + number * 8);
    }
    let _ = write!(body, "(call $check (call $write (i32.const 1) (i32.const {})))", cases.len() * 8);
    let mut guest = Guest::new(&program(&body));
    guest.request.reproducible = true;
    let ended = guest.run();
    ended.assert_success();
    let canonical = 0x7ff8_0000_0000_0000_u64.to_le_bytes();
    assert_eq!(ended.stdout, canonical.repeat(cases.len()));
}
