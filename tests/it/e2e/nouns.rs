//! What administrators do on the command line, noun by noun, and what the server makes of it.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use gristmill_protocol::{JobState, node::NodeState};
use gristmill_tests::{
    cli::{Ended, Home},
    cluster::TestCluster,
    eventually, guests,
};
use serde_json::Value;

use super::{run_at, text};

const LIMIT: Duration = Duration::from_secs(60);

/// A cluster and a home from which commands are given to it.
struct Desk {
    cluster: TestCluster,
    home: Home,
}

impl Desk {
    async fn start() -> Self {
        Self { cluster: TestCluster::start().await, home: Home::default() }
    }

    /// Runs a command, given as one line, as the administrator.
    fn run(&self, line: &str) -> Ended {
        let args: Vec<&str> = line.split(' ').collect();
        tokio::task::block_in_place(|| run_at(&self.cluster, &self.home, &self.cluster.api.url, &args))
    }

    /// The same, with the token in a file.
    fn run_with_token(&self, secret: &Path, line: &str) -> Ended {
        let mut command = self.home.command(line.split(' '));
        command.arg("--token-file").arg(secret).env("GRISTMILL_SERVER", &self.cluster.api.url);
        Ended::from_output(tokio::task::block_in_place(|| command.output()).expect("the binary starts"))
    }

    fn publish(&self, name: &str, wasm: Vec<u8>) {
        let file = text(&self.home.file(&format!("{name}.wasm"), wasm));
        self.run(&format!("module publish {file} --name {name} --version 1.0.0")).expect_code(0);
    }
}

/// Insists that the text has a line that begins with these words, whatever the blanks between them.
#[track_caller]
fn expect_line(text: &str, start: &str) {
    let words: Vec<&str> = start.split(' ').collect();
    let found = text.lines().any(|line| {
        let line: Vec<&str> = line.split_whitespace().collect();
        line.starts_with(&words)
    });
    assert!(found, "no line {start:?} in:\n{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn modules_are_shown_and_deprecated_and_come_back() {
    let desk = Desk::start().await;
    desk.publish("mill", guests::noop());
    let digest = gristmill_tests::api::digest(&guests::noop());
    let shown = desk.run("module show mill").expect_code(0).text();
    expect_line(&shown, "name mill");
    expect_line(&shown, "latest 1.0.0");
    assert!(shown.contains(&digest) && !shown.contains("deprecated"), "{shown}");
    let version = desk.run("module show mill@1.0.0").expect_code(0).text();
    expect_line(&version, "module mill@1.0.0");
    expect_line(&version, &format!("digest {digest}"));
    assert!(desk.run("module show bill").expect_code(1).stderr.contains("code: not_found"));

    expect_line(&desk.run("module deprecate mill@1.0.0").expect_code(0).text(), "deprecated yes");
    assert!(desk.run("module show mill").expect_code(0).text().contains("deprecated"));
    let refused = desk.run("job submit mill").expect_code(1).stderr;
    assert!(refused.contains("every version of mill is deprecated"), "{refused}");
    desk.run("job submit mill@1.0.0").expect_code(0);
    let back = desk.run("module deprecate mill@1.0.0 --undo").expect_code(0).text();
    assert!(!back.contains("deprecated"), "{back}");
    desk.run("job submit mill").expect_code(0);
    let unnamed = desk.run("module deprecate mill").expect_code(2).stderr;
    assert!(unnamed.contains("NAME@VERSION"), "{unnamed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_has_ended_is_submitted_again_as_a_new_job_and_says_how_it_ended() {
    let desk = Desk::start().await;
    let _node = desk.cluster.node(&gristmill_tests::cluster::NodeOptions::named("node-1")).await;
    desk.publish("fails", guests::exits_with(3));
    let limits = "--cpus 0.5 --memory 64MiB";
    let first = desk.run(&format!("job submit fails {limits}")).expect_code(0).text().trim().to_owned();
    desk.run(&format!("job wait {first} --wait-timeout 60s")).expect_code(3);
    let explained = desk.run(&format!("job explain {first}")).expect_code(0).text();
    expect_line(&explained, "runnable ended");
    expect_line(&explained, "summary the job has ended: failed (exit_code)");
    let again = desk.run(&format!("job retry {first}")).expect_code(0).text().trim().to_owned();
    assert!(again.starts_with("job_") && again != first, "{again}");
    desk.run(&format!("job wait {again} --wait-timeout 60s")).expect_code(3);
    let shown = desk.run(&format!("job get {again} --output json")).expect_code(0).json();
    assert_eq!((&shown["module"]["name"], &shown["exit_code"]), (&"fails".into(), &3.into()), "{shown:#}");

    desk.publish("spins", guests::spins_for_ever());
    let runs = desk.run(&format!("job submit spins {limits}")).expect_code(0).text().trim().to_owned();
    assert!(desk.run(&format!("job retry {runs}")).expect_code(1).stderr.contains("code: conflict"));
    desk.run(&format!("job cancel {runs}")).expect_code(0);
    desk.run(&format!("job wait {runs} --wait-timeout 60s")).expect_code(4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_drained_resumed_and_revoked_by_its_name() {
    let desk = Desk::start().await;
    let mut node = desk.cluster.node(&gristmill_tests::cluster::NodeOptions::named("node-1")).await;
    desk.publish("mill", guests::noop());
    let api = &desk.cluster.api;
    expect_line(&desk.run("node drain node-1").expect_code(0).text(), "state draining");
    let submit = "job submit mill --cpus 0.5 --memory 64MiB";
    let id = desk.run(submit).expect_code(0).text().trim().to_owned();
    let explained = desk.run(&format!("job explain {id}")).expect_code(0).text();
    expect_line(&explained, "summary the job waits: node node-1 drains");
    assert_eq!(desk.run(&format!("job wait {id} --wait-timeout 2s")).code, 5, "a drained node takes nothing");
    expect_line(&desk.run("node resume node-1").expect_code(0).text(), "state active");
    desk.run(&format!("job wait {id} --wait-timeout 60s")).expect_code(0);

    expect_line(&desk.run("node revoke node-1").expect_code(0).text(), "state revoked");
    let status = tokio::task::block_in_place(|| node.wait(LIMIT));
    assert!(!status.success() && node.log().contains("revoked"), "{}", node.log());
    assert_eq!(api.nodes().await.expect("the nodes")[0].state, NodeState::Revoked);
    let unknown = desk.run("node drain node-2").expect_code(1).stderr;
    assert!(unknown.contains("there is no node \"node-2\"") && unknown.contains("hint: "), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn zones_are_made_listed_shown_and_changed() {
    let desk = Desk::start().await;
    expect_line(&desk.run("zone list").expect_code(0).text(), "default all any any");
    let made = desk.run("zone create lab --description closed --tenants default").expect_code(0).text();
    expect_line(&made, "name lab");
    expect_line(&made, "tenants default");
    expect_line(&desk.run("zone list").expect_code(0).text(), "lab default any any closed");
    desk.run("zone set lab --tenants all --slot-max-cpus 2 --slot-max-memory 1GiB").expect_code(0);
    let shown = desk.run("zone show lab --output json").expect_code(0).json();
    assert_eq!(shown["description"], "closed", "what is not given stays: {shown:#}");
    assert_eq!(shown["policy"]["slot_max"]["memory_bytes"], 1 << 30, "{shown:#}");
    let people = desk.run("zone show lab").expect_code(0).text();
    expect_line(&people, "tenants all");
    expect_line(&people, "version 2");
    assert!(desk.run("zone show nowhere").expect_code(1).stderr.contains("code: not_found"));
    assert!(desk.run("zone create lab").expect_code(1).stderr.contains("code: conflict"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_and_tokens_are_made_used_and_taken_back() {
    let desk = Desk::start().await;
    expect_line(&desk.run("tenant create acme --queue-depth-max 1500").expect_code(0).text(), "name acme");
    expect_line(&desk.run("tenant list").expect_code(0).text(), "acme 1,500");
    expect_line(&desk.run("tenant show acme").expect_code(0).text(), "queue depth 1,500");
    let kept = desk.run("tenant set acme --keep-jobs 7d --keep-bytes-max 2GiB").expect_code(0).text();
    expect_line(&kept, "keeps jobs for 7d, at most 2GiB");
    expect_line(&kept, "queue depth 1,500");
    let less = desk.run("tenant set acme --keep-jobs default --output json").expect_code(0).json();
    assert_eq!(less["retention"], serde_json::json!({"bytes_max": 2_u64 << 30}));
    assert!(desk.run("tenant show nobody").expect_code(1).stderr.contains("code: not_found"));

    let secret = desk.home.path().join("bot.token");
    let create =
        "token create --name bot --tenant acme --scopes read,submit --ttl 1h --secret-file bot.token";
    let made = desk.run(create).expect_code(0).text();
    assert!(made.contains("in bot.token") && !made.contains("gmu_"), "{made}");
    assert!(fs::read_to_string(&secret).expect("the secret").starts_with("gmu_"));
    let allowed = fs::metadata(&secret).expect("the file").permissions().mode();
    assert_eq!(allowed & 0o777, 0o600);
    let shown = desk.run("token create --name shown --output json").expect_code(0).json();
    assert!(shown["secret"].as_str().is_some_and(|text| text.starts_with("gmu_")), "{shown:#}");

    // It acts for its tenant, as far as its scopes go.
    desk.publish("mill", guests::noop());
    let modules = desk.run_with_token(&secret, "module list --output json").expect_code(0).json();
    assert_eq!(modules["items"], Value::Array(Vec::new()), "the module belongs to another tenant");
    let own = desk.run_with_token(&secret, "tenant list --output json").expect_code(0).json();
    let names: Vec<_> =
        own["items"].as_array().expect("a list").iter().map(|tenant| &tenant["name"]).collect();
    assert_eq!(names, ["acme"], "others are not shown");
    let refused = desk.run_with_token(&secret, "tenant create other").expect_code(1).stderr;
    assert!(refused.contains("code: forbidden"), "{refused}");

    let listed = desk.run("token list").expect_code(0).text();
    let line = listed.lines().find(|line| line.contains(" bot ")).expect("the token is listed").to_owned();
    assert!(line.contains("acme") && line.contains("read,submit") && !listed.contains("gmu_"), "{listed}");
    let id = line.split_whitespace().next().expect("an id").to_owned();
    assert_eq!(
        desk.run(&format!("token revoke {id}")).expect_code(0).text().trim(),
        format!("{id} is revoked")
    );
    let refused = desk.run_with_token(&secret, "module list").expect_code(1).stderr;
    assert!(refused.contains("code: unauthenticated"), "{refused}");
    let listed = desk.run("token list").expect_code(0).text();
    assert!(listed.lines().any(|line| line.starts_with(&id) && line.contains("revoked")), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn contexts_are_saved_chosen_cleared_and_removed_without_showing_a_token() {
    let desk = Desk::start().await;
    let (home, url) = (&desk.home, &desk.cluster.api.url);
    let run = |line: &str| tokio::task::block_in_place(|| home.run(line.split(' ')));
    home.file("admin.token", &desk.cluster.api.token);
    let none = run("job list").expect_code(1).stderr;
    assert!(none.contains("no server is configured"), "{none}");
    assert!(run("context set here").expect_code(2).stderr.contains("--server"));
    let set = run(&format!("context set here --server {url} --token-file admin.token")).expect_code(0).text();
    expect_line(&set, &format!("* here {url} yes"));
    run("job list").expect_code(0);
    let mut from_variables = home.command(["context", "set", "here"]);
    from_variables.env("GRISTMILL_SERVER", url).env("GRISTMILL_TOKEN", &desk.cluster.api.token);
    let set = Ended::from_output(from_variables.output().expect("the binary starts")).expect_code(0).text();
    expect_line(&set, &format!("* here {url} yes"));
    run("job list").expect_code(0);
    // The one that was saved last is the current one.
    let both = run("context set there --server http://127.0.0.1:9").expect_code(0).text();
    expect_line(&both, "* there http://127.0.0.1:9 no");
    expect_line(&both, &format!("here {url} yes"));
    run("job list").expect_code(1);
    run("job list --context here").expect_code(0);
    expect_line(&run("context use here").expect_code(0).text(), &format!("* here {url} yes"));
    run("job list").expect_code(0);

    let cleared = run("context clear --output json").expect_code(0).json();
    assert_eq!((&cleared["current"], cleared["items"].as_array().map(Vec::len)), (&Value::Null, Some(2)));
    assert!(run("job list").expect_code(1).stderr.contains("no server is configured"));
    run("context use here").expect_code(0);
    let left = run("context remove here").expect_code(0).text();
    assert!(!left.contains("here ") || left.contains("there "), "{left}");
    let listed = run("context list --output json").expect_code(0).json();
    assert_eq!(
        (&listed["current"], &listed["items"][0]["name"]),
        (&Value::Null, &"there".into()),
        "{listed:#}"
    );
    assert!(!both.contains("gmu_") && !listed.to_string().contains("gmu_"));
    assert!(run("context remove here").expect_code(2).stderr.contains("there is no context"));
}

#[tokio::test(flavor = "multi_thread")]
async fn params_reach_the_guest_as_a_file() {
    let desk = Desk::start().await;
    let _node = desk.cluster.node(&gristmill_tests::cluster::NodeOptions::named("node-1")).await;
    let params = serde_json::json!({ "rows": 7, "names": ["a", "\u{e4}"], "deep": { "x": null } });
    desk.home.file("params.json", params.to_string());
    desk.publish("prints", guests::prints_params());
    let limits = "--cpus 0.5 --memory 64MiB";
    let ended = desk.run(&format!("run prints --params params.json {limits}")).expect_code(0);
    assert_eq!(ended.json(), params);
    assert_eq!(desk.run(&format!("run prints {limits}")).expect_code(3).text(), "", "there is none");
    // The same without a server.
    let local = desk.run(&format!("run --local prints.wasm --params params.json {limits}")).expect_code(0);
    assert_eq!(local.json(), params);

    // What does not satisfy the module's schema never becomes a job.
    desk.home.file("schema.json", r#"{"type":"object","required":["rows"]}"#);
    desk.run("module publish prints.wasm --name strict --version 1.0.0 --params-schema schema.json")
        .expect_code(0);
    desk.run(&format!("run strict --params params.json {limits}")).expect_code(0);
    desk.home.file("wrong.json", "{}");
    let refused = desk.run(&format!("job submit strict --params wrong.json {limits}")).expect_code(1).stderr;
    assert!(refused.contains("rows"), "{refused}");
    let jobs =
        eventually("the list", LIMIT, || async { desk.cluster.api.get::<Value>("/v1/jobs").await.ok() });
    let jobs = jobs.await;
    let ended = jobs["items"].as_array().expect("a list");
    assert_eq!(ended.len(), 3, "{jobs:#}");
    assert!(ended.iter().all(|job| job["state"] != JobState::Queued.as_str()), "{jobs:#}");
}
