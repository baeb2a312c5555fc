//! What confinement costs: the time from the start of an executor to the end of its first, empty run,
//! level by level, against starting an empty program; and a warm run.
//!
//! `cargo build --release --workspace --examples && cargo bench --workspace --bench confinement`

#[path = "../tests/it/setup.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod setup;

use std::time::{Duration, Instant};

use gristmill_executor::RunOrders;
use gristmill_protocol::{Isolation, OuterLimit};
use setup::{Workshop, no_stop};
use tokio::sync::mpsc;

const ROUNDS: usize = 60;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("starts");
    runtime.block_on(async {
        let floor = median(&(0..ROUNDS).map(|_| empty_program()).collect::<Vec<_>>());
        println!("{:<44} {:>9}", "fork, exec and wait for an empty program", shown(floor));
        for (outer_limit, own_uid) in [
            (OuterLimit::Process, false),
            (OuterLimit::Process, true),
            (OuterLimit::CgroupV1, true),
            (OuterLimit::CgroupV2, true),
        ] {
            let most = Isolation { outer_limit, own_uid, ..Isolation::default() };
            let workshop = Workshop::confined("-", most).await;
            let reached = workshop.confiner.isolation();
            if (reached.outer_limit, reached.own_uid) != (outer_limit, own_uid) {
                println!("{outer_limit} (own uid: {own_uid}): not on this machine");
                continue;
            }
            workshop.compile("(module (func (export \"_start\")))").await.expect("compiles");
            let (mut first, mut warm) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let start = Instant::now();
                let mut executor = workshop.executor().await;
                for times in [&mut first, &mut warm] {
                    let again = Instant::now();
                    let request = workshop.request(&executor, |_| {});
                    let (events, _unread) = mpsc::channel(8);
                    let end = executor.run(request, events, RunOrders::without_lease(no_stop())).await;
                    assert_eq!(end.outcome.exit_code, Some(0), "{end:?}");
                    times.push(again.elapsed());
                }
                if let Some(last) = first.last_mut() {
                    *last = start.elapsed().saturating_sub(*warm.last().expect("just pushed"));
                }
                executor.kill().await;
            }
            let (first, warm) = (median(&first), median(&warm));
            println!(
                "{:<44} {:>9}  ({:.1} x the empty program), warm run {}",
                reached.summary(),
                shown(first),
                first.as_secs_f64() / floor.as_secs_f64(),
                shown(warm),
            );
        }
    });
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
