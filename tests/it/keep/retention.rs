//! What is too old goes, and nothing that anybody needs.

use std::{path::Path, time::Duration};

use gristmill_protocol::{JobSpec, JobState};
use gristmill_tests::{api::Api, checker, cluster::TestCluster, eventually, guests};
use reqwest::{Method, StatusCode};

use crate::e2e::{file_input, small_job};

const LIMIT: Duration = Duration::from_secs(120);

fn copy_of(digest: &str) -> JobSpec {
    JobSpec { inputs: vec![file_input("big", digest)], ..small_job("copies") }
}

/// Files below a directory.
fn files(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
}

async fn status(api: &Api, path: &str) -> StatusCode {
    api.request(Method::GET, path).send().await.expect("the server answers").status()
}

/// Uploads and submits until the job is accepted: between the two, an upload lasts for half of the
/// grace, which is nearly nothing here.
async fn accepted(api: &Api, bytes: &[u8]) -> gristmill_protocol::JobView {
    eventually("a job that is accepted", LIMIT, || async {
        let digest = api.put_blob(bytes.to_vec()).await.expect("a blob can always be stored");
        match api.submit(&copy_of(&digest)).await {
            Ok(job) => Some(job),
            Err(error) => {
                assert!(error.to_string().contains("not_found"), "{error}");
                None
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_keep_their_inputs_and_outputs_while_all_around_them_is_collected() {
    let cluster = TestCluster::start_with(&["--keep-blobs", "200ms", "--purge-period", "20ms"]).await;
    let _node = cluster.node(&gristmill_tests::cluster::NodeOptions::named("node-1")).await;
    let api = &cluster.api;
    api.publish("copies", guests::copies()).await.expect("a module");
    let submitter = |number: u8| async move {
        let mut jobs = Vec::new();
        for round in 0..6_u8 {
            // The submitters are after the same bytes, and after bytes that nobody else wants.
            let bytes = vec![round % 3 + number % 2 * 8; 20_000];
            api.put_blob(vec![number, round, 1]).await.expect("a blob that no job will name");
            let job = accepted(api, &bytes).await;
            if round % 2 == 0 {
                api.finished(&job.id, LIMIT).await.expect("it ends");
            }
            jobs.push((job.id, bytes));
        }
        jobs
    };
    let all = futures_util::future::join_all((0..3).map(submitter)).await.concat();
    let mut acknowledged = Vec::new();
    for (id, bytes) in all {
        let ended = api.finished(&id, LIMIT).await.expect("it ends");
        assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
        assert_eq!(api.output(&id, "big").await.expect("its output"), bytes);
        acknowledged.push(id);
    }
    eventually("all unused blobs to be collected", LIMIT, || async {
        let purged = api.metric("gristmill_purged_total{kind=\"blob\"}").await.expect("a metric");
        (purged >= 18.0).then_some(())
    })
    .await;
    checker::check(&cluster.data_dir(), &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_is_not_found_and_leaves_no_file() {
    let flags =
        ["--keep-jobs", "4s", "--keep-events", "4s", "--keep-blobs", "100ms", "--purge-period", "50ms"];
    let mut cluster = TestCluster::start_with(&flags).await;
    let _node = cluster.node(&gristmill_tests::cluster::NodeOptions::named("node-1")).await;
    let api = cluster.api.clone();
    api.publish("copies", guests::copies()).await.expect("a module");
    api.publish("speaks", guests::writes_lines(10_000)).await.expect("a module");
    let copies = accepted(&api, b"some bytes").await;
    let speaks = api.submit(&small_job("speaks")).await.expect("a job");
    for job in [&copies, &speaks] {
        let ended = api.finished(&job.id, LIMIT).await.expect("it ends");
        assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
    }
    let log = format!("/v1/jobs/{}/attempts/1/logs?stream=stdout&offset=0", speaks.id);
    for path in [format!("/v1/jobs/{}", copies.id), format!("/v1/jobs/{}/outputs/big", copies.id), log] {
        eventually("it to be purged", LIMIT, || async {
            (status(&api, &path).await == StatusCode::NOT_FOUND).then_some(())
        })
        .await;
    }
    for kind in ["job", "log_piece", "event", "blob"] {
        let name = format!("gristmill_purged_total{{kind=\"{kind}\"}}");
        eventually(&name, LIMIT, || async { (api.metric(&name).await.ok()? > 0.0).then_some(()) }).await;
    }
    let objects = cluster.data_dir().join("objects");
    eventually("the modules alone to be left", LIMIT, || async { (files(&objects) == 2).then_some(()) })
        .await;

    // What a crash leaves behind belongs to nobody; it is looked for at the start.
    std::fs::create_dir_all(objects.join("blobs/sha256/ab")).expect("a directory");
    std::fs::create_dir_all(objects.join("logs/half")).expect("a directory");
    for name in
        [&format!("blobs/sha256/ab/{}", "c".repeat(62)), "blobs/sha256/ab/half#1", "logs/half/written#7"]
    {
        std::fs::write(objects.join(name), "left").expect("a file");
    }
    assert_eq!(files(&objects), 5);
    tokio::time::sleep(Duration::from_millis(200)).await; // Older than the grace.
    cluster.restart_server().await;
    eventually("the leftovers to be collected", LIMIT, || async { (files(&objects) == 2).then_some(()) })
        .await;
    let again = accepted(&cluster.api, b"some bytes").await;
    let ended = cluster.api.finished(&again.id, LIMIT).await.expect("it ends");
    assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
}
