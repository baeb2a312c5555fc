//! Users who take all that they can get do not keep a node from its leases.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use gristmill_protocol::{JobState, attempt::AttemptState};
use gristmill_tests::{
    api::{Api, digest},
    cluster::{NodeOptions, TestCluster, free_port},
    eventually, guests,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_util::task::TaskTracker;

use super::small_job;

/// Floods of each kind at a time.
const FLOODS: usize = 100;
/// Longer than a lease lasts without a renewal.
const RUN_SECONDS: u64 = 45;
const LIMIT: Duration = Duration::from_secs(300);

/// What the flood did.
#[derive(Debug, Default)]
struct Flood {
    is_over: AtomicBool,
    answered: AtomicU64,
    refused: AtomicU64,
}

impl Flood {
    /// Keeps making requests of one kind on connections of its own, each given up after some seconds.
    fn of(
        self: &Arc<Self>,
        tasks: &TaskTracker,
        address: String,
        request: Vec<u8>,
        drips: bool,
    ) -> JoinHandle<()> {
        let flood = Arc::clone(self);
        tasks.spawn(async move {
            while !flood.is_over.load(Ordering::Relaxed) {
                let once = flood.once(&address, &request, drips);
                let answer = tokio::time::timeout(Duration::from_secs(8), once).await;
                let counter = match answer {
                    Ok(Ok(status)) if status.starts_with(b"HTTP/1.1 2") => &flood.answered,
                    _ => &flood.refused,
                };
                counter.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
    }

    async fn once(&self, address: &str, request: &[u8], drips: bool) -> std::io::Result<[u8; 12]> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request).await?;
        while drips && !self.is_over.load(Ordering::Relaxed) {
            stream.write_all(b" ").await?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let mut status = [0; 12];
        stream.read_exact(&mut status).await?;
        Ok(status)
    }
}

/// Starts every kind of flood: slow bodies, heads that do not end, long polls, big bodies, and many
/// requests.
fn start(api: &Api, job: &str) -> (Arc<Flood>, Vec<JoinHandle<()>>) {
    let flood = Arc::new(Flood::default());
    let address = api.url.trim_start_matches("http://").to_owned();
    let head = |start: &str, more: &str| {
        format!("{start} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n{more}", api.token).into_bytes()
    };
    let big = vec![0; 4 << 20];
    let put =
        head(&format!("PUT /v1/blobs/{}", digest(&big)), &format!("content-length: {}\r\n\r\n", big.len()));
    let post = "content-type: application/json\r\ncontent-length: 100000\r\n\r\n{";
    let (tracker, mut tasks) = (TaskTracker::new(), Vec::new());
    for _ in 0..FLOODS {
        let mut of =
            |request: Vec<u8>, drips| tasks.push(flood.of(&tracker, address.clone(), request, drips));
        of(head("POST /v1/jobs", post), true);
        of(head("GET /v1/jobs", "x-slow: "), true);
        of(head(&format!("GET /v1/jobs/{job}?wait=50s"), "\r\n"), false);
        of(head("GET /v1/jobs?page_size=1000", "\r\n"), false);
    }
    for _ in 0..4 {
        tasks.push(flood.of(&tracker, address.clone(), [put.clone(), big.clone()].concat(), false));
    }
    (flood, tasks)
}

/// Runs a job for longer than a lease lasts, under flood, and insists that its first attempt succeeds.
async fn expect_success_under_flood(cluster: &TestCluster) -> Arc<Flood> {
    let api = &cluster.api;
    api.publish("sleeper", guests::sleeps(RUN_SECONDS)).await.expect("a module");
    let job = api.submit(&small_job("sleeper")).await.expect("a job").id;
    eventually("the job to run", LIMIT, || async {
        api.job(&job).await.ok().filter(|job| job.state == JobState::Running)
    })
    .await;
    let (flood, tasks) = start(api, &job.to_string());
    let leases = eventually("the end of the job, as its node tells it", LIMIT, || async {
        // The administrator is crowded out like every user, so that asking takes patience.
        let attempts = api.attempts(&job).await.ok()?;
        attempts.iter().all(|attempt| attempt.ended_at.is_some()).then_some(attempts)
    })
    .await;
    flood.is_over.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.expect("no flood panics");
    }
    let states: Vec<_> = leases.iter().map(|attempt| attempt.state).collect();
    assert_eq!(states, [AttemptState::Succeeded], "{leases:#?}\n{flood:?}");
    let ended = api.finished(&job, LIMIT).await.expect("the server serves users again");
    assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
    println!("flood: {flood:?}");
    flood
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_slow_and_big_requests_costs_no_job_its_lease() {
    let (cluster, _node) = TestCluster::with_node().await;
    let flood = expect_success_under_flood(&cluster).await;
    assert!(flood.answered.load(Ordering::Relaxed) > 100, "there was hardly a flood: {flood:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_with_an_address_of_their_own_do_not_notice_that_users_took_every_connection() {
    let address = format!("127.0.0.1:{}", free_port());
    let cluster = TestCluster::start_with(&["--node-listen", &address, "--connections-max", "64"]).await;
    let options = NodeOptions { through: format!("http://{address}"), ..NodeOptions::named("node-1") };
    let _node = cluster.node(&options).await;
    let flood = expect_success_under_flood(&cluster).await;
    assert!(flood.refused.load(Ordering::Relaxed) > 1_000, "connections were not scarce: {flood:?}");
}
