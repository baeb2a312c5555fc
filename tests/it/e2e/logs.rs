//! The logs of server and node: one object a line, one line for each request, with what finds it again.

use std::time::Duration;

use gristmill_protocol::JobState;
use gristmill_tests::{
    cluster::{NodeOptions, TestCluster},
    eventually, guests,
};
use reqwest::Method;
use serde_json::Value;

use super::small_job;

const LIMIT: Duration = Duration::from_secs(120);

/// The lines that a process has logged, each of which must be a JSON object.
fn lines(log: &str) -> Vec<Value> {
    log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_has_one_line_and_jobs_are_found_by_their_ids() {
    let debug = ["--log-level", "debug", "--log-format", "json"];
    let cluster = TestCluster::start_with(&debug).await;
    let mut options = NodeOptions::named("node-1");
    options.flags.extend(debug.map(str::to_owned));
    let node = cluster.node(&options).await;
    let api = &cluster.api;
    api.publish("noop", guests::noop()).await.expect("a module");
    let job = api.submit(&small_job("noop")).await.expect("a job").id;
    let ended = api.finished(&job, LIMIT).await.expect("it ends");
    assert_eq!(ended.state, JobState::Succeeded);

    let asked = api.request(Method::GET, &format!("/v1/jobs/{job}")).send().await.expect("an answer");
    let id = asked.headers()["x-request-id"].to_str().expect("text").to_owned();
    let length = asked.bytes().await.expect("the body").len();
    let line = eventually("the request's line", LIMIT, || async {
        let lines = lines(&cluster.server.log());
        let of_request =
            |line: &&Value| line["message"] == "request" && line["span"]["request_id"] == id.as_str();
        let found: Vec<_> = lines.iter().filter(of_request).cloned().collect();
        assert!(found.len() <= 1, "{found:#?}");
        found.into_iter().next()
    })
    .await;
    for (field, value) in [
        ("route", Value::from("/v1/jobs/{id}")),
        ("status", Value::from(200)),
        ("bytes", Value::from(length)),
        ("is_sent", Value::from(true)),
        ("tenant", Value::from("default")),
    ] {
        assert_eq!(line[field], value, "{field}: {line:#}");
    }
    assert!(line["token"].as_str().is_some_and(|token| token.starts_with("tok_")), "{line:#}");
    assert!(line["elapsed_us"].as_u64().is_some_and(|us| us > 0), "{line:#}");
    assert_eq!(line["span"]["job"], job.to_string(), "{line:#}");
    assert_eq!(line["span"]["method"], "GET", "{line:#}");

    let attempt = eventually("the attempt's line", LIMIT, || async {
        lines(&node.log()).into_iter().find(|line| line["message"] == "the attempt ended")
    })
    .await;
    assert_eq!((&attempt["span"]["job"], &attempt["span"]["attempt"]), (&job.to_string().into(), &1.into()));
    for log in [cluster.server.log(), node.log()] {
        assert!(!log.contains(&api.token) && !log.contains("gmj_"), "a secret is in a log");
    }
}
