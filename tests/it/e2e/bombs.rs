//! Modules made to exhaust a compiler harm nobody: most are refused when they are published, the
//! others end at the limits of their compilation, and jobs beside them run on.

use std::{
    fs,
    time::{Duration, Instant},
};

use gristmill_protocol::{JobSpec, JobState, Reason, job::JobView};
use gristmill_tests::{
    api::Api,
    bombs,
    cluster::{NodeOptions, TestCluster},
    eventually, guests,
    process::Process,
};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::small_job;

const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn bombs_are_too_complex_to_be_published() {
    let cluster = TestCluster::start().await;
    for (name, wasm) in [
        ("functions", bombs::empty_functions(900_000)),
        ("locals", bombs::unused_locals(1_000, 50_000)),
        ("additions", bombs::additions(1_700_000)),
        ("loops", bombs::loops(20_000, 2_000)),
        ("conditions", bombs::conditions(150_000, 64)),
        ("branches", bombs::branches(30, 65_000)),
    ] {
        let began = Instant::now();
        let refused = cluster.api.publish(name, wasm).await.expect_err("it is a bomb").to_string();
        assert!(refused.contains("422") && refused.contains("module_too_complex"), "{name}: {refused}");
        assert!(began.elapsed() < Duration::from_secs(10), "{name}: {:?}", began.elapsed());
    }
    cluster.api.publish("noop", guests::noop()).await.expect("the server goes on");
}

fn bomb_job(module: &str, time_ms: u64, memory_bytes: u64) -> JobSpec {
    let mut spec = small_job(module);
    spec.limits.compile_time_ms = Some(time_ms);
    spec.limits.compile_memory_bytes = Some(memory_bytes);
    spec
}

async fn ends_as(cluster: &TestCluster, spec: &JobSpec, reason: Reason) -> JobView {
    let job = cluster.api.submit(spec).await.expect("a job");
    let ended = cluster.api.finished(&job.id, LIMIT).await.expect("it ends");
    assert_eq!((ended.state, ended.reason), (JobState::Failed, Some(reason)), "{ended:#?}");
    ended
}

/// How long the compilation of a job's one attempt took.
async fn compile_us(cluster: &TestCluster, job: &JobView) -> Option<u64> {
    cluster.api.attempts(&job.id).await.expect("attempts")[0].usage.as_ref()?.compile_us
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_that_pass_end_at_the_limits_of_their_compilation_while_other_jobs_run_on() {
    let (cluster, mut node) = TestCluster::with_node().await;
    let api = &cluster.api;
    api.publish("noop", guests::noop()).await.expect("a module");
    api.publish("slow", bombs::nested_loops(300, 300)).await.expect("within the ceilings");
    api.publish("large", bombs::additions(1_300_000)).await.expect("within the ceilings");
    // Compiled, so that the small jobs need nothing but their turn.
    let first = api.submit(&small_job("noop")).await.expect("a job");
    api.finished(&first.id, LIMIT).await.expect("it ends");

    let (slow, large) = (bomb_job("slow", 1_500, 1 << 30), bomb_job("large", 60_000, 192 << 20));
    let small = async {
        for _ in 0..10 {
            let job = api.submit(&small_job("noop")).await.expect("a job");
            let ended = api.finished(&job.id, Duration::from_secs(20)).await.expect("it runs on");
            assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
        }
    };
    let (timed_out, too_large, ()) = tokio::join!(
        ends_as(&cluster, &slow, Reason::CompileTimeout),
        ends_as(&cluster, &large, Reason::CompileMemory),
        small
    );
    let took = compile_us(&cluster, &timed_out).await.expect("it was tried");
    assert!((1_400_000..10_000_000).contains(&took), "{took} us");
    assert!(compile_us(&cluster, &too_large).await.is_some());

    // The verdict holds, also after a restart. That of the slow one would only if it had a core to itself.
    node.signal(Signal::TERM);
    tokio::task::block_in_place(|| node.wait(LIMIT));
    let _again = cluster.node(&NodeOptions::named("node-1")).await;
    let again = ends_as(&cluster, &large, Reason::CompileMemory).await;
    assert_eq!(compile_us(&cluster, &again).await, None, "it is not compiled once more");
}

/// Speaks for a tenant of its own.
async fn tenant(cluster: &TestCluster, name: &str) -> Api {
    let api = &cluster.api;
    let _: Value = api.post("/v1/tenants", &json!({"name": name})).await.expect("a tenant");
    let token: Value = api.post("/v1/tokens", &json!({"name": name, "tenant": name})).await.expect("a token");
    Api::new(&api.url, token["secret"].as_str().expect("the secret"))
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_of_one_tenant_do_not_keep_the_fresh_module_of_another_from_being_compiled() {
    let (cluster, _node) = TestCluster::with_node().await;
    let rival = tenant(&cluster, "rival").await;
    let mut bombs = Vec::new();
    for (name, depth) in [("first", 550), ("second", 549)] {
        rival.publish(name, bombs::nested_loops(depth, 550)).await.expect("within the ceilings");
        let bomb = rival.submit(&bomb_job(name, 600_000, 2 << 30)).await.expect("a job");
        eventually("the bomb to be on the node", LIMIT, || async {
            let attempts = rival.attempts(&bomb.id).await.ok()?;
            (!attempts.is_empty()).then_some(())
        })
        .await;
        bombs.push(bomb);
    }
    cluster.api.publish("fresh", guests::noop()).await.expect("a module");
    let fresh = succeeds(&cluster, "fresh").await;
    assert!(!was_cached(&cluster, &fresh).await, "it was compiled now");
    for bomb in bombs {
        let now = rival.job(&bomb.id).await.expect("the job");
        assert!(!now.state.is_terminal(), "it did not wait for the bombs: {now:#?}");
        rival.cancel(&bomb.id).await.expect("is cancelled");
        rival.finished(&bomb.id, LIMIT).await.expect("it ends");
    }
}

async fn was_cached(cluster: &TestCluster, job: &JobView) -> bool {
    let attempts = cluster.api.attempts(&job.id).await.expect("attempts");
    let usage = attempts[0].usage.clone().expect("usage");
    usage.compile_cache_hit.expect("it was compiled or found")
}

async fn succeeds(cluster: &TestCluster, module: &str) -> JobView {
    let job = cluster.api.submit(&small_job(module)).await.expect("a job");
    let ended = cluster.api.finished(&job.id, LIMIT).await.expect("it ends");
    assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn two_jobs_that_need_one_module_compile_it_once() {
    let (cluster, _node) = TestCluster::with_node().await;
    cluster.api.publish("slow", bombs::nested_loops(30, 300)).await.expect("a module");
    let (one, other) = tokio::join!(succeeds(&cluster, "slow"), succeeds(&cluster, "slow"));
    let hits = [was_cached(&cluster, &one).await, was_cached(&cluster, &other).await];
    assert!(hits.contains(&true) && hits.contains(&false), "{hits:?}");
}

/// The files of compiled code of the one node.
fn code_files(cluster: &TestCluster) -> Vec<std::path::PathBuf> {
    let dir = cluster.state_dir("node-1").join("cache/code");
    fs::read_dir(dir).expect("listed").map(|entry| entry.expect("an entry").path()).collect()
}

async fn restarted(cluster: &TestCluster, node: &mut Process) -> Process {
    node.kill_9();
    cluster.node(&NodeOptions::named("node-1")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn tampered_code_is_compiled_again_and_reported() {
    let (cluster, mut node) = TestCluster::with_node().await;
    cluster.api.publish("noop", guests::noop()).await.expect("a module");
    assert!(!was_cached(&cluster, &succeeds(&cluster, "noop").await).await);
    let mut node = restarted(&cluster, &mut node).await;
    assert!(was_cached(&cluster, &succeeds(&cluster, "noop").await).await, "it survives a restart");

    let files = code_files(&cluster);
    let [file] = files.as_slice() else { panic!("one module was compiled, found {files:?}") };
    let tamper = || {
        let mut bytes = fs::read(file).expect("read");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::remove_file(file).expect("removed");
        fs::write(file, bytes).expect("written");
    };
    tamper();
    assert!(!was_cached(&cluster, &succeeds(&cluster, "noop").await).await, "while the node runs");
    assert!(node.log().contains("not what this node put there"), "{}", node.log());
    tamper();
    let _node = restarted(&cluster, &mut node).await;
    assert!(!was_cached(&cluster, &succeeds(&cluster, "noop").await).await, "while the node was away");
    assert!(was_cached(&cluster, &succeeds(&cluster, "noop").await).await);
}
