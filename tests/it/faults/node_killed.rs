//! The node dies.

use std::time::{Duration, Instant};

use gristmill_protocol::attempt::AttemptState;
use gristmill_tests::{
    eventually, guests,
    process::{children_running, is_running},
    proxy::{Step, Trap, closed},
};
use rustix::process::Signal;

use super::{Watched, small_job};

const STEP: Duration = Duration::from_secs(60);
/// The node's first request about an attempt: it fetches the module.
const FETCH: Trap =
    Trap { step: Step::Request, method: "GET", path: "/v1/node/attempts/", request: "", answer: "" };
/// The node asks whether an output is stored, or stores it.
const STORE: Trap = Trap { step: Step::Request, method: "", path: "/outputs/", request: "", answer: "" };
/// The node reports the end of an attempt.
const REPORT: Trap = Trap {
    step: Step::Request,
    method: "POST",
    path: "/v1/node/updates",
    request: "\"finished\"",
    answer: "",
};

/// Kills the node when `trap` closes, starts it again, and expects one lost and one good attempt.
async fn killed_at(trap: Trap) {
    let mut watched = Watched::start().await;
    let api = watched.cluster.api.clone();
    api.publish("computes", guests::computes(1_000)).await.expect("a module");
    let hear = watched.proxy.arm(trap, watched.node_killer());
    let job = api.submit(&small_job("computes")).await.expect("a job");
    closed(hear, STEP).await;
    watched.restart_node().await;
    watched.expect_result(&job.id).await;
    assert_eq!(watched.attempt_states(&job.id).await, [AttemptState::Lost, AttemptState::Succeeded]);
}

#[tokio::test(flavor = "multi_thread")]
async fn f09_a_node_that_dies_between_lease_and_start_loses_the_attempt_but_not_the_job() {
    killed_at(FETCH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_a_node_that_dies_after_the_guest_and_before_the_upload_loses_only_the_attempt() {
    killed_at(STORE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f14_a_node_that_dies_after_the_upload_and_before_its_report_loses_only_the_attempt() {
    killed_at(REPORT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f11_a_node_that_dies_mid_run_takes_its_guest_with_it() {
    let mut watched = Watched::start().await;
    let api = watched.cluster.api.clone();
    api.publish("computes", guests::computes(2_000_000_000)).await.expect("a module");
    let job = api.submit(&small_job("computes")).await.expect("a job");
    watched.speaking(&job.id).await;
    let executors = children_running(watched.node.pid(), "executor");
    assert!(!executors.is_empty(), "the guest runs in a process of its own");
    watched.node.kill_9();
    eventually("the executors to be gone", Duration::from_secs(5), || async {
        executors.iter().all(|&pid| !is_running(pid)).then_some(())
    })
    .await;
    watched.restart_node().await;
    watched.expect_result(&job.id).await;
    assert_eq!(watched.attempt_states(&job.id).await, [AttemptState::Lost, AttemptState::Succeeded]);
    let stdout = api.log(&job.id, 2, "stdout").await.expect("the second attempt's log");
    assert_eq!(stdout, b"ready\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_a_node_that_dies_after_its_report_was_accepted_changes_nothing() {
    let mut watched = Watched::start().await;
    let api = watched.cluster.api.clone();
    api.publish("computes", guests::computes(1_000)).await.expect("a module");
    let trap = Trap { step: Step::Answer, answer: "accepted", ..REPORT };
    let hear = watched.proxy.arm(trap, watched.node_killer());
    let job = api.submit(&small_job("computes")).await.expect("a job");
    closed(hear, STEP).await;
    watched.restart_node().await;
    watched.expect_result(&job.id).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(watched.attempt_states(&job.id).await, [AttemptState::Succeeded]);
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_a_report_whose_answer_is_lost_is_repeated_and_accepted_once() {
    let watched = Watched::start().await;
    let api = watched.cluster.api.clone();
    api.publish("computes", guests::computes(1_000)).await.expect("a module");
    let trap = Trap { step: Step::Answer, answer: "accepted", ..REPORT };
    let hear = watched.proxy.arm(trap, || {});
    let job = api.submit(&small_job("computes")).await.expect("a job");
    closed(hear, STEP).await;
    let reports = || watched.proxy.requests().iter().filter(|line| line.contains("/v1/node/updates")).count();
    let sent = reports();
    eventually("the report to be repeated", STEP, || async { (reports() > sent).then_some(()) }).await;
    watched.expect_result(&job.id).await;
    assert_eq!(watched.attempt_states(&job.id).await, [AttemptState::Succeeded]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_never_returns_is_noticed_and_its_job_goes_to_another() {
    let mut watched = Watched::start().await;
    let api = watched.cluster.api.clone();
    api.publish("computes", guests::computes(1_000_000_000)).await.expect("a module");
    let job = api.submit(&small_job("computes")).await.expect("a job");
    watched.speaking(&job.id).await;
    watched.node.kill_9();
    let lost_at = std::time::Instant::now();
    let _other = watched.cluster.node(&gristmill_tests::cluster::NodeOptions::named("node-2")).await;
    eventually("the second attempt", Duration::from_secs(60), || async {
        (api.job(&job.id).await.ok()?.attempt == 2).then_some(())
    })
    .await;
    let noticed = lost_at.elapsed();
    assert!(noticed < Duration::from_secs(40), "a dead node's job was leased again after {noticed:?}");
    watched.expect_result(&job.id).await;
}

/// F20: the node hangs while its guest goes on computing.
#[tokio::test(flavor = "multi_thread")]
async fn f20_a_guest_of_a_node_that_hangs_is_stopped_before_its_lease_can_go_to_another() {
    let watched = Watched::start().await;
    let api = watched.cluster.api.clone();
    api.publish("computes", guests::computes(u64::MAX)).await.expect("a module");
    let job = api.submit(&small_job("computes")).await.expect("a job");
    watched.speaking(&job.id).await;
    let executors = children_running(watched.node.pid(), "executor");
    assert!(!executors.is_empty(), "the guest runs in a process of its own");
    let frozen_at = Instant::now();
    watched.node.signal(Signal::STOP);
    // The node's stop time and a moment; a lease lasts five seconds longer.
    eventually("the executors to be gone", Duration::from_secs(28), || async {
        executors.iter().all(|&pid| !is_running(pid)).then_some(())
    })
    .await;
    println!("gone {:?} after the node hung", frozen_at.elapsed());
    watched.node.signal(Signal::CONT);
    // The lease ran out meanwhile, so the job waits or runs again; it never ends by itself.
    eventually("the attempt to be lost", Duration::from_secs(40), || async {
        (watched.attempt_states(&job.id).await[0] == AttemptState::Lost).then_some(())
    })
    .await;
    api.cancel(&job.id).await.expect("cancelled");
}
