//! Ends of attempts that come before or after the guest's run, through the whole system.

use std::time::Duration;

use gristmill_protocol::{
    JobSpec, JobState, JobView, Reason,
    attempt::AttemptState,
    job::{InputKind, InputSpec},
};
use gristmill_tests::{api::Api, cluster::TestCluster, guests};

use super::{file_input, small_job};

const LIMIT: Duration = Duration::from_secs(120);

fn with_input(kind: InputKind, digest: &str) -> JobSpec {
    let input = InputSpec { kind, ..file_input("big", digest) };
    JobSpec { inputs: vec![input], ..small_job("copies") }
}

/// Runs a job to its one failure.
async fn failure(api: &Api, spec: &JobSpec, reason: Reason) -> JobView {
    let job = api.submit(spec).await.expect("a job");
    let ended = api.finished(&job.id, LIMIT).await.expect("it ends");
    assert_eq!((ended.state, ended.reason), (JobState::Failed, Some(reason)), "{ended:#?}");
    assert_eq!(ended.hint.as_deref(), Some(reason.hint()));
    assert!(api.outputs(&job.id).await.expect("a list").outputs.is_empty());
    assert_eq!(api.attempts(&job.id).await.expect("its attempts").len(), 1);
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_that_miss_the_stage_time_and_outputs_above_their_limit_are_told_by_their_reasons() {
    let (cluster, _node) = TestCluster::with_node().await;
    let api = &cluster.api;
    api.publish("copies", guests::copies()).await.expect("a module");
    // No node digests so much in a millisecond.
    let big = api.put_blob(vec![7; 64 << 20]).await.expect("a blob");
    let mut slow = with_input(InputKind::File, &big);
    slow.limits.stage_time_ms = Some(1);
    let ended = failure(api, &slow, Reason::StageTimeout).await;
    assert!(ended.message.is_some_and(|text| text.contains("1 ms")));
    let attempts = api.attempts(&ended.id).await.expect("its attempts");
    assert_eq!(attempts[0].state, AttemptState::TimedOut);

    let small = api.put_blob(vec![8; 10_000]).await.expect("a blob");
    let mut wide = with_input(InputKind::File, &small);
    wide.limits.output_bytes = Some(9_999);
    failure(api, &wide, Reason::OutputTooLarge).await;
    wide.limits.output_bytes = Some(10_000);
    let job = api.submit(&wide).await.expect("a job");
    let ended = api.finished(&job.id, LIMIT).await.expect("it ends");
    assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_is_no_tree_is_told_by_its_reason_and_no_policy_is_blamed() {
    let (cluster, _node) = TestCluster::with_node().await;
    let api = &cluster.api;
    api.publish("copies", guests::copies()).await.expect("a module");
    for bytes in [b"not an archive".to_vec(), vec![7; 4_096]] {
        let digest = api.put_blob(bytes).await.expect("a blob");
        let ended = failure(api, &with_input(InputKind::Tree, &digest), Reason::InputMissing).await;
        assert!(ended.message.is_some_and(|text| text.contains("no tar archive")));
        assert!(ended.hint.is_some_and(|text| !text.contains("policy")));
    }
}
