//! Zones, labels, and the explanation of both.

use std::{collections::BTreeMap, time::Duration};

use gristmill_protocol::{
    JobState,
    zone::{PlacementView, Runnable},
};
use gristmill_tests::{
    cli::Home,
    cluster::{NodeOptions, TestCluster},
    guests,
};
use serde_json::json;

use super::{run_at, small_job};

#[tokio::test(flavor = "multi_thread")]
async fn jobs_run_where_zone_and_labels_say_and_the_rest_is_explained() {
    let cluster = TestCluster::start().await;
    let api = &cluster.api;
    let _: serde_json::Value =
        api.post("/v1/zones", &json!({ "name": "lab", "description": "closed" })).await.expect("a zone");
    let _plain = cluster.node(&NodeOptions::named("plain")).await;
    let mut options = NodeOptions { zone: "lab".to_owned(), ..NodeOptions::named("with-gpu") };
    options.flags.extend(["--label", "gpu=yes"].map(str::to_owned));
    let _labelled = cluster.node(&options).await;
    api.publish("noop", guests::noop()).await.expect("a module");
    let nodes = api.nodes().await.expect("the nodes");
    let id_of = |name: &str| nodes.iter().find(|node| node.name == name).map(|node| node.id);

    for (zone, label, expected) in
        [(Some("lab"), None, "with-gpu"), (Some("default"), None, "plain"), (None, Some("gpu"), "with-gpu")]
    {
        let mut spec = small_job("noop");
        spec.zone = zone.map(str::to_owned);
        spec.labels = label.map(|name| (name.to_owned(), "yes".to_owned())).into_iter().collect();
        let job = api.submit(&spec).await.expect("a job");
        let job = api.finished(&job.id, Duration::from_secs(60)).await.expect("it ends");
        assert_eq!(job.state, JobState::Succeeded);
        assert_eq!(job.node, id_of(expected), "{zone:?} {label:?}");
    }

    let spec = gristmill_protocol::JobSpec {
        zone: Some("default".to_owned()),
        labels: BTreeMap::from([("gpu".to_owned(), "yes".to_owned())]),
        ..small_job("noop")
    };
    let refused = api.submit(&spec).await.expect_err("no node of that zone has the label").to_string();
    assert!(refused.contains("never_runnable") && refused.contains("gpu"), "{refused}");
    let body = serde_json::to_value(&spec).expect("JSON");
    let placement: PlacementView =
        api.post("/v1/jobs?validate_only=true", &body).await.expect("an explanation");
    assert_eq!(placement.runnable, Runnable::Never, "{placement:#?}");
    let zone_of =
        |name: &str| placement.zones.iter().find(|zone| zone.zone == name).expect("every zone is named");
    assert!(zone_of("lab").why_not.iter().any(|text| text.contains("default")), "{placement:#?}");
    assert!(zone_of("default").nodes[0].why_not.iter().any(|text| text.contains("gpu")), "{placement:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_for_room_is_told_apart_from_one_that_can_never_run() {
    let (cluster, _node) = TestCluster::with_node().await;
    let api = &cluster.api;
    api.publish("spins", guests::spins_for_ever()).await.expect("a module");
    let mut whole_node = small_job("spins");
    whole_node.limits.cpus_milli = Some(4_000);
    let running = api.submit(&whole_node).await.expect("a job");
    let waiting = api.submit(&whole_node).await.expect("a job");
    gristmill_tests::eventually("the first job to run", Duration::from_secs(60), || async {
        api.job(&running.id).await.ok().filter(|job| job.state == JobState::Running)
    })
    .await;
    let placement = api.placement(&waiting.id).await.expect("an explanation");
    assert_eq!(placement.runnable, Runnable::Waiting, "{placement:#?}");
    let home = Home::default();
    let explain = ["job", "explain", &waiting.id.to_string()];
    let explained = run_at(&cluster, &home, &api.url, &explain).expect_code(0).text();
    assert!(explained.contains("waiting") && explained.contains("node-1"), "{explained}");
    let explain = ["job", "explain", &running.id.to_string()];
    let explained = run_at(&cluster, &home, &api.url, &explain).expect_code(0).text();
    assert!(
        explained.contains("the job runs on node node-1 in zone default, where it is since "),
        "{explained}"
    );

    let mut too_large = small_job("spins");
    too_large.limits.cpus_milli = Some(64_000);
    let refused = api.submit(&too_large).await.expect_err("no node is that large").to_string();
    assert!(refused.contains("never_runnable"), "{refused}");
    for job in [running, waiting] {
        api.cancel(&job.id).await.expect("a cancel");
        let job = api.finished(&job.id, Duration::from_secs(30)).await.expect("it ends");
        assert_eq!(job.state, JobState::Cancelled);
    }
}
