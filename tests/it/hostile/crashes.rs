//! A module that brings its process down each time.

use std::time::{Duration, Instant};

use gristmill_protocol::{JobState, Reason, node::NodeState};
use gristmill_tests::{
    cluster::TestCluster,
    guests,
    process::{children_running, send_signal},
};
use rustix::process::Signal;

use crate::e2e::small_job;

const LIMIT: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn h83_a_module_that_always_crashes_is_given_up_after_bounded_attempts_and_the_node_stays() {
    let (cluster, mut node) = TestCluster::with_node().await;
    let api = &cluster.api;
    api.publish("crashes", guests::spins_for_ever()).await.expect("a module");
    api.publish("honest", guests::noop()).await.expect("a module");
    let id = api.submit(&small_job("crashes")).await.expect("a job").id;
    // No module is known that crashes the engine, so its process is made to.
    let give_up = Instant::now() + LIMIT;
    let ended = loop {
        let job = api.job(&id).await.expect("the job");
        if job.state.is_terminal() {
            break job;
        }
        assert!(Instant::now() < give_up, "{job:#?}");
        for pid in children_running(node.pid(), "executor") {
            send_signal(pid, Signal::SEGV);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(
        (ended.state, ended.reason),
        (JobState::Failed, Some(Reason::AttemptsExhausted)),
        "{ended:#?}"
    );
    let attempts = api.attempts(&id).await.expect("its attempts");
    assert_eq!(attempts.len(), 6, "the first one and five more: {attempts:#?}");
    assert!(attempts.iter().all(|attempt| attempt.reason == Some(Reason::ExecutorCrashed)), "{attempts:#?}");

    assert!(node.is_alive());
    assert_eq!(api.nodes().await.expect("the nodes")[0].state, NodeState::Active);
    let honest = api.submit(&small_job("honest")).await.expect("a job");
    let ended = api.finished(&honest.id, LIMIT).await.expect("it ends");
    assert_eq!((ended.state, ended.attempt), (JobState::Succeeded, 1), "{ended:#?}");
}
