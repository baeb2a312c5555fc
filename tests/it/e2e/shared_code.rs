//! Compiled code is in memory once, however many executors run it: they map one file and copy nothing.

use std::{fs, time::Duration};

use gristmill_tests::{
    api::Api,
    cluster::TestCluster,
    eventually, guests,
    process::{Process, children_running, cpu_ticks},
};

use super::small_job;

/// Functions of the guest with much code, each of a few kilobytes.
const FUNCTIONS: u32 = 2_000;
const LIMIT: Duration = Duration::from_secs(120);
/// CPU time of an executor whose guest computes, in hundredths of a second; starting takes a fraction of it.
const COMPUTES: u64 = 20;

/// Memory of a process that is resident, in bytes: pages of files, and pages of its own. Any process may read
/// this of any other (proc(5), `/proc/pid/status`).
#[derive(Debug, Clone, Copy)]
struct Resident {
    files: u64,
    own: u64,
}

fn resident(pid: u32) -> Option<Resident> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1_024)
    };
    Some(Resident { files: of("RssFile")?, own: of("RssAnon")? })
}

/// What the executors of so many jobs have in memory once the guest of each computes and has at least so much of
/// files there.
async fn running(api: &Api, node: &Process, module: &str, jobs: usize, files: u64) -> Vec<Resident> {
    let mut submitted = Vec::new();
    for _ in 0..jobs {
        submitted.push(api.submit(&small_job(module)).await.expect("a job"));
    }
    let found = eventually("each executor to have the code in memory", LIMIT, || async {
        for job in &submitted {
            let job = api.job(&job.id).await.ok()?;
            assert!(!job.state.is_terminal(), "{job:#?}");
        }
        let executors = children_running(node.pid(), "executor").into_iter();
        let computing = executors.filter(|pid| cpu_ticks(*pid).is_some_and(|ticks| ticks >= COMPUTES));
        let found: Vec<_> =
            computing.filter_map(resident).filter(|resident| resident.files >= files).collect();
        (found.len() == jobs).then_some(found)
    })
    .await;
    for job in submitted {
        api.cancel(&job.id).await.expect("a cancel");
        api.finished(&job.id, LIMIT).await.expect("it ends");
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn executors_that_run_one_module_share_its_code() {
    let code = guests::machine_code_of(FUNCTIONS);
    for (name, little, much) in [
        ("module", guests::runs_much_code(1), guests::runs_much_code(FUNCTIONS)),
        (
            "component",
            guests::component_that_runs_much_code(1),
            guests::component_that_runs_much_code(FUNCTIONS),
        ),
    ] {
        // A node that nothing ran on before: all its executors are of these jobs.
        let (cluster, node) = TestCluster::with_node().await;
        let api = &cluster.api;
        let (small, large) = (format!("small-{name}"), format!("large-{name}"));
        api.publish(&small, little).await.expect("a module");
        api.publish(&large, much).await.expect("a module");
        let small = running(api, &node, &small, 1, 0).await[0];
        let found = running(api, &node, &large, 2, small.files + code).await;
        println!("{name} with at least {code} bytes of code: {found:?}; with little: {small:?}");
        for executor in found {
            assert!(executor.own < small.own + code / 4, "{name}: {executor:?}, with little code {small:?}");
        }
    }
}
