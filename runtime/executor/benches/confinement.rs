//! What confinement costs: the time from the start of an executor to the end of its first, empty run,
//! level by level, against starting an empty program; a warm run; and each mechanism that works while a
//! module is compiled or a guest runs, against doing the same without it.
//!
//! `cargo build --release --workspace --examples && cargo bench --workspace --bench confinement`

#[path = "../tests/it/setup.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod setup;

use std::{
    fs::{self, File},
    io::Write as _,
    time::{Duration, Instant},
};

use gristmill_executor::{Executor, RunOrders, request::RunEnd};
use gristmill_protocol::{Isolation, LimitsSpec, Metering, OuterLimit, Reason, module::ModuleWorld};
use gristmill_sandbox::EngineClass;
use rustix::time::{ClockId, clock_gettime};
use setup::{Workshop, no_stop};
use tokio::sync::mpsc;

const ROUNDS: usize = 60;
/// Rounds of what takes longer.
const FEW_ROUNDS: usize = 9;
/// How often a guest does what is measured.
const STEPS: u32 = 10_000;
const EMPTY: &str = "(module (func (export \"_start\")))";
const LOOP: &str = "(module (func (export \"_start\") (loop (br 0))))";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("starts");
    runtime.block_on(async {
        let floor = median(&(0..ROUNDS).map(|_| empty_program()).collect::<Vec<_>>());
        say("fork, exec and wait for an empty program", &shown(floor));
        for (outer_limit, own_uid) in [
            (OuterLimit::Process, false),
            (OuterLimit::Process, true),
            (OuterLimit::CgroupV1, true),
            (OuterLimit::CgroupV2, true),
        ] {
            runs_at(outer_limit, own_uid, floor).await;
        }
        compiling().await;
        growing().await;
        writing().await;
        watching().await;
    });
}

/// A first run and a warm one at a level.
async fn runs_at(outer_limit: OuterLimit, own_uid: bool, floor: Duration) {
    let workshop = workshop(outer_limit, own_uid).await;
    let reached = workshop.confiner.isolation();
    if (reached.outer_limit, reached.own_uid) != (outer_limit, own_uid) {
        println!("{outer_limit} (own uid: {own_uid}): not on this machine");
        return;
    }
    workshop.compile(EMPTY).await.expect("compiles");
    let (mut first, mut warm) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mut executor = workshop.executor().await;
        for times in [&mut first, &mut warm] {
            let again = Instant::now();
            ran(&workshop, &mut executor, |_| {}).await;
            times.push(again.elapsed());
        }
        if let Some(last) = first.last_mut() {
            *last = start.elapsed().saturating_sub(*warm.last().expect("just pushed"));
        }
        executor.kill().await;
    }
    let (first, warm) = (median(&first), median(&warm));
    let times = first.as_secs_f64() / floor.as_secs_f64();
    say(
        &reached.summary(),
        &format!("{}  ({times:.1} x the empty program), warm run {}", shown(first), shown(warm)),
    );
}

/// The child that compiles, against compiling in this process.
async fn compiling() {
    let workshop = workshop(OuterLimit::Process, false).await;
    let wasm = wat::parse_str(EMPTY).expect("well-formed text");
    let class = EngineClass { metering: Metering::Fuel, reproducible: false };
    let (mut here, mut in_child) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        gristmill_sandbox::compile(&wasm, ModuleWorld::WasiP1, class).expect("compiles");
        here.push(start.elapsed());
        let start = Instant::now();
        workshop.compile(EMPTY).await.expect("compiles");
        in_child.push(start.elapsed());
        fs::remove_file(workshop.path("compiled")).expect("was written");
    }
    let (here, in_child) = (median(&here), median(&in_child));
    say("compile child: an empty module", &format!("{}, in this process {}", shown(in_child), shown(here)));
}

/// The memory limiter, which is asked for every growth.
async fn growing() {
    let grow = "(if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))";
    let look = "(drop (memory.size))";
    let guest = |step: &str| {
        format!("(module (memory 1) (func (export \"_start\") (local $i i32) {}))", repeated(step))
    };
    let (growing, plain) = (guest_time(&guest(grow)).await, guest_time(&guest(look)).await);
    say("memory limiter: a growth, the engine's part included", &each(growing, plain));
}

/// The count of disk bytes, against writing from this process.
async fn writing() {
    let write = "(if (call $write (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))";
    let text = format!(
        r#"(module
             (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
             (import "wasi_snapshot_preview1" "path_open"
               (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
             (memory (export "memory") 2) (data (i32.const 100) "a")
             (func (export "_start") (local $i i32)
               (if (call $open (i32.const 3) (i32.const 0) (i32.const 100) (i32.const 1) (i32.const 9) (i64.const 66)
                     (i64.const 66) (i32.const 0) (i32.const 16)) (then unreachable))
               (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const 4096))
               {}))"#,
        repeated(write)
    );
    let counted = guest_time(&text).await;
    let dir = tempfile::tempdir().expect("a directory");
    let plain = (0..FEW_ROUNDS).map(|_| {
        let start = Instant::now();
        let mut file = File::create(dir.path().join("a")).expect("a file");
        (0..STEPS).for_each(|_| file.write_all(&[0; 4096]).expect("room"));
        start.elapsed()
    });
    let plain = median(&plain.collect::<Vec<_>>());
    let (counted, plain) = (each(counted, Duration::ZERO), each(plain, Duration::ZERO));
    say("disk count: 4 KiB written by a guest", &format!("{counted}, by this process {plain}"));
}

/// Watchdog and CPU throttle: what this process spends while a guest computes.
async fn watching() {
    const TIME: Duration = Duration::from_secs(3);
    let workshop = workshop(OuterLimit::Process, false).await;
    workshop.compile(LOOP).await.expect("compiles");
    let before = own_cpu_time();
    tokio::time::sleep(TIME).await;
    let mut spent = vec![("nothing", own_cpu_time().saturating_sub(before))];
    for (what, cpus_milli) in [("watchdog", 1_000), ("watchdog and CPU throttle", 500)] {
        let mut executor = workshop.executor().await;
        let before = own_cpu_time();
        let end = run(&workshop, &mut executor, |limits| {
            limits.cpus_milli = Some(cpus_milli);
            limits.wall_time_ms = Some(TIME.as_millis() as u64);
        });
        assert_eq!(end.await.outcome.reason, Some(Reason::WallTimeExceeded));
        spent.push((what, own_cpu_time().saturating_sub(before)));
        executor.kill().await;
    }
    for (what, time) in spent {
        let share = time.as_secs_f64() / TIME.as_secs_f64() * 100.0;
        say(&format!("{what}: the node's part of a core for one job"), &format!("{share:.2} %"));
    }
}

async fn workshop(outer_limit: OuterLimit, own_uid: bool) -> Workshop {
    Workshop::confined("-", Isolation { outer_limit, own_uid, ..Isolation::default() }).await
}

/// A loop that does a step so many times, in a function with the local `$i`.
fn repeated(step: &str) -> String {
    format!(
        "(loop {step}
           (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const {STEPS}))))"
    )
}

/// How long a guest takes in an executor that is warm.
async fn guest_time(text: &str) -> Duration {
    let workshop = workshop(OuterLimit::Process, false).await;
    workshop.compile(text).await.expect("compiles");
    let mut executor = workshop.executor().await;
    let mut times = Vec::new();
    for _ in 0..=FEW_ROUNDS {
        let start = Instant::now();
        ran(&workshop, &mut executor, |_| {}).await;
        times.push(start.elapsed());
    }
    executor.kill().await;
    // The first one loads the code.
    median(&times[1..])
}

async fn run(workshop: &Workshop, executor: &mut Executor, change: impl FnOnce(&mut LimitsSpec)) -> RunEnd {
    let request = workshop.request(executor, change);
    let (events, _unread) = mpsc::channel(8);
    executor.run(request, events, RunOrders::without_lease(no_stop())).await
}

/// A run that has to succeed.
async fn ran(workshop: &Workshop, executor: &mut Executor, change: impl FnOnce(&mut LimitsSpec)) {
    let end = run(workshop, executor, change).await;
    assert_eq!(end.outcome.exit_code, Some(0), "{end:?}");
}

/// CPU time of this process, without its children.
fn own_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

fn empty_program() -> Duration {
    let start = Instant::now();
    std::process::Command::new("true").status().expect("an empty program");
    start.elapsed()
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[sorted.len() / 2]
}

fn shown(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

/// The time of one of the steps.
fn each(all: Duration, without: Duration) -> String {
    format!("{:.2} us", all.saturating_sub(without).as_secs_f64() * 1e6 / f64::from(STEPS))
}

fn say(what: &str, cost: &str) {
    println!("{what:<56} {cost:>9}");
}
