//! `gristmill bench queue`: jobs that do nothing, through everything that a job passes.
//!
//! A fresh instance in a temporary directory: server, database on disk with full durability, one
//! node with its executors. Every job is its own POST, and every accepted job is durable; beside that,
//! what one bulk call brings.

use std::{
    collections::BTreeMap,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use gristmill_client::user::{Client, LONG_POLL};
use gristmill_node::Offer;
use gristmill_protocol::{
    JobSpec, JobState, JobView, LimitsSpec, Timestamp,
    bulk::{BulkItem, BulkSelection},
    limits::SlotSize,
    units::format_duration_us,
};
use serde::Serialize;
use tokio_util::task::TaskTracker;

use super::baseline;
use crate::{
    args::Global,
    embedded::{Embedded, EmbeddedConfig},
    environment,
    failure::{Exit, Failure},
    printer::{Printer, grouped, slot},
    progress::Progress,
    saved::private_dir,
    table::table,
};

/// A command that returns at once: `(module (memory (export "memory") 1) (func (export "_start")))`.
const NOOP: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x05\x03\x01\0\x01\
    \x07\x13\x02\x06memory\x02\0\x06_start\0\0\x0a\x04\x01\x02\0\x0b";
/// CPU that the node offers, whatever the machine has.
const NODE_CPUS_MILLI: u32 = 32_000;
/// What each job asks for: the node has room for 320 at a time.
const JOB_CPUS_MILLI: u32 = 100;
/// Most durable commits for each job under load.
const COMMITS_PER_JOB_MAX: f64 = 0.1;

/// How many durable jobs a second pass through server, queue, node and executor
#[derive(Debug, Args)]
pub(crate) struct QueueArgs {
    /// Jobs submitted under load
    #[arg(long, value_name = "N", default_value_t = 3_000, value_parser = clap::value_parser!(u32).range(64..=9_000))]
    jobs: u32,
    /// Clients that submit at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=512))]
    clients: u32,
    /// Jobs of a single client, one after the other, for the latencies
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(10..))]
    single: u32,
    /// Where the temporary instance lives; its disk is what is measured [default: the data directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Exit with 1 if a job costs more than 0.1 commits under load
    #[arg(long)]
    check: bool,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Measured {
    /// What the node offers, whatever the machine has; the commits for each job depend on it.
    node: SlotSize,
    jobs: u32,
    clients: u32,
    jobs_per_second: f64,
    submits_per_second: f64,
    bulk_submits_per_second: f64,
    submit_us: Percentiles,
    single_to_start_us: Percentiles,
    single_to_done_us: Percentiles,
    commits_per_job: f64,
    statements_per_job: f64,
    queries_per_job: f64,
    baseline: Baseline,
    ratios: BTreeMap<&'static str, f64>,
}

#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "every name carries its unit")]
struct Baseline {
    fsyncs_per_second: f64,
    processes_per_second: f64,
    echoes_per_second: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Percentiles {
    p50: u64,
    p99: u64,
}

/// Runs the command.
pub(crate) async fn run(args: QueueArgs, global: &Global) -> anyhow::Result<Exit> {
    let parent = match &args.dir {
        Some(dir) => dir.clone(),
        None => environment::data_dir()?,
    };
    private_dir(&parent)?;
    let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(&parent)?;
    let progress = Progress::start();
    progress.phase("starting an instance");
    let config = EmbeddedConfig {
        data_dir: dir.path().join("instance"),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        offer: offer(),
    };
    let embedded = Embedded::start(config).await?;
    let measured = measure(&args, &embedded, dir.path(), &progress).await;
    embedded.stop().await;
    progress.finish();
    let measured = measured?;
    Printer::new(global.json()).show(&measured, text)?;
    if args.check && measured.commits_per_job > COMMITS_PER_JOB_MAX {
        let detail =
            format!("a job cost {:.3} commits, more than {COMMITS_PER_JOB_MAX}", measured.commits_per_job);
        return Err(Failure::local(detail).into());
    }
    Ok(Exit::Ok)
}

/// Room for many small jobs at a time, whatever the machine has: they do nothing, and the same
/// number everywhere lets runs on different machines be compared.
fn offer() -> Offer {
    let total = SlotSize { cpus_milli: NODE_CPUS_MILLI, memory_bytes: 64 << 30 };
    Offer { total, slot: SlotSize::default(), is_reduced: false }
}

async fn measure(
    args: &QueueArgs,
    embedded: &Embedded,
    dir: &std::path::Path,
    progress: &Progress,
) -> anyhow::Result<Measured> {
    let client = embedded.client()?;
    let wasm = dir.join("noop.wasm");
    std::fs::write(&wasm, NOOP)?;
    client.module_publish("noop", "1.0.0", &wasm, None).await?;
    progress.phase("warming up");
    finish_one(&client).await?;
    progress.phase("one client");
    let (single_to_start_us, single_to_done_us) = single_client(&client, args.single).await?;
    progress.phase(&format!("{} clients", args.clients));
    let before = counters(&client).await?;
    let load = load(&client, args).await?;
    let after = counters(&client).await?;
    let per_job = |name: &str| {
        let of = |counters: &BTreeMap<String, f64>| {
            counters.get(name).copied().with_context(|| format!("/metrics does not name {name}"))
        };
        anyhow::Ok((of(&after)? - of(&before)?) / f64::from(args.jobs))
    };
    let commits_per_job = per_job("gristmill_store_commits_total")?;
    let statements_per_job = per_job("gristmill_store_statements_total")?;
    let queries_per_job = per_job("gristmill_store_queries_total")?;
    progress.phase("bulk");
    let bulk_submits_per_second = bulk(&client, args.jobs).await?;
    progress.phase("baselines");
    let baseline = baselines(args, dir).await?;
    let ratios = [
        ("jobs / fsyncs", load.jobs_per_second / baseline.fsyncs_per_second),
        ("jobs / processes", load.jobs_per_second / baseline.processes_per_second),
        ("jobs / echoes", load.jobs_per_second / baseline.echoes_per_second),
    ];
    Ok(Measured {
        node: offer().total,
        jobs: args.jobs,
        clients: args.clients,
        jobs_per_second: load.jobs_per_second,
        submits_per_second: load.submits_per_second,
        bulk_submits_per_second,
        submit_us: load.submit_us,
        single_to_start_us,
        single_to_done_us,
        commits_per_job,
        statements_per_job,
        queries_per_job,
        baseline,
        ratios: ratios.into(),
    })
}

async fn baselines(args: &QueueArgs, dir: &std::path::Path) -> anyhow::Result<Baseline> {
    let dir = dir.to_owned();
    let (fsyncs_per_second, processes_per_second) = tokio::task::spawn_blocking(move || {
        anyhow::Ok((baseline::fsyncs_per_second(&dir, baseline::MEASURE)?, baseline::processes_per_second()?))
    })
    .await??;
    let body = serde_json::to_vec(&spec())?;
    let echoes_per_second = baseline::echoes_per_second(args.clients as usize, body).await?;
    Ok(Baseline { fsyncs_per_second, processes_per_second, echoes_per_second })
}

/// A small job, so that many fit a node at a time.
fn spec() -> JobSpec {
    let limits = LimitsSpec {
        cpus_milli: Some(JOB_CPUS_MILLI),
        memory_bytes: Some(1 << 20),
        wall_time_ms: Some(10_000),
        ..LimitsSpec::default()
    };
    JobSpec { module: "noop@1.0.0".into(), limits, ..JobSpec::default() }
}

async fn submit(client: &Client, wait: Option<Duration>) -> anyhow::Result<JobView> {
    let key = hex::encode(rand::random::<[u8; 16]>());
    Ok(client.job_submit(&spec(), &key, wait).await?)
}

async fn wait(client: &Client, mut job: JobView) -> anyhow::Result<JobView> {
    while !job.state.is_terminal() {
        job = client.job_wait(&job.id, LONG_POLL).await?;
    }
    anyhow::ensure!(job.state == JobState::Succeeded, "a job that does nothing ended as {}", job.state);
    Ok(job)
}

async fn finish_one(client: &Client) -> anyhow::Result<JobView> {
    wait(client, submit(client, Some(LONG_POLL)).await?).await
}

/// From the sending of the submit to the start, and to the arrival of the end, as one client sees it.
async fn single_client(client: &Client, count: u32) -> anyhow::Result<(Percentiles, Percentiles)> {
    let (mut to_start, mut to_done) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let (sent_at, sent) = (Timestamp::now(), Instant::now());
        let job = finish_one(client).await?;
        to_done.push(sent.elapsed().as_micros() as u64);
        let started_at = job.started_at.context("a job that succeeded has no start")?;
        to_start.push(started_at.duration_since(sent_at).as_micros().max(0) as u64);
    }
    Ok((percentiles(to_start), percentiles(to_done)))
}

struct Load {
    jobs_per_second: f64,
    submits_per_second: f64,
    submit_us: Percentiles,
}

/// All clients submit their share as fast as they get answers; the clock stops when the last job has
/// ended.
async fn load(client: &Client, args: &QueueArgs) -> anyhow::Result<Load> {
    let share = args.jobs.div_ceil(args.clients);
    let left = std::sync::atomic::AtomicU32::new(args.jobs);
    let left = std::sync::Arc::new(left);
    let started = Instant::now();
    let work = || {
        let (client, left) = (client.clone(), left.clone());
        async move {
            let (mut latencies, mut jobs) = (Vec::new(), Vec::with_capacity(share as usize));
            let take = || {
                use std::sync::atomic::Ordering::Relaxed;
                left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
            };
            while take() {
                let sent = Instant::now();
                jobs.push(submit(&client, None).await?);
                latencies.push(sent.elapsed().as_micros() as u64);
            }
            let submitted = started.elapsed();
            for job in jobs.into_iter().rev() {
                wait(&client, job).await?;
            }
            anyhow::Ok((latencies, submitted))
        }
    };
    let results = on_tasks(&TaskTracker::new(), args.clients as usize, work).await?;
    let total = started.elapsed();
    let submitted = results.iter().map(|(_, at)| *at).max().unwrap_or(total);
    let latencies = results.into_iter().flat_map(|(latencies, _)| latencies).collect();
    Ok(Load {
        jobs_per_second: f64::from(args.jobs) / total.as_secs_f64(),
        submits_per_second: f64::from(args.jobs) / submitted.as_secs_f64(),
        submit_us: percentiles(latencies),
    })
}

/// Submits as many jobs in one call, then takes back those that have not run yet.
async fn bulk(client: &Client, jobs: u32) -> anyhow::Result<f64> {
    let items: Vec<_> = (0..jobs).map(|_| BulkItem { idempotency_key: None, spec: spec() }).collect();
    let started = Instant::now();
    let view = client.jobs_submit(&items).await?;
    let elapsed = started.elapsed();
    anyhow::ensure!(view.accepted == u64::from(jobs), "{} of {jobs} jobs were refused", view.refused);
    client.jobs_cancel(&BulkSelection { all: true, ..BulkSelection::default() }).await?;
    Ok(f64::from(jobs) / elapsed.as_secs_f64())
}

/// Runs `count` copies of some work at a time and returns what each one returned.
pub(super) async fn on_tasks<T, F>(
    tracker: &TaskTracker,
    count: usize,
    work: impl Fn() -> F,
) -> anyhow::Result<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>> + Send + 'static,
{
    let handles: Vec<_> = (0..count).map(|_| tracker.spawn(work())).collect();
    let mut results = Vec::with_capacity(count);
    for handle in handles {
        results.push(handle.await??);
    }
    Ok(results)
}

/// Every counter of `/metrics` by its name; series of one name are added up.
async fn counters(client: &Client) -> anyhow::Result<BTreeMap<String, f64>> {
    Ok(parse_counters(&client.metrics().await?))
}

fn parse_counters(text: &str) -> BTreeMap<String, f64> {
    let mut counters = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let name = series.split('{').next().unwrap_or(series);
        if let Ok(value) = value.parse::<f64>() {
            *counters.entry(name.to_owned()).or_default() += value;
        }
    }
    counters
}

fn percentiles(mut values: Vec<u64>) -> Percentiles {
    values.sort_unstable();
    let at = |share: f64| {
        let index = ((values.len() as f64 * share).ceil() as usize).saturating_sub(1);
        values.get(index).copied().unwrap_or(0)
    };
    Percentiles { p50: at(0.50), p99: at(0.99) }
}

fn text(measured: &Measured) -> String {
    let rate = |value: f64| format!("{}/s", grouped(value.round() as u64));
    let both =
        |p: Percentiles| format!("p50 {}, p99 {}", format_duration_us(p.p50), format_duration_us(p.p99));
    let row = |what: &str, value: String| vec![what.to_owned(), value];
    let clients = measured.clients;
    let node = slot(measured.node.cpus_milli, measured.node.memory_bytes);
    let mut rows = vec![
        row("one node that offers, whatever this machine has", node),
        row(&format!("durable jobs, one a POST, {clients} clients"), rate(measured.jobs_per_second)),
        row("submits meanwhile", rate(measured.submits_per_second)),
        row("submits in one bulk call, one commit", rate(measured.bulk_submits_per_second)),
        row("submit, under load", both(measured.submit_us)),
        row("submit to start, one client", both(measured.single_to_start_us)),
        row("submit to done, one client", both(measured.single_to_done_us)),
        row("commits (fsyncs) a job, under load", format!("{:.4}", measured.commits_per_job)),
        row("statements of the writer a job, under load", format!("{:.4}", measured.statements_per_job)),
        row("queries of the readers a job, under load", format!("{:.4}", measured.queries_per_job)),
        row("baseline: fsync of a 4 KiB append", rate(measured.baseline.fsyncs_per_second)),
        row("baseline: fork and exec of /bin/true", rate(measured.baseline.processes_per_second)),
        row(&format!("baseline: HTTP echo, {clients} clients"), rate(measured.baseline.echoes_per_second)),
    ];
    rows.extend(
        measured.ratios.iter().map(|(name, ratio)| row(&format!("ratio: {name}"), format!("{ratio:.3}"))),
    );
    table(&["what", "measured"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_and_series_added_up() {
        let text = "# TYPE a counter\na 3\na_total{x=\"1 2\"} 1.5\na_total{x=\"3\"} 2\nodd\n";
        let counters = parse_counters(text);
        assert_eq!((counters["a"], counters["a_total"], counters.len()), (3.0, 3.5, 2));
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        assert_eq!(percentiles((1..=100).rev().collect()), Percentiles { p50: 50, p99: 99 });
        assert_eq!(percentiles(vec![7]), Percentiles { p50: 7, p99: 7 });
        assert_eq!(percentiles(Vec::new()), Percentiles { p50: 0, p99: 0 });
    }
}
