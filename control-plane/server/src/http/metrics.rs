//! `GET /metrics`, in the text format of Prometheus: base units, few labels, of names those of zones alone.

use std::{collections::BTreeMap, fmt::Write, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use gristmill_lifecycle::totals::{Bounds, DURATION_BOUNDS, Histogram, LATENCY_BOUNDS, SIZE_BOUNDS};
use gristmill_protocol::{JobState, Reason};

use super::extract::User;
use crate::{
    app::App,
    error::ApiError,
    ops::{self, Metrics, ZoneNodes},
};

/// The zone of waiting jobs that name none. No zone can have this name.
const ANY_ZONE: &str = "_any";

/// `GET /metrics`.
pub(super) async fn show(State(app): State<Arc<App>>, User(principal): User) -> Result<Response, ApiError> {
    let metrics = ops::read_metrics(&app, &principal).await?;
    let mut response = text(&metrics).into_response();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// The text as it grows. Writing to a string does not fail.
#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, "gauge", help);
        self.line(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, "counter", help);
        self.line(name, &[], value);
    }

    /// Counts by state and reason; what has no reason has no such label.
    fn ends<'a>(
        &mut self,
        name: &str,
        help: &str,
        counts: impl Iterator<Item = (&'a str, Option<Reason>, u64)>,
    ) {
        self.head(name, "counter", help);
        for (state, reason, count) in counts {
            let labels = [("state", state), ("reason", reason.map_or("", Reason::as_str))];
            self.line(name, &labels[..=usize::from(reason.is_some())], count);
        }
    }

    fn durations(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        self.histogram(name, labels, histogram, &DURATION_BOUNDS, seconds);
    }

    fn latencies(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        self.histogram(name, labels, histogram, &LATENCY_BOUNDS, seconds);
    }

    fn sizes(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        self.histogram(name, &[], histogram, &SIZE_BOUNDS, |bytes| bytes as f64);
    }

    /// `in_base_units` is what the texts count a value of the histogram as.
    fn histogram(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        histogram: &Histogram,
        bounds: &Bounds,
        in_base_units: fn(u64) -> f64,
    ) {
        let bucket = format!("{name}_bucket");
        let mut below = 0;
        for (bound, count) in bounds.iter().zip(histogram.buckets) {
            below += count;
            self.line(&bucket, &[labels, &[("le", &in_base_units(*bound).to_string())]].concat(), below);
        }
        self.line(&bucket, &[labels, &[("le", "+Inf")]].concat(), histogram.count);
        self.line(&format!("{name}_sum"), labels, in_base_units(histogram.sum));
        self.line(&format!("{name}_count"), labels, histogram.count);
    }
}

fn seconds(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64()
}

fn text(metrics: &Metrics) -> String {
    let mut text = Exposition::default();
    text.head("gristmill_build_info", "gauge", "The version that runs.");
    text.line("gristmill_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    present(&mut text, metrics);
    jobs(&mut text, metrics);
    attempts(&mut text, metrics);
    text.head("gristmill_purged_total", "counter", "Removed because it was too old.");
    for (kind, count) in &metrics.purged {
        text.line("gristmill_purged_total", &[("kind", kind.as_str())], count);
    }
    text.counter("gristmill_purged_bytes_total", "Bytes removed with blobs and logs.", metrics.purged_bytes);
    store(&mut text, metrics);
    requests(&mut text, metrics);
    process(&mut text, metrics);
    text.0
}

fn store(text: &mut Exposition, metrics: &Metrics) {
    let store = &metrics.store;
    text.counter("gristmill_store_commits_total", "Durable commits (fsyncs).", store.commits);
    text.counter("gristmill_store_statements_total", "Statements of the writer.", store.statements);
    text.counter("gristmill_store_queries_total", "Statements of the readers.", store.queries);
    text.counter("gristmill_store_ops_total", "Operations of the writer.", store.ops);
    let name = "gristmill_store_commit_seconds";
    text.head(name, "histogram", "Durations of commits.");
    text.latencies(name, &[], &store.commit_times);
    let name = "gristmill_lease_claim_seconds";
    text.head(name, "histogram", "From the writer's taking a batch to the durable grant of a claim in it.");
    text.latencies(name, &[], &store.claim_times);
}

fn requests(text: &mut Exposition, metrics: &Metrics) {
    let name = "gristmill_http_request_duration_seconds";
    text.head(name, "histogram", "Requests by route, up to the head of the answer; some wait on purpose.");
    for ((route, method, status), histogram) in &metrics.requests {
        let status = status.to_string();
        text.latencies(name, &[("route", route), ("method", method), ("status", &status)], histogram);
    }
    let name = "gristmill_http_requests_denied_total";
    text.head(name, "counter", "Requests refused for want of rights, or because there were too many.");
    for (code, count) in &metrics.denials.requests {
        text.line(name, &[("code", code.as_str())], count);
    }
    text.counter(
        "gristmill_http_connections_denied_total",
        "Connections closed at once because there were too many.",
        metrics.denials.connections,
    );
}

fn process(text: &mut Exposition, metrics: &Metrics) {
    let process = &metrics.process;
    let cpu = process.cpu.as_secs_f64();
    text.counter("process_cpu_seconds_total", "CPU time of the server's process.", cpu);
    if let Some(bytes) = process.resident_bytes {
        text.gauge("process_resident_memory_bytes", "Memory of the server's process in RAM.", bytes);
    }
    if let Some(count) = process.open_fds {
        text.gauge("process_open_fds", "Open descriptors of the server's process.", count);
    }
    let started_at = metrics.started_at.as_microsecond() as f64 / 1e6;
    text.gauge("process_start_time_seconds", "When the server started, in seconds since 1970.", started_at);
}

/// One gauge with a series for each zone.
fn by_zone(
    text: &mut Exposition,
    metrics: &Metrics,
    name: &str,
    help: &str,
    value: impl Fn(&ZoneNodes) -> f64,
) {
    text.head(name, "gauge", help);
    for (zone, nodes) in &metrics.zones {
        text.line(name, &[("zone", zone)], value(nodes));
    }
}

/// What there is right now.
fn present(text: &mut Exposition, metrics: &Metrics) {
    text.head("gristmill_jobs", "gauge", "Jobs that have not ended.");
    // Both states are there, so that a graph shows zeros instead of gaps.
    for state in JobState::ALL.iter().filter(|state| !state.is_terminal()) {
        let found = metrics.jobs.active.iter().find(|(found, _)| found == state);
        let count = found.map_or(0, |(_, count)| *count);
        text.line("gristmill_jobs", &[("state", state.as_str())], count);
    }
    text.gauge("gristmill_queue_depth", "Jobs waiting for a lease.", metrics.jobs.queue_depth);
    let name = "gristmill_jobs_queued";
    text.head(name, "gauge", "Jobs waiting for a lease, by the zone that they name; _any if they name none.");
    // Every zone is there, also one for which nothing waits, and one that only jobs name.
    let mut waiting: BTreeMap<_, _> = metrics.zones.keys().map(|zone| (zone.as_str(), 0)).collect();
    waiting.insert(ANY_ZONE, 0);
    let named = metrics.jobs.waiting_by_zone.iter();
    waiting.extend(named.map(|(zone, count)| (zone.as_deref().unwrap_or(ANY_ZONE), *count)));
    for (zone, count) in waiting {
        text.line(name, &[("zone", zone)], count);
    }
    text.gauge("gristmill_leases_active", "Leases that have not ended.", metrics.jobs.leases);
    let waited = metrics.oldest_wait.as_secs_f64();
    text.gauge("gristmill_queue_oldest_age_seconds", "Age of the oldest job that waits for a lease.", waited);
    text.head("gristmill_nodes", "gauge", "Enrolled nodes.");
    for (zone, nodes) in &metrics.zones {
        for (state, count) in &nodes.states {
            text.line("gristmill_nodes", &[("zone", zone), ("state", state.as_str())], count);
        }
    }
    by_zone(text, metrics, "gristmill_node_cores", "Cores that active nodes offer.", |nodes| {
        nodes.cpus_milli as f64 / 1_000.0
    });
    by_zone(text, metrics, "gristmill_node_memory_bytes", "Memory that active nodes offer.", |nodes| {
        nodes.memory_bytes as f64
    });
    let help = "Cores of active nodes that leases bind.";
    by_zone(text, metrics, "gristmill_node_cores_used", help, |nodes| nodes.cpus_milli_used as f64 / 1_000.0);
    let help = "Memory of active nodes that leases bind.";
    by_zone(text, metrics, "gristmill_node_memory_used_bytes", help, |nodes| nodes.memory_bytes_used as f64);
    let help = "Age of the oldest last heartbeat among active and draining nodes.";
    by_zone(text, metrics, "gristmill_node_heartbeat_age_seconds", help, |nodes| nodes.silent.as_secs_f64());
    text.gauge("gristmill_blobs", "Blobs.", metrics.blobs);
    text.gauge("gristmill_blob_bytes", "Bytes of all blobs.", metrics.blob_bytes);
}

fn jobs(text: &mut Exposition, metrics: &Metrics) {
    let totals = &metrics.totals;
    text.counter("gristmill_jobs_submitted_total", "Jobs accepted.", totals.jobs_submitted);
    let finished = totals.jobs_finished.iter();
    text.ends(
        "gristmill_jobs_finished_total",
        "Jobs that ended.",
        finished.map(|((state, reason), count)| (state.as_str(), *reason, *count)),
    );
    let name = "gristmill_queue_wait_seconds";
    text.head(name, "histogram", "From a job's acceptance to the start of its first attempt.");
    text.durations(name, &[], &totals.queue_waits);
    text.counter("gristmill_leases_granted_total", "Leases granted.", totals.leases_granted);
    text.counter(
        "gristmill_leases_expired_total",
        "Leases that ran out, or whose node was gone.",
        totals.leases_expired,
    );
}

fn attempts(text: &mut Exposition, metrics: &Metrics) {
    let totals = &metrics.totals;
    let ended = totals.attempts_ended.iter();
    text.ends(
        "gristmill_attempts_ended_total",
        "Attempts that ended.",
        ended.map(|((state, reason), count)| (state.as_str(), *reason, *count)),
    );
    let name = "gristmill_attempt_duration_seconds";
    text.head(name, "histogram", "From the grant of a lease to the attempt's end.");
    text.durations(name, &[], &totals.attempt_durations);
    let name = "gristmill_attempt_phase_seconds";
    text.head(name, "histogram", "Parts of attempts: stage, compile, run, collect.");
    for (phase, histogram) in &totals.phases {
        text.durations(name, &[("phase", phase.as_str())], histogram);
    }
    text.sizes(
        "gristmill_attempt_memory_peak_bytes",
        "Most memory of a guest at a time.",
        &totals.memory_peaks,
    );
    text.sizes(
        "gristmill_attempt_disk_peak_bytes",
        "Most bytes in an attempt's scratch directory at a time.",
        &totals.disk_peaks,
    );
    let usage = &totals.usage;
    text.counter("gristmill_attempt_fuel_total", "Fuel consumed by guests.", usage.fuel);
    text.counter("gristmill_attempt_cpu_seconds_total", "CPU time of guests.", seconds(usage.cpu_us));
    for (name, help, bytes) in [
        ("gristmill_attempt_input_bytes_total", "Bytes of inputs given to guests.", usage.input_bytes),
        ("gristmill_attempt_output_bytes_total", "Bytes of outputs collected.", usage.output_bytes),
        ("gristmill_attempt_read_bytes_total", "Bytes that guests read.", usage.read_bytes),
        ("gristmill_attempt_written_bytes_total", "Bytes that guests wrote.", usage.written_bytes),
    ] {
        text.counter(name, help, bytes);
    }
    let name = "gristmill_compiled_code_lookups_total";
    text.head(name, "counter", "Looks for compiled code in the caches of nodes.");
    text.line(name, &[("hit", "true")], usage.compile_hits);
    text.line(name, &[("hit", "false")], usage.compile_misses);
}
