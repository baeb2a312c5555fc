//! The server dies.

use std::time::Duration;

use gristmill_protocol::{JobState, attempt::AttemptState};
use gristmill_tests::{
    api::Api,
    guests,
    proxy::{Step, Trap, closed},
};

use tokio::sync::oneshot;

use super::{RECOVERY, Watched, small_job};

const STEP: Duration = Duration::from_secs(60);

/// A system with the module `computes`, whose server dies when it has committed the answer to a
/// node's call and before the node hears it; and what tells that this has happened.
async fn dying_with_its_answer(
    path: &'static str,
    request: &'static str,
    answer: &'static str,
) -> (Watched, oneshot::Receiver<()>) {
    let watched = Watched::start().await;
    watched.cluster.api.publish("computes", guests::computes(1_000)).await.expect("a module");
    let trap = Trap { step: Step::Answer, method: "POST", path, request, answer };
    let hear = watched.proxy.arm(trap, watched.server_killer());
    (watched, hear)
}

#[tokio::test(flavor = "multi_thread")]
async fn f01_a_submit_whose_answer_died_with_the_server_is_the_same_job_when_repeated() {
    let mut watched = Watched::start().await;
    watched.cluster.api.publish("computes", guests::computes(1_000)).await.expect("a module");
    // The node must not take the job before the server dies: the step is "after commit, before answer".
    watched.node.kill_9();
    let client = Api::new(&watched.proxy.url, &watched.cluster.api.token);
    let trap =
        Trap { step: Step::Answer, method: "POST", path: "/v1/jobs", request: "computes", answer: "queued" };
    let hear = watched.proxy.arm(trap, watched.server_killer());
    client.submit_with_key(&small_job("computes"), "once").await.expect_err("its answer is lost");
    closed(hear, STEP).await;

    watched.cluster.restart_server().await;
    let job = client.submit_with_key(&small_job("computes"), "once").await.expect("the same again");
    let again = client.submit_with_key(&small_job("computes"), "once").await.expect("and again");
    assert_eq!(job.id, again.id);
    let all: serde_json::Value = client.get("/v1/jobs").await.expect("the list");
    let all = all["items"].as_array().cloned().expect("a list of jobs");
    assert_eq!(all.len(), 1, "{all:#?}");
    watched.restart_node().await;
    watched.expect_result(&job.id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f04_a_lease_whose_answer_died_with_the_server_expires_and_the_job_runs_again() {
    let (mut watched, hear) = dying_with_its_answer("/v1/node/leases/acquire", "", "lease_token").await;
    let api = watched.cluster.api.clone();
    // The submit may be what dies: the lease is committed with it or right after.
    let submitted = api.submit_with_key(&small_job("computes"), "once").await;
    closed(hear, STEP).await;
    watched.cluster.restart_server().await;
    let job = api.submit_with_key(&small_job("computes"), "once").await.expect("the same job");
    if let Ok(acknowledged) = submitted {
        assert_eq!(acknowledged.id, job.id);
    }
    watched.expect_result(&job.id).await;
    assert_eq!(watched.attempt_states(&job.id).await, [AttemptState::Lost, AttemptState::Succeeded]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_while_a_guest_runs_gets_its_result_after_the_restart() {
    let mut watched = Watched::start().await;
    let api = watched.cluster.api.clone();
    api.publish("computes", guests::computes(3_000_000_000)).await.expect("a module");
    let job = api.submit(&small_job("computes")).await.expect("a job");
    watched.speaking(&job.id).await;
    watched.cluster.server.kill_9();
    tokio::time::sleep(Duration::from_secs(2)).await;
    watched.cluster.restart_server().await;
    watched.expect_result(&job.id).await;
    assert_eq!(watched.attempt_states(&job.id).await, [AttemptState::Succeeded], "no work was done twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_a_result_whose_answer_died_with_the_server_is_accepted_once() {
    let (mut watched, hear) = dying_with_its_answer("/v1/node/updates", "\"finished\"", "accepted").await;
    let api = watched.cluster.api.clone();
    let job = api.submit(&small_job("computes")).await.expect("a job");
    closed(hear, STEP).await;
    watched.cluster.restart_server().await;
    watched.expect_result(&job.id).await;
    // The node repeats its report; the answer must not start anything anew.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(watched.attempt_states(&job.id).await, [AttemptState::Succeeded]);
    watched.expect_result(&job.id).await;
    let next = api.submit(&small_job("computes")).await.expect("the node goes on working");
    assert_eq!(api.finished(&next.id, RECOVERY).await.expect("it ends").state, JobState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_survives_a_server_that_dies_right_after_it() {
    let mut watched = Watched::start().await;
    let api = watched.cluster.api.clone();
    api.publish("spins", guests::spins_for_ever()).await.expect("a module");
    let job = api.submit(&small_job("spins")).await.expect("a job");
    watched.speaking(&job.id).await;
    let client = Api::new(&watched.proxy.url, &api.token);
    let trap = Trap { step: Step::Answer, method: "POST", path: "/cancel", request: "", answer: "" };
    let hear = watched.proxy.arm(trap, watched.server_killer());
    client.cancel(&job.id).await.expect_err("its answer is lost");
    closed(hear, STEP).await;
    watched.cluster.restart_server().await;
    let ended = api.finished(&job.id, RECOVERY).await.expect("it ends");
    assert_eq!(ended.state, JobState::Cancelled);
    watched.expect_clean_history(&[job.id]).await;
}
