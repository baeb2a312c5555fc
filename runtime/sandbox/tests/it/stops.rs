//! Guests that do not end by themselves: whatever they do, they are stopped in time.

use std::time::{Duration, Instant};

use gristmill_channel::StopReason;
use gristmill_protocol::{Reason, reason::OutcomeState};

use crate::guest::{Ended, Guest, program};

/// An hour of sleep as one relative timer, two timers, and an absolute one.
const SLEEP: &str = "(i32.store8 (i32.const 2008) (i32.const 0)) (i32.store (i32.const 2016) (i32.const 1))
    (i64.store (i32.const 2024) (i64.const 3600000000000))
    (drop (call $poll (i32.const 2000) (i32.const 3000) (i32.const 1) (i32.const 8)))";
const SLEEP_TWICE: &str =
    "(i32.store (i32.const 2016) (i32.const 1)) (i64.store (i32.const 2024) (i64.const 3600000000000))
    (i32.store (i32.const 2064) (i32.const 1)) (i64.store (i32.const 2072) (i64.const 3600000000000))
    (drop (call $poll (i32.const 2000) (i32.const 3000) (i32.const 2) (i32.const 8)))";
const SLEEP_UNTIL: &str =
    "(i32.store (i32.const 2016) (i32.const 1)) (i64.store (i32.const 2024) (i64.const 3600000000000000))
    (i32.store16 (i32.const 2040) (i32.const 1))
    (drop (call $poll (i32.const 2000) (i32.const 3000) (i32.const 1) (i32.const 8)))";

fn hogs() -> Vec<(&'static str, String)> {
    vec![
        ("loop", program("(loop (br 0))")),
        ("sleep", program(SLEEP)),
        ("sleep on two timers", program(SLEEP_TWICE)),
        ("sleep until a time", program(SLEEP_UNTIL)),
        ("clock", program("(loop (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 8))) (br 0))")),
        ("stdout", program("(loop (drop (call $write (i32.const 1) (i32.const 4096))) (br 0))")),
        ("start function", "(module (func $s (loop (br 0))) (start $s) (func (export \"_start\")))".to_owned()),
        ("grow", "(module (memory 0) (func (export \"_start\") (loop (drop (memory.grow (i32.const 1))) (br 0))))".to_owned()),
        ("open", program("(loop (drop (call $open (i32.const 3) (i32.const 1000) (i32.const 1) (i32.const 1) (i64.const 66)))
            (drop (call $fd_close (i32.load (i32.const 16)))) (br 0))")),
    ]
}

#[test]
fn the_wall_time_ends_every_hog() {
    for (name, text) in hogs() {
        let start = Instant::now();
        let ended = Guest::new(&text).limits(|l| l.wall_time_ms = Some(150)).run();
        let elapsed = start.elapsed();
        assert_eq!(ended.outcome.reason, Some(Reason::WallTimeExceeded), "{name}: {:?}", ended.outcome);
        assert_eq!(ended.outcome.state, OutcomeState::TimedOut);
        let wall_us = ended.outcome.usage.wall_us.expect("measured");
        assert!((150_000..1_000_000).contains(&wall_us), "{name}: {wall_us} us of wall time");
        assert!(elapsed < Duration::from_secs(5), "{name}: {elapsed:?}");
    }
}

/// Runs and stops after a while; returns the end and how long the stop took.
fn stop(text: &str, reason: StopReason) -> (Ended, Duration) {
    let (sender, stopped) = std::sync::mpsc::channel();
    let ended = Guest::new(text).run_with(move |control| {
        std::thread::sleep(Duration::from_millis(50));
        sender.send(Instant::now()).expect("the test waits");
        control.stop(reason);
    });
    let elapsed = stopped.recv().expect("was stopped").elapsed();
    (ended, elapsed)
}

#[test]
fn a_stop_ends_every_hog_at_once() {
    for (name, text) in hogs() {
        let (ended, elapsed) = stop(&text, StopReason::Cancelled);
        assert_eq!(ended.outcome.reason, Some(Reason::CancelledByUser), "{name}: {:?}", ended.outcome);
        assert_eq!(ended.outcome.state, OutcomeState::Cancelled);
        assert!(elapsed < Duration::from_millis(500), "{name}: {elapsed:?}");
    }
}

#[test]
fn each_reason_to_stop_has_its_own_outcome() {
    let (ended, _) = stop(&program("(loop (br 0))"), StopReason::Deadline);
    assert_eq!(ended.outcome.state, OutcomeState::TimedOut);
    ended.assert_reason(Reason::DeadlineExceeded);
    let (ended, _) = stop(&program("(loop (br 0))"), StopReason::LeaseLost);
    ended.assert_reason(Reason::LeaseExpired);
}

#[test]
fn a_guest_that_is_stopped_reports_what_it_used() {
    let (ended, _) = stop(&program("(loop (br 0))"), StopReason::Cancelled);
    let usage = &ended.outcome.usage;
    assert!(usage.fuel.is_some(), "at least as far as it handed it back");
    assert!(usage.cpu_us.is_some_and(|us| us > 10_000), "{usage:?}");
    assert!(usage.wall_us.is_some_and(|us| us > 40_000), "{usage:?}");
    assert!(usage.memory_peak_bytes.is_some_and(|bytes| bytes >= 65_536), "{usage:?}");
}

#[test]
fn a_guest_in_an_operation_that_cannot_be_interrupted_is_given_up() {
    // Fills four gigabytes in one instruction.
    let text = "(module (memory i64 65536) (func (export \"_start\")
        (memory.fill (i64.const 0) (i32.const 1) (i64.const 4294967296))))";
    let limits = |l: &mut gristmill_protocol::LimitsSpec| {
        l.wall_time_ms = Some(50);
        l.fuel = Some(1 << 60);
    };
    let ended = Guest::new(text).limits(limits).run();
    let stuck = ended.stuck.first().unwrap_or_else(|| panic!("was not given up: {:?}", ended.outcome));
    assert_eq!(stuck.reason, Some(Reason::WallTimeExceeded));
    assert!(stuck.usage.wall_us.is_some_and(|us| us < 500_000), "{stuck:?}");
    assert_eq!(ended.stuck.len(), 1);
}

#[test]
fn of_a_guest_that_is_given_up_the_fuel_is_known_as_far_as_it_handed_it_back() {
    // Several hand-backs and ticks, then one instruction for four gigabytes.
    let text = "(module (memory i64 65536) (func (export \"_start\") (local $left i32)
        (local.set $left (i32.const 20000000))
        (loop $more (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
        (memory.fill (i64.const 0) (i32.const 1) (i64.const 4294967296))))";
    let limits = |l: &mut gristmill_protocol::LimitsSpec| {
        l.wall_time_ms = Some(300);
        l.fuel = Some(1 << 60);
    };
    let ended = Guest::new(text).limits(limits).run();
    let outcome = ended.stuck.first().unwrap_or(&ended.outcome);
    assert_eq!(outcome.reason, Some(Reason::WallTimeExceeded));
    let fuel = outcome.usage.fuel.unwrap_or_else(|| panic!("unknown: {:?}", outcome.usage));
    assert!((10_000_000..200_000_000).contains(&fuel), "{fuel}");
}

#[test]
fn a_stop_before_the_start_prevents_it() {
    let mut guest = Guest::new(&program("unreachable"));
    guest.run();
    let control = gristmill_sandbox::RunControl::new(|_| {});
    control.stop(StopReason::Cancelled);
    let sandbox = gristmill_sandbox::Sandbox::start().expect("starts");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("starts");
    let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
    let finished =
        runtime.block_on(sandbox.run(&guest.request.spec(), guest.request.files(), &control, sender));
    assert_eq!(finished.end.outcome.reason, Some(Reason::CancelledByUser));
    assert!(receiver.blocking_recv().is_none(), "nothing started");
}
