//! How long a cancel takes to reach a guest that computes.

use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use gristmill_protocol::{JobState, attempt::AttemptState};
use gristmill_tests::{cluster::TestCluster, eventually, guests};

use super::small_job;

const CANCELS: usize = 200;
/// What is promised of a node that is connected: 99 cancels of 100 take less.
const CANCEL_MAX: Duration = Duration::from_millis(100);
/// A machine that takes less than this for what [`Probe`] does has nothing else to do.
const IDLE_MAX: Duration = Duration::from_millis(10);
/// On any other, a cancel may take as many times longer than promised.
const BUSY_FACTOR: u32 = 10;

/// What the machine itself takes for what a cancel consists of, without any of the product: messages that go
/// to and fro between threads over loopback, and waits for the disk.
struct Probe {
    peer: TcpStream,
    file: File,
}

impl Probe {
    /// As many messages as a cancel takes: client, server, node, executor, and back the same way.
    const ROUND_TRIPS: usize = 4;
    /// The request is committed, and the report.
    const COMMITS: usize = 2;

    fn start(dir: &Path) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        std::thread::spawn(move || {
            let Ok((mut echo, _)) = listener.accept() else { return };
            let _ = echo.set_nodelay(true);
            let mut byte = [0];
            while echo.read_exact(&mut byte).is_ok() && echo.write_all(&byte).is_ok() {}
        });
        let peer = TcpStream::connect(address).expect("the listener accepts");
        peer.set_nodelay(true).expect("an option of every socket");
        let file = File::create(dir.join("probe")).expect("the directory is writable");
        Self { peer, file }
    }

    fn once(&mut self) -> Duration {
        let began = Instant::now();
        for _ in 0..Self::ROUND_TRIPS {
            self.peer.write_all(&[1]).expect("the other side is there");
            self.peer.read_exact(&mut [0]).expect("the other side answers");
        }
        for _ in 0..Self::COMMITS {
            self.file.write_all(&[0; 4_096]).expect("there is room");
            self.file.sync_data().expect("the disk works");
        }
        began.elapsed()
    }
}

/// The value below which so many of a hundred lie.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent).div_ceil(100) - 1]
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_cancels_ninety_nine_in_a_hundred_stop_their_guest_in_time() {
    let (cluster, _node) = TestCluster::with_node().await;
    let api = &cluster.api;
    let mut probe = Probe::start(cluster.dir.path());
    api.publish("spins", guests::spins_for_ever()).await.expect("a module");
    let (mut taken, mut probed) = (Vec::new(), Vec::new());
    for _ in 0..CANCELS {
        let job = api.submit(&small_job("spins")).await.expect("a job");
        eventually("the guest to speak", Duration::from_secs(60), || async {
            let attempts = api.attempts(&job.id).await.ok()?;
            attempts.iter().any(|attempt| attempt.stdout_bytes > 0).then_some(())
        })
        .await;
        // In the same moment, with the same guest beside it.
        probed.push(tokio::task::block_in_place(|| probe.once()));
        let asked = Instant::now();
        api.cancel(&job.id).await.expect("a cancel");
        let ended = api.finished(&job.id, Duration::from_secs(30)).await.expect("it ends");
        taken.push(asked.elapsed());
        assert_eq!(ended.state, JobState::Cancelled);
        let attempts = api.attempts(&job.id).await.expect("its attempts");
        assert_eq!(attempts.len(), 1);
        assert_eq!(attempts[0].state, AttemptState::Cancelled);
    }
    taken.sort();
    probed.sort();
    let machine = percentile(&probed, 99);
    let allowed = if machine < IDLE_MAX { CANCEL_MAX } else { CANCEL_MAX + BUSY_FACTOR * machine };
    println!(
        "cancel asked -> guest stopped and reported, {CANCELS} times: p50 {:?}, p90 {:?}, p99 {:?}, max {:?}; \
         the machine alone: p50 {:?}, p99 {machine:?}; allowed {allowed:?}",
        percentile(&taken, 50),
        percentile(&taken, 90),
        percentile(&taken, 99),
        percentile(&taken, 100),
        percentile(&probed, 50),
    );
    let p99 = percentile(&taken, 99);
    assert!(p99 < allowed, "one cancel in a hundred takes {p99:?} or longer; {allowed:?} are allowed");
}
