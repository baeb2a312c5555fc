//! What is acknowledged has reached the disk before: counted where the server asks the kernel for it.

use std::time::Duration;

use gristmill_protocol::job::{BlobSource, JobSpec};
use gristmill_tests::{
    api::{Api, digest},
    cluster::{NodeOptions, TestCluster},
    guests,
    syncs::Syncs,
};

use super::small_job;

const JOBS: usize = 20;
const CLIENTS: usize = 16;
const LIMIT: Duration = Duration::from_secs(120);

/// A server whose every wait for the disk is noted. The second directory holds the record.
async fn noted() -> (TestCluster, Syncs, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let syncs = Syncs::prepare(dir.path());
    let cluster = TestCluster::start_in(&[], &syncs.variables()).await;
    (cluster, syncs, dir)
}

/// Commits of the database that were made durable so far.
fn commits(syncs: &Syncs) -> usize {
    syncs.paths().iter().filter(|path| path.ends_with(".db-wal")).count()
}

/// Does something once, and insists on a durable commit between its request and its answer.
async fn expect_commit<T>(syncs: &Syncs, what: &str, asked: impl Future<Output = anyhow::Result<T>>) -> T {
    let before = commits(syncs);
    let answer = asked.await.expect(what);
    let after = commits(syncs);
    assert!(after > before, "{what} was answered after {before} durable commits, and no further one");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submit_and_a_cancel_are_answered_after_a_commit_that_reached_the_disk() {
    let (cluster, syncs, _dir) = noted().await;
    let api: &Api = &cluster.api;
    expect_commit(&syncs, "a publish", api.publish("noop", guests::noop())).await;
    let before = commits(&syncs);
    let mut jobs = Vec::new();
    for _ in 0..JOBS {
        jobs.push(expect_commit(&syncs, "a submit", api.submit(&small_job("noop"))).await);
    }
    assert!(commits(&syncs) - before >= JOBS);
    expect_commit(&syncs, "a cancel", api.cancel(&jobs[0].id)).await;
}

/// `gristmill bench queue --check` judges by the number of commits that the server counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_the_server_counts_is_one_wait_for_the_disk() {
    let (cluster, syncs, _dir) = noted().await;
    let _node = cluster.node(&NodeOptions::named("node-1")).await;
    cluster.api.publish("noop", guests::noop()).await.expect("a module");
    let database = |path: &&String| [".db", ".db-wal"].iter().any(|end| path.ends_with(end));
    let waits = || syncs.paths().iter().filter(database).count();
    let counted = async || cluster.api.metric("gristmill_store_commits_total").await.expect("a counter");
    // What goes on beside the jobs may fall between the two readings.
    let (waits_before, counted_before) = (waits(), counted().await);
    let clients = (0..CLIENTS).map(|_| async {
        for _ in 0..JOBS {
            let job = cluster.api.submit(&small_job("noop")).await.expect("a job");
            cluster.api.finished(&job.id, LIMIT).await.expect("it ends");
        }
    });
    futures_util::future::join_all(clients).await;
    let (counted, waits) = (counted().await - counted_before, waits() - waits_before);
    println!("{} jobs: {counted} commits, {waits} waits for the disk", CLIENTS * JOBS);
    let waits = f64::from(u32::try_from(waits).expect("few"));
    // The log is moved into the database now and then, which takes two more.
    assert!((counted - 2.0..counted * 1.05 + 6.0).contains(&waits), "{counted} commits, {waits} waits");
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_bytes_and_their_names_have_reached_the_disk_before_the_answer() {
    let (cluster, syncs, _dir) = noted().await;
    let api = &cluster.api;
    let objects = std::fs::canonicalize(cluster.data_dir().join("objects")).expect("the blob store is there");
    let objects = objects.to_string_lossy().into_owned();
    api.publish("noop", guests::noop()).await.expect("a module");

    // The bytes in the file that takes them, and then the name that they got.
    let since = syncs.paths().len();
    let stored = api.put_blob(vec![7; 3 << 20]).await.expect("a blob");
    let seen = syncs.paths().split_off(since);
    let hex = stored.trim_start_matches("sha256:").to_owned();
    let folder = format!("{objects}/blobs/sha256/{}", &hex[..2]);
    let file = seen.iter().position(|path| path.starts_with(&format!("{objects}/staging/")));
    let name = seen.iter().rposition(|path| *path == folder);
    assert!(file.is_some() && name > file, "{seen:#?}");

    // The same of bytes that come within a submit.
    let since = syncs.paths().len();
    let spec = JobSpec { stdin: Some(BlobSource::Text("inline".to_owned())), ..small_job("noop") };
    api.submit(&spec).await.expect("a job");
    let seen = syncs.paths().split_off(since);
    let hex = digest(b"inline").trim_start_matches("sha256:").to_owned();
    let folder = format!("{objects}/blobs/sha256/{}", &hex[..2]);
    let last = |found: &dyn Fn(&String) -> bool| seen.iter().rposition(found);
    let file = last(&|path| path.starts_with(&format!("{folder}/{}", &hex[2..])));
    let name = last(&|path| *path == folder);
    let commit = last(&|path| path.ends_with(".db-wal"));
    assert!(file.is_some() && name > file && commit > file, "{seen:#?}");
}
