//! What an attempt used, where people and monitoring look for it; and how its node is isolated.

use std::time::Duration;

use gristmill_protocol::{JobSpec, JobState, OuterLimit, Usage, node::NodeView};
use gristmill_tests::{api::Api, cli::Home, cluster::TestCluster, guests};

use super::{file_input, run_at, small_job};

#[tokio::test(flavor = "multi_thread")]
async fn what_attempts_used_is_in_the_api_on_the_command_line_and_in_the_metrics() {
    let (cluster, _node) = TestCluster::with_node().await;
    let api = &cluster.api;
    api.publish("computes", guests::computes(1_000)).await.expect("a module");
    let mut hits = Vec::new();
    let mut job = None;
    for _ in 0..2 {
        let submitted = api.submit(&small_job("computes")).await.expect("a job");
        let ended = api.finished(&submitted.id, Duration::from_secs(60)).await.expect("it ends");
        let attempts = api.attempts(&ended.id).await.expect("its attempts");
        let usage = attempts[0].usage.clone().expect("a finished attempt has its usage");
        assert_eq!(ended.usage.as_ref(), Some(&usage));
        for (what, value) in [
            ("fuel", usage.fuel),
            ("wall", usage.wall_us),
            ("staging", usage.stage_us),
            ("compiling", usage.compile_us),
            ("collecting", usage.collect_us),
            ("peak memory", usage.memory_peak_bytes),
        ] {
            assert!(value.is_some(), "{what} is missing in {usage:#?}");
        }
        hits.push(usage.compile_cache_hit);
        job = Some(ended.id);
    }
    assert_eq!(hits, [Some(false), Some(true)]);

    let id = job.expect("two jobs").to_string();
    let home = Home::default();
    let at = |args: &[&str]| run_at(&cluster, &home, &api.url, args).expect_code(0).text();
    for text in [at(&["job", "get", &id]), at(&["job", "attempts", &id])] {
        assert!(text.contains("(cached)"), "{text}");
    }
    let line = run_at(&cluster, &home, &api.url, &["run", "computes", "--cpus", "0.5", "--memory", "256MiB"])
        .expect_code(0)
        .stderr;
    for part in [
        "; fuel ",
        "; cpu ",
        "; wall ",
        "; staging ",
        "; compiling ",
        "(cached); collecting ",
        "; output 6 B",
    ] {
        assert!(line.contains(part), "{part:?} is missing in {line}");
    }
    for (name, least) in [
        ("gristmill_jobs_submitted_total", 3.0),
        ("gristmill_jobs_finished_total{state=\"succeeded\"}", 3.0),
        ("gristmill_attempts_ended_total{state=\"succeeded\"}", 3.0),
        ("gristmill_attempt_duration_seconds_count", 3.0),
        ("gristmill_attempt_phase_seconds_count{phase=\"run\"}", 3.0),
        ("gristmill_compiled_code_lookups_total{hit=\"true\"}", 2.0),
        ("gristmill_attempt_memory_peak_bytes_count", 3.0),
        ("gristmill_attempt_memory_peak_bytes_sum", 3.0 * 65_536.0),
        ("gristmill_attempt_disk_peak_bytes_count", 3.0),
        ("gristmill_attempt_fuel_total", 3_000.0),
    ] {
        let value = api.metric(name).await.expect("a metric");
        assert!(value >= least, "{name} is {value}");
    }
}

async fn used_by(api: &Api, spec: &JobSpec) -> Usage {
    let id = api.submit(spec).await.expect("a job").id;
    let ended = api.finished(&id, Duration::from_secs(120)).await.expect("it ends");
    assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
    ended.usage.expect("a finished job has its usage")
}

#[tokio::test(flavor = "multi_thread")]
async fn cpu_time_and_bytes_read_and_written_are_those_of_the_guest_and_add_up_in_the_metrics() {
    const INPUT_BYTES: usize = 3_000_001;
    /// What `computes` writes: a line and an output.
    const COMPUTED_BYTES: u64 = 6 + 6;
    let (cluster, _node) = TestCluster::with_node().await;
    let api = &cluster.api;
    // About 0.4 s on one core; and one that has next to nothing to compute.
    api.publish("computes", guests::computes(200_000_000)).await.expect("a module");
    api.publish("rests", guests::computes(1)).await.expect("a module");
    api.publish("copies", guests::copies()).await.expect("a module");
    let busy = used_by(api, &small_job("computes")).await;
    let idle = used_by(api, &small_job("rests")).await;
    let (cpu, wall) = (busy.cpu_us.expect("measured"), busy.wall_us.expect("measured"));
    assert!(cpu > 20_000 && cpu <= wall, "{busy:#?}");
    assert!(idle.cpu_us.expect("measured") < cpu / 4, "{idle:#?} and {busy:#?}");
    for usage in [&busy, &idle] {
        assert_eq!((usage.read_bytes, usage.written_bytes), (Some(0), Some(COMPUTED_BYTES)), "{usage:#?}");
    }

    let digest = api.put_blob(vec![7; INPUT_BYTES]).await.expect("an input");
    let mut spec = small_job("copies");
    spec.inputs.push(file_input("big", &digest));
    let copied = used_by(api, &spec).await;
    let bytes = INPUT_BYTES as u64;
    assert_eq!((copied.read_bytes, copied.written_bytes), (Some(bytes), Some(bytes)), "{copied:#?}");
    assert_eq!((copied.input_bytes, copied.output_bytes), (Some(bytes), Some(bytes)), "{copied:#?}");

    let cpu: u64 = [busy.cpu_us, idle.cpu_us, copied.cpu_us].into_iter().flatten().sum();
    let metric = |name: &'static str| async move { api.metric(name).await.expect("a metric") };
    let counted = metric("gristmill_attempt_cpu_seconds_total").await;
    assert!((counted - cpu as f64 / 1e6).abs() < 1e-5, "{counted} s of {cpu} us");
    for (name, expected) in [
        ("gristmill_attempt_read_bytes_total", bytes),
        ("gristmill_attempt_written_bytes_total", bytes + 2 * COMPUTED_BYTES),
        ("gristmill_attempt_input_bytes_total", bytes),
        ("gristmill_attempt_output_bytes_total", bytes + 2 * 6),
    ] {
        assert_eq!(metric(name).await as u64, expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_isolation_is_shown_and_a_stronger_one_is_refused_by_name() {
    let (cluster, _node) = TestCluster::with_node().await;
    let api = &cluster.api;
    let home = Home::default();
    let at = |args: &[&str]| run_at(&cluster, &home, &api.url, args);
    let shown = at(&["node", "show", "node-1", "--output", "json"]).expect_code(0).json();
    let node: NodeView = serde_json::from_value(shown).expect("a node");
    let has = node.capabilities.isolation.level().expect("tests need no weak isolation");
    assert!(at(&["node", "list"]).expect_code(0).text().contains(has.as_str()));
    assert!(at(&["node", "show", "node-1"]).expect_code(0).text().contains(has.as_str()));

    api.publish("noop", guests::noop()).await.expect("a module");
    for level in OuterLimit::ALL.iter().copied() {
        let run = ["run", "noop", "--cpus", "0.5", "--memory", "64MiB", "--isolation", level.as_str()];
        let ended = at(&run);
        if level <= has {
            ended.expect_code(0);
            continue;
        }
        assert!(ended.stderr.contains("never_runnable"), "{}", ended.stderr);
        let explained =
            at(&[&["job", "submit", "--validate-only"], &run[1..]].concat()).expect_code(0).text();
        let why = format!("the job asks for isolation {level} or stronger, the node has {has}");
        assert!(explained.contains(&why), "{explained}");
    }
    let level = OuterLimit::ALL.iter().copied().max().expect("there are levels").as_str();
    let zone = at(&["zone", "set", "default", "--isolation", level]).expect_code(0).text();
    assert!(zone.contains(level), "{zone}");
    let ended = at(&["run", "noop", "--cpus", "0.5", "--memory", "64MiB"]);
    assert_eq!(ended.code == 0, level == has.as_str(), "{}", ended.stderr);
    at(&["zone", "set", "default", "--no-isolation"]).expect_code(0);
    at(&["run", "noop", "--cpus", "0.5", "--memory", "64MiB"]).expect_code(0);
}
