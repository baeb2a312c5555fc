//! What those who watch see: metrics, what reads them, and traces.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

use gristmill_protocol::{JobId, JobState, JobView};
use gristmill_tests::{
    api::Api,
    cli::Home,
    cluster::{NodeOptions, TestCluster},
    eventually, guests, repository, skip,
};
use reqwest::Method;
use serde_json::{Value, json};

use super::{dashboards, small_job};

const LIMIT: Duration = Duration::from_secs(120);

async fn metrics(api: &Api) -> String {
    let answer = api.request(Method::GET, "/metrics").send().await.expect("an answer");
    answer.text().await.expect("text")
}

/// Names of series: the first words of lines that are no comments.
fn series(metrics: &str) -> BTreeSet<&str> {
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split(['{', ' ']).next()).collect()
}

/// Words of an expression that look like metrics of the server.
fn named(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("gristmill_") || word.starts_with("process_"))
}

/// Gives `input` to promtool; `None` after saying so when the run is told to do without it.
fn promtool(args: &[&str], input: &str) -> Option<()> {
    let started = Command::new("promtool")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            skip::without("PROMTOOL", format_args!("promtool (Debian: prometheus): {error}"));
            return None;
        }
    };
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "promtool {args:?}:\n{said}");
    Some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_are_well_formed_and_have_all_that_alerts_and_dashboard_ask_for() {
    let (cluster, _node) = TestCluster::with_node().await;
    let api = &cluster.api;
    api.publish("grinds", guests::computes(2)).await.expect("a module");
    api.publish("fails", guests::exits_with(3)).await.expect("a module");
    for (module, state) in
        [("grinds", JobState::Succeeded), ("grinds", JobState::Succeeded), ("fails", JobState::Failed)]
    {
        let id = api.submit(&small_job(module)).await.expect("a job").id;
        assert_eq!(api.finished(&id, LIMIT).await.expect("an end").state, state);
    }
    let _ = api.get::<Value>("/v1/nowhere").await;
    let text = metrics(api).await;
    let found = series(&text);
    for (name, least) in [
        ("gristmill_queue_wait_seconds_count", 3.0),
        ("gristmill_attempt_duration_seconds_count", 3.0),
        ("gristmill_store_commit_seconds_count", 3.0),
        ("gristmill_lease_claim_seconds_count", 1.0),
        ("process_open_fds", 5.0),
        ("process_cpu_seconds_total", 0.001),
        ("process_resident_memory_bytes", 1e6),
        ("process_start_time_seconds", 1.7e9),
    ] {
        let value = api.metric(name).await.expect(name);
        assert!(value >= least, "{name} is {value}");
    }
    for line in [
        "gristmill_jobs_finished_total{state=\"failed\",reason=\"exit_code\"} 1",
        "gristmill_nodes{zone=\"default\",state=\"active\"} 1",
        "gristmill_node_cores{zone=\"default\"} 4",
        "gristmill_jobs_queued{zone=\"_any\"} 0",
        "gristmill_queue_oldest_age_seconds 0",
        "gristmill_http_request_duration_seconds_count{route=\"/v1/jobs\",method=\"POST\",status=\"201\"} 3",
        "gristmill_http_request_duration_seconds_count{route=\"unknown\",method=\"GET\",status=\"404\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    assert!(!text.contains("node-1") && !text.contains("grinds"), "a name is in\n{text}");

    let deploy = repository().join("deploy");
    let rules = deploy.join("prometheus/gristmill.rules.yml");
    let rule_text = fs::read_to_string(&rules).expect("the rules");
    let expressions = rule_text.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    let dashboard = dashboards::dashboard();
    let asked: Vec<_> =
        dashboards::expressions(&dashboard).into_iter().map(|(_, expression)| expression).collect();
    assert!(asked.len() > 30, "{} expressions", asked.len());
    let wanted: BTreeSet<_> = expressions.chain(asked.iter().copied()).flat_map(named).collect();
    let missing: Vec<_> = wanted.difference(&found).collect();
    assert!(
        wanted.len() > 20 && missing.is_empty(),
        "{missing:?} are asked for, but /metrics has\n{found:?}"
    );

    // Every expression of the dashboard as a rule, so that promtool reads it.
    let rules_of_panels = asked.iter().enumerate().map(|(number, expression)| {
        let expression = expression.replace("$__rate_interval", "5m");
        json!({ "record": format!("panel:{number}"), "expr": expression })
    });
    let rules_of_panels =
        json!({ "groups": [{ "name": "panels", "rules": rules_of_panels.collect::<Vec<_>>() }] });
    let file = cluster.dir.path().join("panels.json");
    fs::write(&file, rules_of_panels.to_string()).expect("written");
    if promtool(&["check", "metrics"], &text).is_some() {
        promtool(&["check", "rules", &super::text(&rules), &super::text(&file)], "");
        let config = deploy.join("prometheus/prometheus.yml");
        promtool(&["check", "config", "--syntax-only", &super::text(&config)], "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_the_deployment_files_is_made_as_they_say_and_reads_the_metrics() {
    let cluster = TestCluster::start().await;
    let home = Home::default();
    let deploy = repository().join("deploy");
    let folder = super::text(home.path());
    for page in ["prometheus/prometheus.yml", "README.md"] {
        let text = fs::read_to_string(deploy.join(page)).expect("the file");
        let line = text.lines().find(|line| line.contains("gristmill token create")).expect("the command");
        let line = line.trim_start_matches(['#', ' ']).replace("/etc/prometheus", &folder);
        let words: Vec<_> = line.split_whitespace().skip(1).collect();
        super::run_at(&cluster, &home, &cluster.api.url, &words).expect_code(0);
        let file = home.path().join("gristmill.token");
        // As Prometheus sends it: the content of the file, without white space around it.
        let secret = fs::read_to_string(&file).expect("the file that prometheus.yml names");
        let reader = Api::new(&cluster.api.url, secret.trim());
        let answer = reader.request(Method::GET, "/metrics").send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{page}: {line}");
        let jobs = reader.request(Method::GET, "/v1/jobs").send().await.expect("an answer");
        assert_eq!(jobs.status(), 403, "{page}: the token does nothing else");
        fs::remove_file(file).expect("removed");
    }
}

/// Submits a job with a header `traceparent`; the status and the job.
async fn submit_traced(api: &Api, traceparent: &str, key: &str) -> (u16, JobView) {
    let request = api.request(Method::POST, "/v1/jobs").header("traceparent", traceparent);
    let sent =
        request.header("idempotency-key", key).json(&small_job("says")).send().await.expect("an answer");
    (sent.status().as_u16(), sent.json().await.expect("a job"))
}

/// What the guest of a job's first attempt found in `TRACEPARENT`.
async fn trace_in_guest(api: &Api, job: &JobId) -> String {
    let ended = api.finished(job, LIMIT).await.expect("an end");
    assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
    let said = api.log(job, 1, "stdout").await.expect("a log");
    let said = String::from_utf8(said).expect("text");
    said.split('\0').find_map(|pair| pair.strip_prefix("TRACEPARENT=")).expect("the variable").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_from_the_submit_through_the_node_to_the_guest_and_into_the_log() {
    let cluster = TestCluster::start().await;
    let mut options = NodeOptions::named("node-1");
    options.flags.extend(["--log-level", "info,gristmill_node=debug"].map(str::to_owned));
    let node = cluster.node(&options).await;
    let api = &cluster.api;
    api.publish("says", guests::prints_environment()).await.expect("a module");

    let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let (status, job) = submit_traced(api, &format!("00-{trace}-{span}-00"), "first").await;
    assert_eq!(status, 201);
    let seen = trace_in_guest(api, &job.id).await;
    let parts: Vec<_> = seen.split('-').collect();
    assert!(parts.len() == 4 && parts[0] == "00" && parts[1] == trace && parts[3] == "00", "{seen}");
    assert!(parts[2].len() == 16 && parts[2] != span, "the attempt has a span of its own: {seen}");
    eventually("the trace to be in the node's log", LIMIT, || async {
        let log = node.log();
        log.lines().any(|line| line.contains(trace) && line.contains(&job.id.to_string())).then_some(())
    })
    .await;

    let (status, again) = submit_traced(api, &format!("00-{trace}-{}-01", "1".repeat(16)), "first").await;
    assert_eq!((status, again.id), (200, job.id), "another span makes no other request");
    for (key, wrong) in [("second", "00-short-01"), ("third", &format!("00-{}-{span}-01", "0".repeat(32)))] {
        let (status, job) = submit_traced(api, wrong, key).await;
        assert_eq!(status, 201, "a wrong header is ignored");
        let seen = trace_in_guest(api, &job.id).await;
        assert!(!seen.contains(trace) && !seen.contains(&"0".repeat(32)) && seen.len() == 55, "{seen}");
    }
}
