//! Count what there is, for monitoring.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use gristmill_lifecycle::totals::{Histogram, Totals};
use gristmill_protocol::{NodeId, Timestamp, node::NodeState, tenancy::Scope};

use crate::{
    app::App,
    denials::DenialCounts,
    error::ApiError,
    principal::Principal,
    process::{ProcessUse, process_use},
    purged::PurgedKind,
    request_times::RequestKind,
    store::job::{JobCounts, StoreCounters},
};

/// What `/metrics` shows.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Jobs that have not ended.
    pub jobs: JobCounts,
    /// What happened to jobs and attempts since the server's start.
    pub totals: Totals,
    /// What the writer has done since the server's start.
    pub store: StoreCounters,
    /// What was removed since the server's start because it was too old, by kind.
    pub purged: Vec<(PurgedKind, u64)>,
    /// Bytes of blobs and leftovers among that.
    pub purged_bytes: u64,
    /// Number of blobs.
    pub blobs: u64,
    /// Bytes of all blobs.
    pub blob_bytes: u64,
    /// How long the oldest waiting job has waited; zero when none waits.
    pub oldest_wait: Duration,
    /// Nodes by zone.
    pub zones: BTreeMap<String, ZoneNodes>,
    /// What was refused since the server's start for want of rights or of room.
    pub denials: DenialCounts,
    /// How long requests took.
    pub requests: Vec<(RequestKind, Histogram)>,
    /// What the server's process uses.
    pub process: ProcessUse,
    /// When the server started.
    pub started_at: Timestamp,
}

/// The nodes of a zone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ZoneNodes {
    /// How many there are, by what they are doing.
    pub states: BTreeMap<NodeState, u64>,
    /// CPU that active nodes offer, in thousandths of a core.
    pub cpus_milli: u64,
    /// Memory that active nodes offer, in bytes.
    pub memory_bytes: u64,
    /// CPU of active nodes that leases bind, in thousandths of a core.
    pub cpus_milli_used: u64,
    /// Memory of active nodes that leases bind, in bytes.
    pub memory_bytes_used: u64,
    /// How long ago the active or draining node was heard of that has been silent longest.
    pub silent: Duration,
}

/// How long counts are good that take a query over many rows.
const COUNTS_KEPT: Duration = Duration::from_secs(1);

/// Counts that take a query over many rows.
#[derive(Debug, Clone)]
pub struct Counts {
    counted_at: Timestamp,
    jobs: JobCounts,
    loads: HashMap<NodeId, (u32, u64)>,
    blobs: u64,
    blob_bytes: u64,
}

/// Counts what there is and what happened. Needs the scope `metrics`, since the figures add up all
/// tenants. However often it is asked, the database counts once a second at most; what
/// the writer has done is always the newest.
pub async fn read_metrics(app: &App, who: &Principal) -> Result<Metrics, ApiError> {
    who.require(Scope::Metrics)?;
    let now = app.clock.now();
    let mut kept = app.counts.lock().await;
    let fresh = kept.take().filter(|kept| now.duration_since(kept.counted_at).unsigned_abs() < COUNTS_KEPT);
    let counts = if let Some(counts) = fresh {
        counts
    } else {
        let jobs = app.store.job_counts().await?;
        let loads = app.store.lease_loads().await?;
        let (blobs, blob_bytes) = app.store.blob_totals().await?;
        Counts { counted_at: now, jobs, loads, blobs, blob_bytes }
    };
    *kept = Some(counts.clone());
    drop(kept);
    let Counts { jobs, loads, blobs, blob_bytes, .. } = counts;
    let waits = jobs.oldest_waiting.map(|since| now.duration_since(since));
    Ok(Metrics {
        oldest_wait: waits.and_then(|wait| Duration::try_from(wait).ok()).unwrap_or_default(),
        jobs,
        totals: app.store.totals(),
        store: app.store.counters(),
        purged: app.purged.counts(),
        purged_bytes: app.purged.bytes(),
        blobs,
        blob_bytes,
        zones: zones(app, now, &loads),
        denials: app.denials.counts(),
        requests: app.requests.read(),
        process: process_use(),
        started_at: app.started_at,
    })
}

/// Every zone is there, with every state, so that a graph shows zeros instead of gaps.
fn zones(app: &App, now: Timestamp, loads: &HashMap<NodeId, (u32, u64)>) -> BTreeMap<String, ZoneNodes> {
    let none = || ZoneNodes {
        states: NodeState::ALL.iter().map(|state| (*state, 0)).collect(),
        ..ZoneNodes::default()
    };
    let mut zones: BTreeMap<_, _> =
        app.registry.zones().iter().map(|zone| (zone.name.clone(), none())).collect();
    for node in app.registry.nodes() {
        let state = node.state(now, app.settings.lease_ttl);
        let zone = zones.entry(node.record.zone.clone()).or_insert_with(none);
        *zone.states.entry(state).or_default() += 1;
        if state == NodeState::Active {
            zone.cpus_milli += u64::from(node.record.capabilities.cpus_milli);
            zone.memory_bytes += node.record.capabilities.memory_bytes;
            let (cpus_milli, memory_bytes) = loads.get(&node.record.id).copied().unwrap_or_default();
            zone.cpus_milli_used += u64::from(cpus_milli);
            zone.memory_bytes_used += memory_bytes;
        }
        if matches!(state, NodeState::Active | NodeState::Draining)
            && let Some(seen_at) = node.seen_at
        {
            zone.silent = zone.silent.max(now.duration_since(seen_at).unsigned_abs());
        }
    }
    zones
}
