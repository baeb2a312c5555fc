//! Two gibibytes in and out, the largest modules and the longest log, with little memory in server and node.

use std::{
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use gristmill_protocol::JobState;
use gristmill_tests::{cluster::TestCluster, guests, large};
use sha2::{Digest as _, Sha256};

use super::{file_input, small_job};

const BIG_BYTES: u64 = 2 << 30;
const MEMORY_BYTES_MAX: u64 = 256 << 20;
/// Longest time that a small request may take meanwhile.
const REQUEST_MAX: Duration = Duration::from_secs(5);

/// Writes bytes that do not repeat within the file; answers their digest.
fn write_big(path: &Path) -> String {
    let mut file = std::fs::File::create(path).expect("the temp dir is writable");
    let mut hasher = Sha256::new();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut block = vec![0u8; 1 << 20];
    for _ in 0..BIG_BYTES / block.len() as u64 {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        hasher.update(&block);
        file.write_all(&block).expect("there is room for the test's file");
    }
    format!("sha256:{}", hex::encode(hasher.finalize()))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gibibytes_pass_through_server_and_node_which_stay_small() {
    let (cluster, node) = TestCluster::with_node().await;
    let api = &cluster.api;
    let big = cluster.dir.path().join("big");
    let at = big.clone();
    let digest = tokio::task::spawn_blocking(move || write_big(&at)).await.expect("written");
    let began = Instant::now();
    api.put_file(&big, &digest).await.expect("the upload");
    std::fs::remove_file(&big).expect("the test's own file");
    let uploaded = began.elapsed();

    api.publish("copies", guests::copies()).await.expect("a module");
    let mut spec = small_job("copies");
    spec.inputs.push(file_input("big", &digest));
    let job = api.submit(&spec).await.expect("a job");
    // While all this moves, small requests are answered.
    let mut slowest = Duration::ZERO;
    let give_up = Instant::now() + Duration::from_secs(600);
    let ended = loop {
        let asked = Instant::now();
        let seen = api.job(&job.id).await.expect("the server answers while it is busy");
        slowest = slowest.max(asked.elapsed());
        if seen.state.is_terminal() {
            break seen;
        }
        assert!(Instant::now() < give_up, "{seen:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
    let outputs = api.outputs(&job.id).await.expect("the outputs").outputs;
    assert_eq!(outputs.len(), 1);
    assert_eq!((outputs[0].digest.to_string(), outputs[0].size), (digest.clone(), BIG_BYTES));
    let tail = api.output_range(&job.id, "big", &format!("bytes={}-", BIG_BYTES - 8)).await.expect("a range");
    assert_eq!(tail.len(), 8);

    let mut response = api
        .request(reqwest::Method::GET, &format!("/v1/jobs/{}/outputs/big", job.id))
        .send()
        .await
        .expect("the download starts");
    let mut hasher = Sha256::new();
    while let Some(piece) = response.chunk().await.expect("the download goes on") {
        hasher.update(&piece);
    }
    assert_eq!(format!("sha256:{}", hex::encode(hasher.finalize())), digest);

    let (server_peak, node_peak) = (cluster.server.memory_peak_bytes(), node.memory_peak_bytes());
    println!(
        "2 GiB: upload {uploaded:?}, whole path {:?}, slowest small request {slowest:?}, \
         peak memory of server {} MiB, of node {} MiB",
        began.elapsed(),
        server_peak >> 20,
        node_peak >> 20
    );
    assert!(slowest < REQUEST_MAX, "a small request took {slowest:?} while big bytes moved");
    assert!(server_peak < MEMORY_BYTES_MAX, "the server grew to {} MiB", server_peak >> 20);
    assert!(node_peak < MEMORY_BYTES_MAX, "the node grew to {} MiB", node_peak >> 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn modules_and_logs_at_their_limits_pass_through_server_and_node_which_stay_small() {
    const MODULE_BYTES: usize = 250 << 20;
    const LOG_BYTES: usize = 64 << 20;
    let (cluster, node) = TestCluster::with_node().await;
    let api = &cluster.api;
    // All code: validated function by function. It is not run, since compiling it takes minutes.
    let code = large::code(MODULE_BYTES);
    assert!(code.len() > MODULE_BYTES - (1 << 20), "{} bytes", code.len());
    api.publish("code", code).await.expect("it is valid");
    let published = cluster.server.memory_peak_bytes();
    // All data, which no compiler has to look at.
    api.publish("data", large::data(MODULE_BYTES)).await.expect("it is valid");
    api.publish("speaks", guests::writes_blocks(1_100)).await.expect("a module");
    let mut jobs = Vec::new();
    for module in ["data", "speaks"] {
        let mut spec = small_job(module);
        spec.limits.memory_bytes = Some(1 << 30);
        let job = api.submit(&spec).await.expect("a job");
        let ended = api.finished(&job.id, Duration::from_secs(600)).await.expect("it ends");
        assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
        jobs.push(job.id);
    }
    let attempts = api.attempts(&jobs[1]).await.expect("its attempts");
    assert!(attempts[0].log_truncated, "the log is longer than its limit: {attempts:#?}");
    let log = api.log(&jobs[1], 1, "stdout").await.expect("the whole log");
    assert!(log.len() <= LOG_BYTES && log.len() > LOG_BYTES - (1 << 20), "{} bytes", log.len());

    let (server_peak, node_peak) = (cluster.server.memory_peak_bytes(), node.memory_peak_bytes());
    println!(
        "modules of 250 MiB and a log of 64 MiB: peak memory of server {} MiB ({} after the first module), of \
         node {} MiB",
        server_peak >> 20,
        published >> 20,
        node_peak >> 20
    );
    assert!(server_peak < MEMORY_BYTES_MAX, "the server grew to {} MiB", server_peak >> 20);
    assert!(node_peak < MEMORY_BYTES_MAX, "the node grew to {} MiB", node_peak >> 20);
}
