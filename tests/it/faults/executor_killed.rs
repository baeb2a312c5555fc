//! The process in which a guest is compiled or runs dies.

use std::time::Duration;

use gristmill_protocol::{JobState, Reason, attempt::AttemptState};
use gristmill_tests::{
    eventually, guests,
    process::{children_running, send_signal},
};
use rustix::process::Signal;

use super::{RECOVERY, Watched, small_job};

const STEP: Duration = Duration::from_secs(60);

/// Kills every child of the node that runs `subcommand`; at least one.
async fn kill_children(watched: &Watched, subcommand: &str) {
    let node = watched.node.pid();
    let found = eventually("the child", STEP, || async {
        Some(children_running(node, subcommand)).filter(|children| !children.is_empty())
    })
    .await;
    for pid in found {
        send_signal(pid, Signal::KILL);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f17_a_compiler_that_is_killed_costs_one_attempt_and_the_module_compiles_again() {
    let mut watched = Watched::start().await;
    let api = watched.cluster.api.clone();
    api.publish("slow", guests::slow_to_compile()).await.expect("a module");
    let job = api.submit(&small_job("slow")).await.expect("a job");
    kill_children(&watched, "compile").await;
    // Who killed it is not known, so the module is not to blame: the attempt is repeated.
    let ended = api.finished(&job.id, RECOVERY).await.expect("it ends");
    assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
    let attempts = api.attempts(&job.id).await.expect("its attempts");
    assert_eq!(attempts.len(), 2, "{attempts:#?}");
    assert_eq!(attempts[0].state, AttemptState::Failed, "{attempts:#?}");
    assert_eq!(attempts[0].reason, Some(Reason::ExecutorCrashed), "{attempts:#?}");
    let message = attempts[0].message.as_deref().unwrap_or_default();
    assert!(message.contains("the compiler was killed"), "{message}");
    // Nor is a verdict kept: the same module runs again.
    let next = api.submit(&small_job("slow")).await.expect("a job");
    let again = api.finished(&next.id, RECOVERY).await.expect("it ends");
    assert_eq!(again.state, JobState::Succeeded, "{again:#?}");
    watched.expect_clean_history(&[job.id, next.id]).await;
    assert!(watched.node.is_alive());
}

#[tokio::test(flavor = "multi_thread")]
async fn f17_an_executor_that_is_killed_mid_run_costs_one_attempt() {
    let mut watched = Watched::start().await;
    let api = watched.cluster.api.clone();
    api.publish("computes", guests::computes(2_000_000_000)).await.expect("a module");
    let job = api.submit(&small_job("computes")).await.expect("a job");
    watched.speaking(&job.id).await;
    kill_children(&watched, "executor").await;
    watched.expect_result(&job.id).await;
    let attempts = api.attempts(&job.id).await.expect("its attempts");
    assert_eq!(attempts.len(), 2, "{attempts:#?}");
    assert_eq!(attempts[0].reason, Some(Reason::ExecutorCrashed));
    assert_eq!(attempts[1].state, AttemptState::Succeeded);
    assert!(watched.node.is_alive());
}

#[tokio::test(flavor = "multi_thread")]
async fn f17_an_executor_that_is_killed_while_it_flushes_output_costs_one_attempt() {
    const LINES: u32 = 2_000_000;
    let mut watched = Watched::start().await;
    let api = watched.cluster.api.clone();
    api.publish("writes", guests::writes_lines(LINES)).await.expect("a module");
    let job = api.submit(&small_job("writes")).await.expect("a job");
    watched.speaking(&job.id).await;
    kill_children(&watched, "executor").await;
    let ended = api.finished(&job.id, RECOVERY).await.expect("it ends");
    assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
    let attempts = api.attempts(&job.id).await.expect("its attempts");
    assert_eq!(attempts.len(), 2, "{attempts:#?}");
    assert_eq!(attempts[0].reason, Some(Reason::ExecutorCrashed));
    let stdout = api.log(&job.id, 2, "stdout").await.expect("the second attempt's log");
    assert_eq!(stdout.len(), LINES as usize * 5);
    assert!(stdout.chunks(5).all(|line| line == b"line\n"), "a line is torn");
    watched.expect_clean_history(&[job.id]).await;
    assert!(watched.node.is_alive());
}
