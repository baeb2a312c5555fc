//! A way to a server that breaks: every connection is cut after a number of bytes that a seed decides,
//! in either direction and in the middle of whatever was under way.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A running cutter on a free port; ends when dropped.
#[derive(Debug)]
pub struct Cutter {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    counts: Arc<Counts>,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Counts {
    cuts: AtomicU64,
    bytes: AtomicU64,
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Numbers that look random and are the same for the same seed (`SplitMix64`).
#[derive(Debug, Clone)]
pub struct Seeded(u64);

impl Seeded {
    /// Begins with a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

impl Cutter {
    /// Starts in front of `upstream`, a URL without a path. Each connection carries at most
    /// `bytes_max` bytes, both directions added up.
    ///
    /// # Panics
    /// When no port can be bound.
    pub async fn start(upstream: &str, seed: u64, bytes_max: u64) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let upstream = upstream.trim_start_matches("http://").to_owned();
        let (counts, stop) = (Arc::<Counts>::default(), CancellationToken::new());
        let tracker = TaskTracker::new();
        let connections = tracker.clone();
        let (counted, stopped) = (Arc::clone(&counts), stop.clone());
        tracker.spawn(async move {
            let mut seeded = Seeded::new(seed);
            while let Some(Ok((client, _))) = stopped.run_until_cancelled(listener.accept()).await {
                let budget = 1 + seeded.below(bytes_max);
                let (upstream, counted, stopped) = (upstream.clone(), Arc::clone(&counted), stopped.clone());
                connections.spawn(async move {
                    let Ok(server) = TcpStream::connect(upstream).await else { return };
                    stopped.run_until_cancelled(carry(client, server, budget, &counted)).await;
                });
            }
        });
        Self { url: format!("http://{address}"), counts, stop }
    }

    /// Connections cut so far.
    pub fn cuts(&self) -> u64 {
        self.counts.cuts.load(Ordering::SeqCst)
    }

    /// Bytes carried so far, both directions added up.
    pub fn bytes(&self) -> u64 {
        self.counts.bytes.load(Ordering::SeqCst)
    }
}

async fn carry(client: TcpStream, server: TcpStream, budget: u64, counts: &Counts) {
    let left = AtomicU64::new(budget);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let is_cut = tokio::select! {
        is_cut = pump(from_client, to_server, &left, counts) => is_cut,
        is_cut = pump(from_server, to_client, &left, counts) => is_cut,
    };
    if is_cut {
        counts.cuts.fetch_add(1, Ordering::SeqCst);
    }
}

/// Moves bytes until an end closes (`false`) or the budget is used up (`true`).
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, left: &AtomicU64, counts: &Counts) -> bool {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return false };
        let room = left.load(Ordering::SeqCst);
        let passed = room.min(count as u64);
        left.store(room - passed, Ordering::SeqCst);
        counts.bytes.fetch_add(passed, Ordering::SeqCst);
        let passed_usize = usize::try_from(passed).unwrap_or(count);
        if to.write_all(&buffer[..passed_usize]).await.is_err() {
            return false;
        }
        if passed < count as u64 {
            return true;
        }
    }
}
