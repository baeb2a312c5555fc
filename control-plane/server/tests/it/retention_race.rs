//! Blobs are stored, submitted, referred to and collected all at once, with no grace at all: what was
//! acknowledged keeps its bytes, and in the end nothing is left over.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use gristmill_lifecycle::{Settings, settings::Retention as Ages};
use gristmill_protocol::{
    Digest, ErrorCode, JobId, JobSpec,
    job::{BlobSource, InputSpec},
    tenancy::Scope,
};
use gristmill_server::{
    app::App,
    ops,
    principal::{Origin, Principal},
    retention::Retention,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;

use crate::http_api::{Api, Node};

/// Different blobs; few, so that everybody is after the same ones.
const BLOBS: u8 = 5;
const CLIENTS: u64 = 4;
const STEPS: u32 = 150;

fn content(n: u8) -> Bytes {
    Bytes::from(vec![n; 100 + usize::from(n)])
}

fn digest(n: u8) -> Digest {
    Digest::from_bytes(Sha256::digest(content(n)).into())
}

/// Everything may go as soon as nothing refers to it.
fn no_grace() -> Settings {
    let none = Duration::ZERO;
    let retention = Ages {
        job_ttl: none,
        log_ttl: none,
        event_ttl: none,
        audit_ttl: none,
        blob_grace: none,
        leftover_period: none,
        ..Ages::default()
    };
    Settings { retention, idempotency_ttl: none, ..Settings::default() }
}

fn user() -> Principal {
    let token = gristmill_protocol::TokenId::from_parts(1, [1; 10]);
    Principal { token, tenant: "default".into(), scopes: Scope::ALL.to_vec(), origin: Origin::default() }
}

/// What became of the submits of one run.
#[derive(Default)]
struct Tallied {
    accepted: AtomicU64,
    refused: AtomicU64,
}

struct Client {
    app: Arc<App>,
    rng: StdRng,
    tallied: Arc<Tallied>,
    jobs: BTreeMap<JobId, Digest>,
}

impl Client {
    async fn put(&self, n: u8) {
        let body = stream::iter([Ok::<_, std::io::Error>(content(n))]);
        ops::put_blob(&self.app, &user(), digest(n), body).await.expect("a blob can always be stored");
    }

    async fn submit(&mut self, n: u8, source: BlobSource) {
        let input = InputSpec {
            name: "data".into(),
            source,
            kind: gristmill_protocol::job::InputKind::File,
            mode: gristmill_protocol::job::InputMode::Ro,
        };
        let spec = JobSpec { module: "mill".into(), inputs: vec![input], ..JobSpec::default() };
        match ops::submit_job(&self.app, &user(), spec, None).await {
            Ok(submitted) => {
                self.jobs.insert(submitted.job.id, digest(n));
                self.tallied.accepted.fetch_add(1, Ordering::Relaxed);
                self.expect_bytes(digest(n)).await;
            }
            // Without a grace a blob may be gone before it is referred to; that is said, not swallowed.
            Err(error) if error.code == ErrorCode::NotFound => {
                self.tallied.refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    async fn expect_bytes(&self, digest: Digest) {
        let size = self.app.blobs.size(digest).await.expect("the blob store answers");
        assert!(size.is_some(), "an acknowledged job has lost its input");
    }

    async fn cancel_one(&mut self) {
        let Some((job, digest)) = self.jobs.pop_first() else { return };
        self.expect_bytes(digest).await;
        ops::cancel_job(&self.app, &user(), job, None).await.expect("the job is there until it has ended");
    }

    async fn run(mut self) {
        for _ in 0..STEPS {
            let n = self.rng.random_range(0..BLOBS);
            match self.rng.random_range(0..8) {
                0..=2 => {
                    self.put(n).await;
                    self.submit(n, BlobSource::Digest(digest(n))).await;
                }
                3 => self.put(n).await,
                4 => self.submit(n, BlobSource::Digest(digest(n))).await,
                5 | 6 => {
                    let text = String::from_utf8(content(n).to_vec()).expect("small numbers are text");
                    self.submit(n, BlobSource::Text(text)).await;
                }
                _ => self.cancel_one().await,
            }
        }
        for digest in self.jobs.values() {
            self.expect_bytes(*digest).await;
        }
        while !self.jobs.is_empty() {
            self.cancel_one().await;
        }
    }
}

async fn race(seed: u64) {
    let api = Api::start_with(no_grace()).await;
    // Files are older than any clock says, so that age protects nothing either.
    api.publish("mill", "1.0.0").await;
    let _node: Node = api.enroll("grinder").await;
    api.clock.advance(Duration::from_hours(24 * 365 * 20));
    let (tallied, is_over) = (Arc::new(Tallied::default()), Arc::new(AtomicBool::new(false)));
    let mut collecting = JoinSet::new();
    for _ in 0..2 {
        let (app, clock, is_over) = (Arc::clone(&api.app), Arc::clone(&api.clock), Arc::clone(&is_over));
        // What crashes left is told by its age alone, so it is looked for before anybody stores anything.
        let mut retention = Retention::default();
        retention.round(&app).await;
        collecting.spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                clock.advance(Duration::from_micros(1));
                retention.round(&app).await;
            }
        });
    }
    let mut working = JoinSet::new();
    for number in 0..CLIENTS {
        let client = Client {
            app: Arc::clone(&api.app),
            rng: StdRng::seed_from_u64(seed * CLIENTS + number),
            tallied: Arc::clone(&tallied),
            jobs: BTreeMap::new(),
        };
        working.spawn(client.run());
    }
    while let Some(ended) = working.join_next().await {
        ended.expect("no client has lost anything");
    }
    is_over.store(true, Ordering::Relaxed);
    collecting.join_all().await;
    assert!(tallied.accepted.load(Ordering::Relaxed) > 50, "the race is about accepted jobs");
    for _ in 0..2 {
        api.clock.advance(Duration::from_secs(1));
        Retention::default().round(&api.app).await;
    }
    assert_eq!(api.app.store.blob_totals().await.expect("totals").0, 1, "the module alone is left");
    let purged: BTreeMap<_, _> =
        api.app.purged.counts().into_iter().map(|(kind, count)| (kind.as_str(), count)).collect();
    assert_eq!(purged["job"], tallied.accepted.load(Ordering::Relaxed), "{purged:?}");
    assert!(purged["blob"] > 0 && purged["event"] > 0 && purged["audit_entry"] > 0, "{purged:?}");
    for n in 0..BLOBS {
        assert_eq!(api.app.blobs.size(digest(n)).await.expect("the blob store answers"), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_acknowledged_job_loses_its_input_to_the_collector() {
    for seed in 0..4 {
        race(seed).await;
    }
}
