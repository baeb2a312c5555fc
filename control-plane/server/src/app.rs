//! What every operation works with.

use std::sync::{Arc, Mutex, PoisonError};

use gristmill_lifecycle::Settings;
use gristmill_protocol::{Timestamp, trace::Sampling};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    auth::{ReplayCache, TokenCache},
    blob::BlobStore,
    clock::Clock,
    denials::Denials,
    entropy::Entropy,
    feed::Feed,
    forgeries::Forgeries,
    gates::{ClientLimits, Gates},
    ops::{Check, Counts},
    phases::Phases,
    purged::Purged,
    registry::Registry,
    request_times::RequestTimes,
    store::{Store, StoreError},
    upload_desk::UploadDesk,
    wake::Wakes,
};

/// Modules that are inspected at a time.
const INSPECTIONS_MAX: usize = 2;
/// Bulk calls that are served at a time.
const BULK_CALLS_MAX: usize = 4;

/// The parts of a running server, shared by all handlers and sweeps.
#[derive(Debug)]
pub struct App {
    /// Durable state.
    pub store: Arc<dyn Store>,
    /// The one clock.
    pub clock: Arc<dyn Clock>,
    /// The one source of randomness.
    pub entropy: Arc<dyn Entropy>,
    /// The bytes of modules, inputs, outputs and logs.
    pub blobs: Arc<BlobStore>,
    /// Whom to wake when something happened.
    pub wakes: Arc<Wakes>,
    /// The newest events, shared by all who follow them.
    pub feed: Feed,
    /// Times, depths and defaults.
    pub settings: Settings,
    /// Nodes and zones as they are known right now.
    pub registry: Arc<Registry>,
    /// User tokens seen lately.
    pub tokens: TokenCache,
    /// Signatures of nodes seen lately.
    pub replays: ReplayCache,
    /// What clients may take at a time and over time.
    pub gates: Gates,
    /// Requests and connections that were refused for want of rights or of room.
    pub denials: Denials,
    /// Leases that nodes made up.
    pub forgeries: Forgeries,
    /// Permits for the inspection of modules, which takes a core for up to seconds.
    pub inspections: Semaphore,
    /// Who writes to which upload.
    pub uploads: UploadDesk,
    /// Permits for bulk calls, each of which may hold many megabytes.
    pub bulk: Semaphore,
    /// Whose bulk commit is next: one at a time, so that others come in between.
    pub bulk_turn: tokio::sync::Mutex<()>,
    /// How long requests took.
    pub requests: RequestTimes,
    /// What nodes do for the attempts that are under way.
    pub phases: Phases,
    /// When the parts were put together.
    pub started_at: Timestamp,
    /// What was counted last for monitoring.
    pub counts: tokio::sync::Mutex<Option<Counts>>,
    /// What was removed since the server's start.
    pub purged: Purged,
    /// What the last look at the server's own health found, and when.
    pub readiness: tokio::sync::Mutex<Option<(Timestamp, Vec<Check>)>>,
    /// Which traces of jobs are recorded.
    pub sampling: Sampling,
    swept_at: Mutex<Timestamp>,
    /// Cancelled when the server stops: long polls end, sweeps stop.
    pub shutdown: CancellationToken,
}

impl App {
    /// Puts the parts together and reads nodes and zones.
    pub async fn assemble(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        blobs: Arc<BlobStore>,
        wakes: Arc<Wakes>,
        settings: Settings,
    ) -> Result<Self, StoreError> {
        let now = clock.now();
        let registry = Arc::new(Registry::load(&*store).await?);
        let gates = Gates::new(&ClientLimits::default(), Arc::clone(&clock), Arc::clone(&entropy));
        let feed = Feed::new(&wakes);
        let started_at = clock.now();
        Ok(Self {
            store,
            clock,
            entropy,
            blobs,
            wakes,
            feed,
            settings,
            registry,
            tokens: TokenCache::default(),
            replays: ReplayCache::default(),
            gates,
            denials: Denials::default(),
            forgeries: Forgeries::default(),
            inspections: Semaphore::new(INSPECTIONS_MAX),
            uploads: UploadDesk::default(),
            bulk: Semaphore::new(BULK_CALLS_MAX),
            bulk_turn: tokio::sync::Mutex::default(),
            requests: RequestTimes::default(),
            phases: Phases::default(),
            started_at,
            counts: tokio::sync::Mutex::default(),
            purged: Purged::default(),
            readiness: tokio::sync::Mutex::default(),
            sampling: Sampling::default(),
            swept_at: Mutex::new(now),
            shutdown: CancellationToken::new(),
        })
    }

    /// Gives clients other limits than the defaults. Call it before the first request.
    #[must_use]
    pub fn with_clients(mut self, limits: &ClientLimits) -> Self {
        self.gates = Gates::new(limits, Arc::clone(&self.clock), Arc::clone(&self.entropy));
        self
    }

    /// Records other traces than the default. Call it before the first request.
    #[must_use]
    pub fn with_sampling(self, sampling: Sampling) -> Self {
        Self { sampling, ..self }
    }

    /// When the sweep was done last.
    pub(crate) fn swept_at(&self) -> Timestamp {
        *self.swept_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the sweep was done.
    pub(crate) fn note_sweep(&self) {
        *self.swept_at.lock().unwrap_or_else(PoisonError::into_inner) = self.clock.now();
    }

    /// Milliseconds since 1970 by the server's clock, for ids.
    pub fn unix_ms(&self) -> u64 {
        self.clock.now().as_millisecond().max(0).unsigned_abs()
    }
}
