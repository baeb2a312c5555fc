//! A node's life: drain, one-shot, revoke, and the room that it offers.

use std::{fs, time::Duration};

use gristmill_protocol::{JobId, JobState, node::NodeState};
use gristmill_tests::{
    cluster::{NodeOptions, TestCluster},
    eventually, guests,
    process::Process,
};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{small_job, text};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_a_node_what_runs_is_finished_and_what_waits_is_left() {
    let (cluster, mut node) = TestCluster::with_node().await;
    let api = &cluster.api;
    api.publish("computes", guests::computes(3_000_000_000)).await.expect("a module");
    let mut spec = small_job("computes");
    spec.limits.cpus_milli = Some(4_000);
    let running = api.submit(&spec).await.expect("a job");
    let waiting = api.submit(&spec).await.expect("a job");
    eventually("the first job to run", LIMIT, || async {
        api.job(&running.id).await.ok().filter(|job| job.state == JobState::Running)
    })
    .await;
    node.signal(Signal::TERM);
    let status = tokio::task::block_in_place(|| node.wait(LIMIT));
    assert!(status.success(), "{status}\n{}", node.log());
    assert_eq!(api.job(&running.id).await.expect("a job").state, JobState::Succeeded);
    assert_eq!(api.job(&waiting.id).await.expect("a job").state, JobState::Queued);

    let _again = cluster.node(&NodeOptions::named("node-1")).await;
    let ended = api.finished(&waiting.id, LIMIT).await.expect("it ends");
    assert_eq!(ended.state, JobState::Succeeded);
    assert_eq!(api.output(&waiting.id, "result").await.expect("its output"), b"result");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_one_shot_node_runs_the_named_job_and_ends() {
    let cluster = TestCluster::start().await;
    let api = &cluster.api;
    api.publish("noop", guests::noop()).await.expect("a module");
    let other = api.submit(&small_job("noop")).await.expect("a job");
    let named = api.submit(&small_job("noop")).await.expect("a job");
    let secret = api.join_token("default").await.expect("a join token");
    let token_file = cluster.dir.path().join("once.join");
    fs::write(&token_file, secret).expect("the temp dir is writable");
    let (state, token, id) = (text(&cluster.state_dir("once")), text(&token_file), named.id.to_string());
    let connect = ["--server", &api.url, "--name", "once", "--state", &state, "--join-token-file", &token];
    let room = ["--cpus", "4", "--memory", "4GiB", "--job", &id];
    let args = [&["node", "run-once"][..], &connect[..], &room[..]].concat();
    let mut node = Process::start(cluster.dir.path(), "once", &args);
    let status = tokio::task::block_in_place(|| node.wait(LIMIT));
    assert!(status.success(), "{status}\n{}", node.log());
    assert_eq!(api.job(&named.id).await.expect("a job").state, JobState::Succeeded);
    assert_eq!(api.job(&other.id).await.expect("a job").state, JobState::Queued);
    let mut again = Process::start(cluster.dir.path(), "again", &[&args[..], &["--wait", "1s"]].concat());
    let status = tokio::task::block_in_place(|| again.wait(LIMIT));
    assert_eq!(status.code(), Some(5), "a job that has ended cannot be had again\n{}", again.log());
    assert!(again.log().contains("could not be had"), "{}", again.log());

    let nobody = JobId::from_parts(1, [7; 10]).to_string();
    api.cancel(&other.id).await.expect("a cancel");
    for (name, job, code, told) in [
        ("unknown", &["--job", &nobody][..], 5, "there is no such job"),
        ("none", &[], 0, "no job came within 1.00 s; that is no error"),
    ] {
        let args = [&["node", "run-once"][..], &connect[..], &room[..4], job, &["--wait", "1s"]].concat();
        let mut node = Process::start(cluster.dir.path(), name, &args);
        let status = tokio::task::block_in_place(|| node.wait(LIMIT));
        assert_eq!(status.code(), Some(code), "{}", node.log());
        assert!(node.log().contains(told), "{}", node.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_node_gets_no_more_work_and_ends_with_a_clear_message() {
    let (cluster, mut node) = TestCluster::with_node().await;
    let api = &cluster.api;
    let id = api.nodes().await.expect("the nodes")[0].id;
    let _: Value = api.post(&format!("/v1/nodes/{id}/revoke"), &json!({})).await.expect("a revoke");
    let status = tokio::task::block_in_place(|| node.wait(LIMIT));
    assert!(!status.success(), "a revoked node reports an error");
    assert!(node.log().contains("revoked"), "{}", node.log());
    assert_eq!(api.nodes().await.expect("the nodes")[0].state, NodeState::Revoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_admits_one_node_only() {
    let cluster = TestCluster::start().await;
    let _first = cluster.node(&NodeOptions::named("first")).await;
    fs::copy(cluster.dir.path().join("first.join"), cluster.dir.path().join("second.join")).expect("copied");
    let mut second = cluster.spawn_node(&NodeOptions::named("second")).await;
    let status = tokio::task::block_in_place(|| second.wait(LIMIT));
    assert!(!status.success());
    assert_eq!(cluster.api.nodes().await.expect("the nodes").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_never_runs_more_than_it_has_room_for() {
    let (cluster, node) = TestCluster::with_node().await;
    let api = &cluster.api;
    api.publish("spins", guests::spins_for_ever()).await.expect("a module");
    let mut spec = small_job("spins");
    spec.limits.cpus_milli = Some(1_500);
    let mut jobs = Vec::new();
    for _ in 0..4 {
        jobs.push(api.submit(&spec).await.expect("a job").id);
    }
    let running = async || {
        let mut count = 0;
        for id in &jobs {
            count += usize::from(api.job(id).await.expect("a job").state == JobState::Running);
        }
        count
    };
    eventually("two jobs to run", LIMIT, || async { (running().await == 2).then_some(()) }).await;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(running().await, 2, "4 cores have room for two jobs of 1.5");
    }
    assert!(gristmill_tests::process::children_running(node.pid(), "executor").len() >= 2);
    for id in &jobs {
        api.cancel(id).await.expect("a cancel");
        assert_eq!(api.finished(id, LIMIT).await.expect("it ends").state, JobState::Cancelled);
    }
}
