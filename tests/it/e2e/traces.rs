//! Traces that are exported: a job is one of them, from who submits it to the guest.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use gristmill_tests::{
    cli::{Ended, Home, Started},
    collector::{CollectedSpan, Collector},
    guests, skip,
};

use super::text;

const LIMIT: Duration = Duration::from_secs(120);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A command with the variables that name a collector.
fn with_collector(home: &Home, endpoint: &str, args: &[&str]) -> Command {
    let mut command = home.command(args);
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("OTEL_SERVICE_NAME", "mill")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=tests")
        .env("OTEL_BSP_SCHEDULE_DELAY", "100");
    command
}

/// Whether the binary has the export, by what `doctor` says; `None` after saying that it has not when the run
/// is told to do without.
fn exports(home: &Home, endpoint: &str) -> Option<()> {
    let mut doctor = with_collector(home, endpoint, &["doctor", "--quick", "--output", "json"]);
    let told = Ended::from_output(doctor.output().expect("the binary starts")).json();
    let checks = told["checks"].as_array().expect("checks");
    let check = checks.iter().find(|check| check["name"] == "traces").expect("a check of the export");
    if check["verdict"] == "ok" {
        return Some(());
    }
    skip::without("OTLP", format_args!("a build with `--features otlp`: {check}"));
    None
}

fn dev(home: &Home, endpoint: &str) -> Started {
    let mut dev = Started::new(&mut with_collector(home, endpoint, &["dev", "--listen", "127.0.0.1:0"]));
    dev.wait_for_stdout("Ctrl-C");
    dev
}

/// Runs a program that says its environment, as a part of the caller's trace; what it says of its own trace.
fn traced_run(home: &Home) -> String {
    let module = text(&home.file("says.wasm", guests::prints_environment()));
    let args = ["run", &module, "--env", "PRIVATE=env-s3cret", "--", "argument-s3cret"];
    let mut command = home.command(args);
    command.env("TRACEPARENT", format!("00-{TRACE}-{CALLER}-01"));
    let ended = Ended::from_output(command.output().expect("the binary starts")).expect_code(0).text();
    let said = ended.split('\0').find_map(|pair| pair.strip_prefix("TRACEPARENT="));
    said.unwrap_or_else(|| panic!("no trace in {ended:?}")).to_owned()
}

/// The one span with this name and parent in the caller's trace.
#[track_caller]
fn child<'a>(spans: &'a [CollectedSpan], parent: &str, name: &str) -> &'a CollectedSpan {
    let of_trace = spans.iter().filter(|span| span.trace == TRACE);
    let found: Vec<_> = of_trace.filter(|span| span.name == name && span.parent == parent).collect();
    assert_eq!(found.len(), 1, "{name} below {parent} in {spans:#?}");
    found[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_one_trace_from_who_submits_it_to_the_guest() {
    let collector = Collector::start().await;
    let home = Home::default();
    if tokio::task::block_in_place(|| exports(&home, &collector.endpoint)).is_none() {
        return;
    }
    let seen = tokio::task::block_in_place(|| {
        let dev = dev(&home, &collector.endpoint);
        let seen = traced_run(&home);
        dev.interrupt();
        // The end sends what is left.
        dev.end(LIMIT).expect_code(0);
        seen
    });

    let spans = collector.spans();
    let request = child(&spans, CALLER, "POST /v1/jobs");
    let submit = child(&spans, &request.id, "submit");
    let lease = child(&spans, &submit.id, "lease");
    let attempt = child(&spans, &lease.id, "attempt");
    assert_eq!(seen, format!("00-{TRACE}-{}-01", attempt.id), "the guest's parent is its attempt");
    for phase in ["staging", "compiling", "running", "collecting"] {
        let span = child(&spans, &attempt.id, phase);
        assert!(span.times_ns.0 >= attempt.times_ns.0 && span.times_ns.1 <= attempt.times_ns.1, "{span:#?}");
    }
    assert_eq!((request.kind, attempt.kind), (2, 1));
    assert_eq!(request.attributes["http.response.status_code"], "201");
    assert_eq!(request.attributes["http.route"], "/v1/jobs");
    let job = &submit.attributes["gristmill.job.id"];
    assert!(job.starts_with("job_"), "{job}");
    for span in [lease, attempt] {
        assert_eq!(&span.attributes["gristmill.job.id"], job);
        assert_eq!(span.attributes["gristmill.attempt"], "1");
        assert_eq!(span.attributes["gristmill.zone"], "default");
        assert_eq!(span.attributes["gristmill.tenant"], "default");
        assert!(span.attributes["gristmill.node.id"].starts_with("node_"), "{span:#?}");
    }
    assert_eq!(attempt.attributes["gristmill.outcome.state"], "succeeded");
    for span in &spans {
        assert_eq!(span.resource["service.name"], "mill");
        assert_eq!(span.resource["deployment.environment.name"], "tests");
        assert!(span.times_ns.0 > 0 && span.times_ns.1 >= span.times_ns.0, "{span:#?}");
    }
    let elsewhere = spans.iter().filter(|span| span.trace != TRACE);
    assert!(elsewhere.clone().count() > 0, "calls for work have traces of their own");
    assert!(elsewhere.clone().all(|span| span.name.contains("/v1/")), "{spans:#?}");
    for body in collector.bodies() {
        assert!(!body.windows(6).any(|part| part == b"s3cret"), "content of the job is in the trace");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_is_told_once_and_stops_nothing() {
    let home = Home::default();
    let endpoint = format!("http://127.0.0.1:{}", gristmill_tests::cluster::free_port());
    tokio::task::block_in_place(|| {
        if exports(&home, &endpoint).is_none() {
            return;
        }
        let dev = dev(&home, &endpoint);
        let seen = traced_run(&home);
        assert!(seen.contains(TRACE), "{seen}");
        let ending = Instant::now();
        dev.interrupt();
        let ended = dev.end(LIMIT).expect_code(0);
        assert!(ending.elapsed() < Duration::from_secs(40), "{:?}", ending.elapsed());
        let told = ended.stderr.lines().filter(|line| line.contains("spans were not exported")).count();
        assert!((1..=2).contains(&told), "once when it begins, once at the end: {}", ended.stderr);
    });
}
