//! Runs in a child process.

use std::time::{Duration, Instant};

use gristmill_executor::{
    Executor, RunOrders,
    request::{RunEnd, RunEvent, RunRequest, StopReason},
};
use gristmill_protocol::{Reason, attempt::LogStream};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::sync::{mpsc, watch};

use crate::setup::{Workshop, no_stop};

const HELLO: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 100) "hello\n")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 100)) (i32.store (i32.const 4) (i32.const 6))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $exit (i32.const 7))))"#;
const LOOP: &str = "(module (func (export \"_start\") (loop (br 0))))";
const FLOOD: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start") (local $i i32)
    (i32.store (i32.const 4) (i32.const 65536))
    (loop
      (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 100))))))"#;
/// Opens files until it may have no more, and moves each onto the one before the last.
const HOARD: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_renumber" (func $renumber (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 100) "a")
  (func $file (result i32)
    (if (call $open (i32.const 3) (i32.const 0) (i32.const 100) (i32.const 1) (i32.const 1) (i64.const 66)
          (i64.const 66) (i32.const 0) (i32.const 16))
      (then unreachable))
    (i32.load (i32.const 16)))
  (func (export "_start")
    (loop
      (drop (call $renumber (call $file) (call $file)))
      (drop (call $file))
      (br 0))))"#;
/// Fills eight gigabytes a page at a time in one instruction; takes seconds.
const STUCK: &str = "(module (memory i64 100000) (func (export \"_start\")
    (memory.fill (i64.const 0) (i32.const 1) (i64.const 6553600000))))";

/// Runs with a reader that collects stdout.
async fn run(executor: &mut Executor, request: RunRequest) -> (RunEnd, Vec<u8>) {
    run_until(executor, request, no_stop()).await
}

async fn run_until(
    executor: &mut Executor,
    request: RunRequest,
    stop: watch::Receiver<Option<StopReason>>,
) -> (RunEnd, Vec<u8>) {
    let (sender, mut receiver) = mpsc::channel(2);
    let reader = async {
        let mut stdout = Vec::new();
        while let Some(event) = receiver.recv().await {
            if let RunEvent::Log { stream: LogStream::Stdout, bytes, .. } = event {
                stdout.extend(bytes);
            }
        }
        stdout
    };
    tokio::join!(executor.run(request, sender, RunOrders::without_lease(stop)), reader)
}

#[tokio::test]
async fn one_executor_serves_many_runs() {
    let workshop = Workshop::open().await;
    workshop.compile(HELLO).await.expect("compiles");
    let mut executor = workshop.executor().await;
    let pid = executor.pid();
    for _ in 0..20 {
        let request = workshop.request(&executor, |_| {});
        let (end, stdout) = run(&mut executor, request).await;
        assert_eq!(end.outcome.reason, Some(Reason::ExitCode), "{end:?}");
        assert_eq!(end.outcome.exit_code, Some(7));
        assert!(end.reusable);
        assert_eq!(stdout, b"hello\n");
        assert!(executor.is_as_new().await);
    }
    assert_eq!(executor.pid(), pid);
    executor.kill().await;
}

#[tokio::test]
async fn an_executor_that_lost_descriptors_is_not_fit_for_another_run() {
    let workshop = Workshop::with("leaks").await;
    workshop.compile(HELLO).await.expect("compiles");
    let mut executor = workshop.executor().await;
    let deadline = Instant::now() + Duration::from_secs(20);
    let (mut runs, mut is_fit) = (0, true);
    while is_fit && Instant::now() < deadline {
        let request = workshop.request(&executor, |_| {});
        let (end, _) = run(&mut executor, request).await;
        assert_eq!(end.outcome.exit_code, Some(7), "{end:?}");
        is_fit = executor.is_as_new().await;
        runs += 1;
    }
    assert!(!is_fit, "nobody noticed in {runs} runs");
    let request = workshop.request(&executor, |_| {});
    let (end, _) = run(&mut executor, request).await;
    assert_eq!(end.outcome.reason, Some(Reason::ExecutorCrashed), "it serves nobody more: {end:?}");
}

#[tokio::test]
async fn h50_descriptors_that_a_guest_hoarded_and_moved_about_are_not_left_in_the_process() {
    let workshop = Workshop::open().await;
    workshop.compile(HOARD).await.expect("compiles");
    let mut executor = workshop.executor().await;
    for _ in 0..3 {
        let request = workshop.request(&executor, |limits| limits.handles = Some(64));
        let (end, _) = run(&mut executor, request).await;
        assert_eq!(end.outcome.reason, Some(Reason::HandlesExceeded), "{end:?}");
        assert!(end.reusable && executor.is_as_new().await, "{end:?}");
    }
}

#[tokio::test]
async fn an_executor_that_holds_much_memory_is_not_fit_for_a_run() {
    let workshop = Workshop::with("bloats").await;
    let mut executor = workshop.executor().await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while executor.is_as_new().await {
        assert!(Instant::now() < deadline, "nobody noticed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut lean = Workshop::open().await.executor().await;
    assert!(lean.is_as_new().await);
}

#[tokio::test]
async fn a_warm_run_takes_little_time() {
    let workshop = Workshop::open().await;
    workshop.compile("(module (func (export \"_start\")))").await.expect("compiles");
    let mut executor = workshop.executor().await;
    let mut times = Vec::new();
    for _ in 0..50 {
        let request = workshop.request(&executor, |_| {});
        let start = Instant::now();
        run(&mut executor, request).await;
        times.push(start.elapsed());
    }
    times.sort();
    println!("a warm empty run: median {:?}, slowest {:?}", times[25], times[49]);
    // Far above what it takes (a fraction of a millisecond), for the sake of busy machines.
    assert!(times[25] < Duration::from_millis(20), "{times:?}");
}

#[tokio::test]
async fn a_cancel_stops_the_guest_and_the_executor_lives_on() {
    let workshop = Workshop::open().await;
    workshop.compile(LOOP).await.expect("compiles");
    let mut executor = workshop.executor().await;
    let mut times = Vec::new();
    for _ in 0..20 {
        let (stop, watched) = watch::channel(None);
        let request = workshop.request(&executor, |_| {});
        let cancel = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            stop.send(Some(StopReason::Cancelled)).expect("is watched");
            Instant::now()
        };
        let ((end, _), cancelled_at) = tokio::join!(run_until(&mut executor, request, watched), cancel);
        times.push(cancelled_at.elapsed());
        assert_eq!(end.outcome.reason, Some(Reason::CancelledByUser), "{end:?}");
    }
    times.sort();
    println!("a cancel: median {:?}, slowest {:?}", times[10], times[19]);
    assert!(times[10] < Duration::from_millis(100), "{times:?}");
}

#[tokio::test]
async fn a_guest_that_cannot_be_interrupted_costs_the_executor() {
    let workshop = Workshop::open().await;
    workshop.compile(STUCK).await.expect("compiles");
    let mut executor = workshop.executor().await;
    let start = Instant::now();
    let request = workshop.request(&executor, |l| {
        l.wall_time_ms = Some(100);
        l.fuel = Some(1 << 60);
    });
    let (end, _) = run(&mut executor, request).await;
    assert_eq!(end.outcome.reason, Some(Reason::WallTimeExceeded), "{end:?}");
    assert!(!end.reusable);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let request = workshop.request(&executor, |_| {});
    let (end, _) = run(&mut executor, request).await;
    assert_eq!(end.outcome.reason, Some(Reason::ExecutorCrashed), "it is dead");
    assert_eq!(executor.pid(), None, "and reaped");
}

#[tokio::test]
async fn a_killed_executor_is_an_outcome_that_names_the_signal() {
    let workshop = Workshop::open().await;
    workshop.compile(LOOP).await.expect("compiles");
    let mut executor = workshop.executor().await;
    let pid = Pid::from_raw(executor.pid().expect("lives").cast_signed()).expect("a process");
    let kill = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        kill_process(pid, Signal::KILL).expect("lives");
    };
    let request = workshop.request(&executor, |_| {});
    let ((end, _), ()) = tokio::join!(run(&mut executor, request), kill);
    assert_eq!(end.outcome.reason, Some(Reason::ExecutorCrashed));
    let message = end.outcome.message.expect("a message");
    assert!(message.contains("signal 9"), "{message}");
    assert!(!end.reusable);
}

#[tokio::test]
async fn a_stopped_process_is_killed_when_its_guest_is_overdue() {
    let workshop = Workshop::open().await;
    workshop.compile(LOOP).await.expect("compiles");
    let mut executor = workshop.executor().await;
    let pid = Pid::from_raw(executor.pid().expect("lives").cast_signed()).expect("a process");
    let freeze = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        kill_process(pid, Signal::STOP).expect("lives");
    };
    let request = workshop.request(&executor, |l| l.wall_time_ms = Some(300));
    let ((end, _), ()) = tokio::join!(run(&mut executor, request), freeze);
    assert_eq!(end.outcome.reason, Some(Reason::WallTimeExceeded), "{end:?}");
    assert!(!end.reusable);
    assert!(test_kill_process(pid).is_err(), "it is gone");
}

#[tokio::test]
async fn executors_that_misbehave_are_outcomes() {
    for (way, text) in [("dies", "code 3"), ("babbles", "")] {
        let workshop = Workshop::with(way).await;
        workshop.compile(LOOP).await.expect("compiles");
        let mut executor = workshop.executor().await;
        let request = workshop.request(&executor, |_| {});
        let (end, _) = run(&mut executor, request).await;
        assert_eq!(end.outcome.reason, Some(Reason::ExecutorCrashed), "{way}: {end:?}");
        assert!(end.outcome.message.as_deref().is_some_and(|m| m.contains(text)), "{way}: {end:?}");
    }
    let workshop = Workshop::with("silent").await;
    workshop.compile(LOOP).await.expect("compiles");
    let mut silent = workshop.executor().await;
    let (stop, watched) = watch::channel(None);
    stop.send(Some(StopReason::LeaseLost)).expect("is watched");
    let start = Instant::now();
    let request = workshop.request(&silent, |_| {});
    let (end, _) = run_until(&mut silent, request, watched).await;
    assert_eq!(end.outcome.reason, Some(Reason::LeaseExpired));
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_child_inherits_neither_environment_nor_descriptors() {
    let temp = tempfile::tempdir().expect("a directory");
    let secret = std::fs::File::create(temp.path().join("secret")).expect("a file");
    let leaked = rustix::io::fcntl_dupfd_cloexec(&secret, 100).expect("a descriptor");
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).expect("a flag");
    // Its children end at once if they find more than they should.
    let workshop = Workshop::with("inherits").await;
    workshop.compile(HELLO).await.expect("compiles");
    let mut executor = workshop.executor().await;
    let request = workshop.request(&executor, |_| {});
    let (end, _) = run(&mut executor, request).await;
    assert_eq!(end.outcome.exit_code, Some(7), "{end:?}");
}

#[tokio::test]
async fn a_slow_reader_gets_everything_and_the_guest_is_not_to_blame() {
    let workshop = Workshop::open().await;
    workshop.compile(FLOOD).await.expect("compiles");
    let mut executor = workshop.executor().await;
    let (sender, mut receiver) = mpsc::channel(1);
    let reader = async {
        let mut bytes_read = 0;
        while let Some(event) = receiver.recv().await {
            if let RunEvent::Log { bytes, .. } = event {
                bytes_read += bytes.len();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        bytes_read
    };
    let request = workshop.request(&executor, |_| {});
    let (end, bytes_read) =
        tokio::join!(executor.run(request, sender, RunOrders::without_lease(no_stop())), reader);
    assert_eq!(end.outcome.exit_code, Some(0), "{end:?}");
    assert_eq!(bytes_read, 6_553_600);
}

#[tokio::test]
async fn a_reader_that_does_not_read_cannot_prevent_a_stop() {
    let workshop = Workshop::open().await;
    workshop.compile(FLOOD).await.expect("compiles");
    let mut executor = workshop.executor().await;
    let (sender, _unread) = mpsc::channel(1);
    let (stop, watched) = watch::channel(None);
    let cancel = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stop.send(Some(StopReason::Cancelled)).expect("is watched");
    };
    let start = Instant::now();
    let request = workshop.request(&executor, |_| {});
    let (end, ()) = tokio::join!(executor.run(request, sender, RunOrders::without_lease(watched)), cancel);
    assert_eq!(end.outcome.reason, Some(Reason::CancelledByUser), "{end:?}");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_dropped_executor_is_killed() {
    let workshop = Workshop::open().await;
    let executor = workshop.executor().await;
    let pid = Pid::from_raw(executor.pid().expect("lives").cast_signed()).expect("a process");
    drop(executor);
    for _ in 0..200 {
        if test_kill_process(pid).is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the process is still there");
}
