//! What holds an executor from outside, at every level that this machine has.

use std::{
    os::unix::fs::MetadataExt as _,
    time::{Duration, Instant},
};

use gristmill_executor::{
    Executor, OVERHEAD_BYTES, RunOrders,
    request::{RunEnd, StopReason},
};
use gristmill_protocol::{Isolation, OuterLimit, Reason};
use tokio::sync::{mpsc, watch};

use crate::setup::{Workshop, everything, say};

/// Memory of the guests here.
const GUEST_BYTES: u64 = 16 << 20;
const LOOP: &str = "(module (func (export \"_start\") (loop (br 0))))";

/// The levels that can be reached here, the weakest first. The others are named, so that nobody takes
/// them for tested.
async fn levels() -> Vec<OuterLimit> {
    let mut found = Vec::new();
    for level in [OuterLimit::Process, OuterLimit::CgroupV1, OuterLimit::CgroupV2] {
        let most = Isolation { outer_limit: level, ..everything() };
        let reached = Workshop::confined("-", most).await.confiner.isolation();
        if reached.outer_limit == level {
            found.push(level);
        } else {
            say(&format!("!! not tested: this machine offers no {level}"));
        }
    }
    say(&format!("outer limits tested: {found:?}"));
    found
}

async fn at(level: OuterLimit, way: &str) -> Workshop {
    let workshop = Workshop::confined(way, Isolation { outer_limit: level, ..everything() }).await;
    workshop.compile(LOOP).await.expect("compiles");
    workshop
}

/// Runs until a stop after `time`.
async fn run_for(workshop: &Workshop, executor: &mut Executor, cpus_milli: u32, time: Duration) -> RunEnd {
    let request = workshop.request(executor, |limits| {
        limits.cpus_milli = Some(cpus_milli);
        limits.memory_bytes = Some(GUEST_BYTES);
    });
    let (stop, watched) = watch::channel(None);
    let (sender, mut events) = mpsc::channel(16);
    let reading = async { while events.recv().await.is_some() {} };
    let orders = RunOrders::without_lease(watched);
    let running = async { tokio::join!(executor.run(request, sender, orders), reading).0 };
    tokio::pin!(running);
    tokio::select! {
        end = &mut running => return end,
        () = tokio::time::sleep(time) => {}
    }
    stop.send(Some(StopReason::Cancelled)).expect("the run listens");
    running.await
}

#[tokio::test]
async fn children_are_confined_as_far_as_this_machine_can() {
    let workshop = Workshop::open().await;
    let isolation = workshop.confiner.isolation();
    say(&format!("executors here: {}", isolation.summary()));
    assert!(isolation.seccomp, "every Linux that is supported has it");
    let executor = workshop.executor().await;
    let pid = executor.pid().expect("lives");
    // It is started, which does not say that it is ready; the filter of system calls comes last.
    let give_up = Instant::now() + Duration::from_secs(60);
    while !status(pid).iter().any(|line| line == "Seccomp:\t2") && Instant::now() < give_up {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let status = status(pid);
    let field = |name: &str| status.iter().find_map(|line| line.strip_prefix(name)).expect("a field").trim();
    if rustix::process::geteuid().is_root() {
        assert!(isolation.own_uid);
        let uid = executor.slot().uid().expect("one of its own").to_string();
        assert_eq!(field("Uid:").split_whitespace().collect::<Vec<_>>(), [uid.as_str(); 4]);
        assert_eq!(field("Groups:"), "");
        assert_eq!(field("CapBnd:"), "0000000000000000", "no privilege can be regained");
    } else {
        say("!! not tested: executors of their own user id need a node of the superuser");
    }
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1", "2"));
    if std::path::Path::new("/sys/kernel/security/landlock").exists() || isolation.landlock_abi > 0 {
        assert!(isolation.landlock_abi >= 1);
    } else {
        say("!! not tested: this kernel has no Landlock");
    }
}

#[tokio::test]
async fn a_host_that_takes_too_much_memory_is_ended_as_memory_exceeded() {
    for level in levels().await {
        let workshop = at(level, "swells").await;
        let mut executor = workshop.executor().await;
        let start = Instant::now();
        let end = run_for(&workshop, &mut executor, 1_000, Duration::from_secs(20)).await;
        assert_eq!(end.outcome.reason, Some(Reason::MemoryExceeded), "{level}: {end:?}");
        assert!(!end.reusable && start.elapsed() < Duration::from_secs(15), "{level}");
        // Kernels before 5.19 do not say it of groups of version 2.
        let least = if level == OuterLimit::Process { GUEST_BYTES + OVERHEAD_BYTES } else { OVERHEAD_BYTES };
        match end.outcome.usage.memory_peak_bytes {
            Some(peak) => assert!((least..2 * OVERHEAD_BYTES).contains(&peak), "{level}: {peak}"),
            None => assert_eq!(level, OuterLimit::CgroupV2),
        }
    }
}

#[tokio::test]
async fn a_host_gone_wild_gets_no_more_cores_than_its_job() {
    for level in levels().await {
        let workshop = at(level, "spins").await;
        for (cpus_milli, most) in [(1_000, 1.15), (500, 0.7)] {
            let mut executor = workshop.executor().await;
            let pid = executor.pid().expect("lives");
            let time = Duration::from_secs(2);
            let watching = async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                let (before, start) = (cpu_ticks(pid), Instant::now());
                tokio::time::sleep(time * 7 / 10).await;
                (cpu_ticks(pid) - before) as f64 / 100.0 / start.elapsed().as_secs_f64()
            };
            let (_, cores) = tokio::join!(run_for(&workshop, &mut executor, cpus_milli, time), watching);
            say(&format!("{level}: {cores:.2} cores of {cpus_milli} thousandths"));
            assert!(cores < most, "{level}: {cores}");
        }
    }
}

/// How much of a core a guest had.
fn cores_had(end: &RunEnd) -> f64 {
    let usage = &end.outcome.usage;
    usage.cpu_us.expect("measured") as f64 / usage.wall_us.expect("measured") as f64
}

#[tokio::test]
async fn a_job_of_half_a_core_gets_half_of_one_and_the_next_one_its_own_share() {
    for level in levels().await {
        let workshop = at(level, "-").await;
        let mut executor = workshop.executor().await;
        let mut had = Vec::new();
        for cpus_milli in [500, 1_000, 500] {
            let end = run_for(&workshop, &mut executor, cpus_milli, Duration::from_secs(2)).await;
            assert_eq!(end.outcome.reason, Some(Reason::CancelledByUser), "{level}: {end:?}");
            assert!(
                end.reusable && end.outcome.usage.fuel.is_some(),
                "{level}: it stopped by itself: {end:?}"
            );
            had.push(cores_had(&end));
            let stopped =
                status(executor.pid().expect("lives")).iter().any(|line| line.starts_with("State:\tT"));
            assert!(!stopped, "{level}: nothing holds it back between two runs");
        }
        say(&format!("{level}: {had:.2?} cores of 0.5, 1 and 0.5"));
        // On a busy machine nobody gets all that is due.
        let whole = had[1].min(1.0);
        for half in [had[0], had[2]] {
            assert!(half < 0.7 && half > 0.3 * whole, "{level}: {had:?}");
        }
    }
}

#[tokio::test]
async fn a_job_of_little_cpu_time_stops_as_promptly_as_any_other() {
    const LITTLE: u32 = 10;
    for level in levels().await {
        let workshop = at(level, "-").await;
        let mut executor = workshop.executor().await;
        for _ in 0..3 {
            let end = run_for(&workshop, &mut executor, LITTLE, Duration::from_millis(300)).await;
            assert_eq!(end.outcome.reason, Some(Reason::CancelledByUser), "{level}: {end:?}");
            // At the other levels the kernel holds it back, also when it has to end.
            assert!(end.reusable || level != OuterLimit::Process, "{level}: it was not killed: {end:?}");
            if !end.reusable {
                executor = workshop.executor().await;
            }
        }
        let mut request = workshop.request(&executor, |limits| {
            limits.cpus_milli = Some(LITTLE);
            limits.wall_time_ms = Some(700);
        });
        let (sender, _events) = mpsc::channel(16);
        let start = Instant::now();
        request.spec.label = "wall time".to_owned();
        let end = executor.run(request, sender, RunOrders::without_lease(watch::channel(None).1)).await;
        assert_eq!(end.outcome.reason, Some(Reason::WallTimeExceeded), "{level}: {end:?}");
        assert!(start.elapsed() < Duration::from_secs(10), "{level}: {:?}", start.elapsed());
        if level == OuterLimit::Process {
            assert!(cores_had(&end) < 0.3, "{level}: {end:?}");
        }
        // Held back most of the time, and killed then.
        let mut executor = workshop.executor().await;
        let request = workshop.request(&executor, |limits| limits.cpus_milli = Some(LITTLE));
        let (sender, _events) = mpsc::channel(16);
        let pid = executor.pid().expect("lives");
        let run = executor.run(request, sender, RunOrders::without_lease(watch::channel(None).1));
        assert!(tokio::time::timeout(Duration::from_millis(300), run).await.is_err(), "it goes on");
        executor.kill().await;
        assert!(!std::path::Path::new("/proc").join(pid.to_string()).exists(), "{level}: it is reaped");
    }
}

/// CPU time of a process, in hundredths of a second.
fn cpu_ticks(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("lives");
    let after_name = text.rsplit(") ").next().expect("a name");
    after_name.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum()
}

#[tokio::test]
async fn two_jobs_of_one_core_get_one_each() {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if cores < 2 {
        say("!! not tested: this machine has one core");
        return;
    }
    for level in levels().await {
        let workshop = at(level, "-").await;
        // Executors that are idle now, more of which ran on the one core than on the other.
        let mut idle = Vec::new();
        for _ in 0..3 {
            idle.push(workshop.executor().await);
            let last = idle.last_mut().expect("just made");
            run_for(&workshop, last, 1_000, Duration::from_millis(50)).await;
        }
        drop(idle.remove(1));
        let (mut one, mut two) = (workshop.executor().await, workshop.executor().await);
        let time = Duration::from_millis(1_500);
        let pids = [&one, &two].map(|executor| executor.pid().expect("lives"));
        let watching = async {
            tokio::time::sleep(time / 2).await;
            pids.map(allowed_cores)
        };
        let (first, second, allowed) = tokio::join!(
            run_for(&workshop, &mut one, 1_000, time),
            run_for(&workshop, &mut two, 1_000, time),
            watching,
        );
        let used = [cores_had(&first), cores_had(&second)];
        say(&format!("{level}: {:.2} and {:.2} cores, on {allowed:?}", used[0], used[1]));
        assert!(used.iter().all(|&cores| cores < 1.15), "{level}: {used:?}");
        if level == OuterLimit::Process {
            // Groups leave it to the kernel which cores they are.
            assert_ne!(allowed[0], allowed[1], "each has a core of its own");
            assert!(allowed.iter().all(|list| list.parse::<u32>().is_ok()), "{allowed:?}");
        }
    }
}

/// The cores that a process may use, as the kernel lists them.
fn allowed_cores(pid: u32) -> String {
    let lines = status(pid);
    let found = lines.iter().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    found.expect("a list").trim().to_owned()
}

/// What the kernel says of a process.
fn status(pid: u32) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("lives");
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_kernel_without_file_rules_is_found_out_and_named() {
    let workshop = Workshop::with("without-landlock").await;
    let isolation = workshop.confiner.isolation();
    assert!(isolation.seccomp && isolation.landlock_abi == 0, "{isolation:?}");
    assert_eq!((isolation.level(), isolation.lacks()), (None, vec!["landlock"]));
    workshop.compile(LOOP).await.expect("what is left of the confinement works");
}

#[tokio::test]
async fn two_nodes_on_one_machine_use_different_user_ids() {
    let (one, two) = (Workshop::open().await, Workshop::open().await);
    let uids = [one.executor().await.slot().uid(), two.executor().await.slot().uid()];
    match uids {
        [Some(one), Some(two)] => assert_ne!(one, two),
        _ => say("!! not tested: executors of their own user id need a node of the superuser"),
    }
}

#[tokio::test]
async fn a_slot_belongs_to_its_executor_and_another_cannot_reach_it() {
    let workshop = Workshop::open().await;
    let (one, two) = (workshop.executor().await, workshop.executor().await);
    assert_ne!(one.slot().writable(), two.slot().writable());
    if workshop.confiner.isolation().own_uid {
        assert!(one.slot().uid().is_some() && one.slot().uid() != two.slot().uid());
    }
    // What the slot holds, and how it is called, is the node's business alone.
    for dir in [one.slot().readable(), one.slot().writable()] {
        assert_eq!(std::fs::metadata(dir).expect("there").uid(), rustix::process::geteuid().as_raw());
    }
}
