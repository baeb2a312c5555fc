//! The logs of server and node: one object a line, one line for each request, with what finds it again.

use std::time::Duration;

use gristmill_protocol::JobState;
use gristmill_tests::{
    cluster::{NodeOptions, TestCluster},
    eventually, guests,
};
use reqwest::Method;
use rustix::process::Signal;
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

#[tokio::test(flavor = "multi_thread")]
async fn at_the_default_level_the_way_of_a_job_and_the_state_of_server_and_node_are_told() {
    let json = ["--log-format", "json"];
    let cluster = TestCluster::start_with(&json).await;
    let mut options = NodeOptions::named("node-1");
    options.flags.extend(json.map(str::to_owned));
    let mut node = cluster.node(&options).await;
    let api = &cluster.api;
    api.publish("noop", guests::noop()).await.expect("a module");
    let job = api.submit(&small_job("noop")).await.expect("a job").id;
    assert_eq!(api.finished(&job, LIMIT).await.expect("it ends").state, JobState::Succeeded);
    node.signal(Signal::TERM);
    assert!(node.wait(LIMIT).success(), "{}", node.log());

    let said = |log: &str, message: &str| -> Value {
        let found: Vec<_> = lines(log).into_iter().filter(|line| line["message"] == message).collect();
        assert_eq!(found.len(), 1, "{message}: {log}");
        found[0].clone()
    };
    let (server, of_node) = (cluster.server.log(), node.log());
    let serving = said(&server, "serving");
    for field in ["version", "local_addr", "data"] {
        assert!(serving[field].is_string(), "{field}: {serving:#}");
    }
    let accepted = said(&server, "the job was accepted");
    let request = accepted["span"]["request_id"].as_str().expect("an id");
    assert!(request.starts_with("req_") && accepted["trace_id"].is_string(), "{accepted:#}");
    assert!(
        lines(&server)
            .iter()
            .any(|line| line["message"] == "request" && line["span"]["request_id"] == request)
    );
    let enrolled = said(&server, "a node is enrolled");
    let ended = said(&server, "the job ended");
    assert_eq!((&accepted["job"], &ended["job"]), (&job.to_string().into(), &job.to_string().into()));
    assert_eq!((&ended["attempt"], &ended["state"]), (&1.into(), &"succeeded".into()), "{ended:#}");
    assert_eq!((&ended["node"], &ended["zone"]), (&enrolled["node"], &"default".into()), "{ended:#}");

    let up = said(&of_node, "the node is up");
    for field in ["version", "server", "state", "isolation", "zone"] {
        assert!(up[field].is_string(), "{field}: {up:#}");
    }
    let attempt = said(&of_node, "the attempt ended");
    assert_eq!((&attempt["span"]["job"], &attempt["span"]["attempt"]), (&job.to_string().into(), &1.into()));
    assert_eq!(attempt["span"]["trace_id"], accepted["trace_id"], "{attempt:#}");
    for message in ["draining: what runs is finished, nothing new is taken", "drained", "stopping", "stopped"]
    {
        said(&of_node, message);
    }
}
