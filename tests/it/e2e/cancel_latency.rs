//! How long a cancel takes to stop a guest, whatever the guest is at: it computes, sleeps or writes.

use std::{
    fmt,
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use gristmill_protocol::{JobState, attempt::AttemptState};
use gristmill_tests::{cluster::TestCluster, eventually, guests};

use super::small_job;

/// As many of each kind of guest.
const CANCELS: usize = 67;
/// What is promised of a node that is connected: 99 cancels of 100 take less.
const CANCEL_MAX: Duration = Duration::from_millis(100);
/// A machine that takes less than this for what [`Probe`] does has nothing else to do.
const IDLE_MAX: Duration = Duration::from_millis(10);
/// On any other, a cancel may take as many times longer than promised,
const BUSY_FACTOR: u32 = 10;
/// but never this long: after it a guest is killed that nothing else stops.
const KILL_AFTER: Duration = Duration::from_secs(1);

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

/// The times of many cancels, in order, and how they are read.
struct Taken(Vec<Duration>);

impl Taken {
    fn new(mut times: Vec<Duration>) -> Self {
        times.sort();
        Self(times)
    }

    /// The value below which so many of a hundred lie.
    fn percentile(&self, percent: usize) -> Duration {
        self.0[(self.0.len() * percent).div_ceil(100) - 1]
    }
}

impl fmt::Display for Taken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [half, most, nearly_all, all] = [50, 90, 99, 100].map(|percent| self.percentile(percent));
        write!(out, "p50 {half:?}, p90 {most:?}, p99 {nearly_all:?}, max {all:?}")
    }
}

/// From the request to cancel until the guest was stopped and the server knows it.
async fn cancelled(cluster: &TestCluster, module: &str, probe: &mut Probe) -> (Duration, Duration) {
    let api = &cluster.api;
    let job = api.submit(&small_job(module)).await.expect("a job");
    eventually("the guest to speak", Duration::from_secs(60), || async {
        let attempts = api.attempts(&job.id).await.ok()?;
        attempts.iter().any(|attempt| attempt.stdout_bytes > 0).then_some(())
    })
    .await;
    // In the same moment, with the same guest beside it.
    let probed = tokio::task::block_in_place(|| probe.once());
    let asked = Instant::now();
    api.cancel(&job.id).await.expect("a cancel");
    let ended = api.finished(&job.id, Duration::from_secs(30)).await.expect("it ends");
    let taken = asked.elapsed();
    assert_eq!(ended.state, JobState::Cancelled);
    let attempts = api.attempts(&job.id).await.expect("its attempts");
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0].state, AttemptState::Cancelled);
    (taken, probed)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_cancels_ninety_nine_in_a_hundred_stop_their_guest_in_time() {
    let (cluster, _node) = TestCluster::with_node().await;
    let mut probe = Probe::start(cluster.dir.path());
    let (mut all, mut probed) = (Vec::new(), Vec::new());
    for (module, guest) in [
        ("computes", guests::spins_for_ever()),
        ("sleeps", guests::sleeps_once_ready()),
        ("writes", guests::writes_lines(u32::MAX)),
    ] {
        cluster.api.publish(module, guest).await.expect("a module");
        let mut times = Vec::new();
        for _ in 0..CANCELS {
            let (taken, machine) = cancelled(&cluster, module, &mut probe).await;
            times.push(taken);
            probed.push(machine);
        }
        all.extend(&times);
        println!("cancel asked -> guest that {module} stopped and reported: {}", Taken::new(times));
    }
    let (all, probed) = (Taken::new(all), Taken::new(probed));
    let machine = probed.percentile(99);
    let allowed =
        if machine < IDLE_MAX { CANCEL_MAX } else { KILL_AFTER.min(CANCEL_MAX + BUSY_FACTOR * machine) };
    println!("all {}: {all}; the machine alone: {probed}; allowed {allowed:?}", all.0.len());
    let p99 = all.percentile(99);
    assert!(p99 < allowed, "one cancel in a hundred takes {p99:?} or longer; {allowed:?} are allowed");
}
