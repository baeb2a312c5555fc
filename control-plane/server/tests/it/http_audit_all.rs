//! The record of changes is complete: every operation that changes something leaves what it should, and
//! so does what the server does by itself.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use gristmill_protocol::{
    audit::{AuditOperation, AuditView},
    node_api::LEASE_HEADER,
    tenancy::Scope,
};
use gristmill_server::{
    Server, ServerConfig,
    backup::{BackupOptions, back_up},
    data_dir::DataDir,
    ops,
    restore::restore,
    store::{Store, audit::AuditQuery},
};
use serde_json::{Value, json};

use crate::{
    backend::scratch_dir,
    http_api::{Answer, Api, Call, Node, call, command, digest},
};

/// The newest entries, oldest first.
async fn entries(store: &dyn Store) -> Vec<AuditView> {
    let query = AuditQuery { limit: 1_000, ..AuditQuery::default() };
    let mut entries = store.audit_list(query).await.expect("the record is read");
    entries.reverse();
    entries
}

/// What was done, to what.
fn told(entries: &[AuditView]) -> Vec<(&'static str, &str)> {
    entries.iter().map(|entry| (entry.operation.as_str(), entry.object.as_str())).collect()
}

/// Calls that are made one after the other, each held against the record.
struct Tour {
    api: Api,
    node: Node,
    /// Method, segments of the path and name of all operations that may change something.
    operations: Vec<(String, Vec<String>, String)>,
    done: BTreeSet<String>,
}

impl Tour {
    async fn begin() -> Self {
        let api = Api::start().await;
        let document = api.send(call("GET", "/openapi.json")).await.json();
        let mut operations = Vec::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                if ["post", "put", "patch", "delete"].contains(&method.as_str()) {
                    let segments = path.split('/').map(str::to_owned).collect();
                    let name = operation["operationId"].as_str().expect("a name").to_owned();
                    operations.push((method.to_uppercase(), segments, name));
                }
            }
        }
        assert!(operations.len() > 25, "{operations:?}");
        Self { api, node: Node::new(9), operations, done: BTreeSet::new() }
    }

    fn name_of(&self, call: &Call) -> String {
        let path = call.target.split('?').next().unwrap_or_default();
        let parts: Vec<_> = path.split('/').collect();
        let found = self.operations.iter().find(|(method, segments, _)| {
            method == call.method
                && segments.len() == parts.len()
                && segments.iter().zip(&parts).all(|(own, part)| own == part || own.starts_with('{'))
        });
        found.unwrap_or_else(|| panic!("no operation for {} {path}", call.method)).2.clone()
    }

    /// Makes a call as the admin, or as the node, that must succeed and leave these entries.
    async fn step(&mut self, call: Call, is_node: bool, expected: &[&str]) -> Answer {
        let name = self.name_of(&call);
        let before = entries(&*self.api.app.store).await.last().map_or(0, |entry| entry.seq);
        let answer =
            if is_node { self.api.signed(&self.node, call).await } else { self.api.admin(call).await };
        assert!(answer.status.is_success(), "{name}: {} {}", answer.status, answer.json());
        let all = entries(&*self.api.app.store).await;
        let news: Vec<_> = all.into_iter().filter(|entry| entry.seq > before).collect();
        let operations: Vec<_> = news.iter().map(|entry| entry.operation.as_str()).collect();
        assert_eq!(operations, expected, "{name}");
        for entry in &news {
            assert_eq!(entry.request_id.as_deref(), answer.header("x-request-id"), "{name}: {entry:?}");
            assert_eq!(entry.outcome.as_str(), "done", "{name}: {entry:?}");
            assert!(entry.actor.starts_with("tok_") || entry.operation == AuditOperation::NodeEnroll);
        }
        self.done.insert(name);
        answer
    }

    async fn user(&mut self, call: Call, expected: &[&str]) -> Value {
        self.step(call, false, expected).await.json()
    }

    /// What a node does for its own leases is in the events, and bytes on their way are nothing yet.
    async fn node(&mut self, call: Call) -> Value {
        self.step(call, true, &[]).await.json()
    }

    async fn upload(&mut self, length: u64) -> String {
        let begin = call("POST", "/v1/uploads").header("tus-resumable", "1.0.0");
        let begin = begin.header("upload-length", length.to_string());
        let answer = self.step(begin, false, &["upload_create"]).await;
        answer.header("location").expect("a place").to_owned()
    }
}

fn post(target: impl Into<String>, body: &Value) -> Call {
    call("POST", target).json(body)
}

fn piece(method: &'static str, target: &str, offset: u64, bytes: &'static str) -> Call {
    call(method, target)
        .header("tus-resumable", "1.0.0")
        .header("upload-offset", offset.to_string())
        .header("content-type", "application/offset+octet-stream")
        .bytes(bytes)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

async fn modules_and_tenancy(tour: &mut Tour) {
    let blob = format!("/v1/blobs/{}", digest(b"grain"));
    tour.user(call("PUT", blob).bytes("grain"), &["blob_put"]).await;
    let version = "/v1/modules/mill/versions/1.0.0";
    tour.user(call("PUT", version).bytes(command()), &["module_publish"]).await;
    let public = call("PATCH", "/v1/modules/mill").json(&json!({"visibility": "public"}));
    tour.user(public, &["module_change"]).await;
    let kept = call("PATCH", version).json(&json!({"deprecated": false}));
    tour.user(kept, &["module_version_change"]).await;
    tour.user(post("/v1/tenants", &json!({"name": "third"})), &["tenant_create"]).await;
    tour.user(post("/v1/zones", &json!({"name": "lab"})), &["zone_create"]).await;
    tour.user(call("PUT", "/v1/tenants/third").json(&json!({"name": "third"})), &["tenant_replace"]).await;
    tour.user(call("PUT", "/v1/zones/lab").json(&json!({"name": "lab"})), &["zone_replace"]).await;
    for (method, rest) in [("POST", "/revoke"), ("DELETE", "")] {
        let token = tour.user(post("/v1/tokens", &json!({"name": "ci"})), &["token_create"]).await;
        let target = format!("/v1/tokens/{}{rest}", text(&token["token"]["id"]));
        tour.user(call(method, target), &["token_revoke"]).await;
    }
}

async fn a_job_on_a_node(tour: &mut Tour) -> String {
    let join = tour.user(post("/v1/join-tokens", &json!({"zone": "default"})), &["join_token_create"]).await;
    let enroll = tour.node.enroll_request("grinder", &text(&join["secret"]));
    let node = tour.user(post("/v1/node/enroll", &enroll), &["node_enroll"]).await;
    let last = entries(&*tour.api.app.store).await.pop().expect("an entry");
    assert_eq!((json!(last.actor), json!(last.object)), (join["id"].clone(), node["node"].clone()));
    tour.node.id = text(&node["node"]).parse().expect("an id");

    let job = tour.user(post("/v1/jobs", &json!({"module": "mill"})), &["job_submit"]).await;
    let heartbeat = json!({
        "incarnation": "a", "sequence": 1, "draining": false, "labels": {},
        "capabilities": {"cpus_milli": 4000, "memory_bytes": 17_179_869_184_u64},
    });
    tour.node(post("/v1/node/heartbeat", &heartbeat)).await;
    let acquire = json!({
        "incarnation": "a", "cpus_milli_free": 4000, "memory_bytes_free": 17_179_869_184_u64,
        "leases_max": 1, "wait_ms": 0,
    });
    let granted = tour.node(post("/v1/node/leases/acquire", &acquire)).await;
    let token = text(&granted["leases"][0]["lease_token"]);
    let lease = json!({"job": job["id"], "attempt": 1, "lease_token": token});
    tour.node(post("/v1/node/leases/renew", &json!({"leases": [lease]}))).await;
    let watch = json!({"leases": [lease], "phases": [], "wait_ms": 0});
    tour.node(post("/v1/node/leases/watch", &watch)).await;
    let at = format!("/v1/node/attempts/{}/1", text(&job["id"]));
    let log = call("PUT", format!("{at}/logs/stdout?offset=0&elapsed_us=1"));
    tour.node(log.header(LEASE_HEADER, token.clone()).bytes("hello")).await;
    let output = call("PUT", format!("{at}/outputs/{}", digest(b"flour")));
    tour.node(output.header(LEASE_HEADER, token).bytes("flour")).await;
    let mut update = lease.clone();
    update["change"] = json!({"kind": "finished", "outcome": {"state": "succeeded"}, "outputs": []});
    let told = tour.node(post("/v1/node/updates", &json!({"updates": [update]}))).await;
    assert_eq!(told["verdicts"][0], "accepted");
    text(&job["id"])
}

async fn jobs_by_users(tour: &mut Tour, ended: &str) {
    let again = tour.user(call("POST", format!("/v1/jobs/{ended}/retry")), &["job_retry"]).await;
    let cancel = format!("/v1/jobs/{}/cancel", text(&again["id"]));
    tour.user(call("POST", cancel), &["job_cancel"]).await;
    let two = json!([{"module": "mill"}, {"module": "mill"}]);
    let made = tour.user(post("/v1/bulk/jobs/submit", &two), &["job_submit"; 2]).await;
    let jobs: Vec<_> =
        made["results"].as_array().expect("results").iter().map(|made| made["job"].clone()).collect();
    let jobs = json!({"jobs": jobs});
    tour.user(post("/v1/bulk/jobs/cancel", &jobs), &["job_cancel"; 2]).await;
    tour.user(post("/v1/bulk/jobs/retry", &jobs), &["job_retry"; 2]).await;
}

async fn uploads(tour: &mut Tour) {
    let at = tour.upload(4).await;
    tour.user(piece("PATCH", &at, 0, "gr"), &[]).await;
    tour.user(piece("PATCH", &at, 2, "it"), &["blob_put"]).await;
    let at = tour.upload(3).await;
    let by_post = piece("POST", &at, 0, "rye").header("x-http-method-override", "PATCH");
    tour.user(by_post, &["blob_put"]).await;
    let at = tour.upload(3).await;
    tour.user(call("DELETE", at).header("tus-resumable", "1.0.0"), &["upload_delete"]).await;
}

#[tokio::test]
async fn every_operation_that_changes_something_is_in_the_record() {
    let mut tour = Tour::begin().await;
    modules_and_tenancy(&mut tour).await;
    let ended = a_job_on_a_node(&mut tour).await;
    jobs_by_users(&mut tour, &ended).await;
    uploads(&mut tour).await;
    for what in ["drain", "resume", "revoke"] {
        let target = format!("/v1/nodes/{}/{what}", tour.node.id);
        tour.user(call("POST", target), &[&format!("node_{what}")]).await;
    }
    let all: BTreeSet<_> = tour.operations.iter().map(|(.., name)| name.clone()).collect();
    assert_eq!(tour.done, all, "a new operation needs a step here that says what it leaves in the record");
}

#[tokio::test]
async fn bytes_that_are_not_what_was_declared_and_join_tokens_that_are_used_twice_are_in_the_record() {
    let api = Api::start().await;
    let begin = call("POST", "/v1/uploads").header("upload-complete", "?0").header("upload-length", "3");
    let other = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
    let begin = begin.header("repr-digest", other).header("content-length", "0");
    let at = api.admin(begin).await.header("location").expect("a place").to_owned();
    let wrong = call("PATCH", at.as_str()).header("content-type", "application/partial-upload");
    let wrong = wrong.header("upload-offset", "0").header("upload-complete", "?1").bytes("rye");
    assert_eq!(api.admin(wrong).await.code(), "digest_mismatch");
    let id = at.rsplit('/').next().expect("an id");
    assert_eq!(told(&entries(&*api.app.store).await), [("upload_create", id), ("upload_delete", id)]);

    let join = api.admin(post("/v1/join-tokens", &json!({"zone": "default"}))).await.json();
    for (seed, status) in [(1, 200), (1, 200), (2, 401)] {
        let request = Node::new(seed).enroll_request("grinder", &text(&join["secret"]));
        assert_eq!(api.send(post("/v1/node/enroll", &request)).await.status, status);
    }
    let made_up = Node::new(3).enroll_request("grinder", "gmj_made_up");
    assert_eq!(api.send(post("/v1/node/enroll", &made_up)).await.status, 401);
    let all = entries(&*api.app.store).await;
    let uses: Vec<_> = all.iter().filter(|entry| entry.operation == AuditOperation::NodeEnroll).collect();
    let outcomes: Vec<_> = uses.iter().map(|entry| entry.outcome.as_str()).collect();
    assert_eq!(outcomes, ["done", "refused"], "a repeated answer and a stranger change nothing");
    assert!(uses.iter().all(|entry| json!(entry.actor) == join["id"]), "{uses:?}");
}

/// Removes the jobs of all tenants that are due; their number.
async fn purge_jobs(api: &Api) -> u64 {
    let mut removed = 0;
    for due in ops::find_due(&api.app).await.expect("what is due") {
        removed += ops::purge_jobs(&api.app, &due).await.expect("jobs");
    }
    removed
}

#[tokio::test]
async fn what_retention_removes_is_in_the_record_and_a_round_that_removes_nothing_is_not() {
    let api = Api::start().await;
    api.publish("mill", "1.0.0").await;
    api.admin(call("PUT", format!("/v1/blobs/{}", digest(b"grain"))).bytes("grain")).await;
    let begin = call("POST", "/v1/uploads").header("tus-resumable", "1.0.0").header("upload-length", "9");
    let at = api.admin(begin).await.header("location").expect("a place").to_owned();
    let submit = post("/v1/jobs", &json!({"module": "mill"})).header("idempotency-key", "once");
    let job = text(&api.admin(submit).await.json()["id"]);
    api.admin(call("POST", format!("/v1/jobs/{job}/cancel"))).await;
    let before = entries(&*api.app.store).await.len();

    let two_years = Duration::from_hours(2 * 366 * 24);
    api.clock.advance(two_years);
    assert_eq!(ops::expire_uploads(&api.app).await.expect("uploads"), 1);
    assert_eq!(ops::forget_idempotency_keys(&api.app).await.expect("keys"), 1);
    assert_eq!(purge_jobs(&api).await, 1);
    assert!(ops::purge_events(&api.app).await.expect("events") > 0);
    assert!(ops::collect_blobs(&api.app).await.expect("blobs") > 0);
    let all = entries(&*api.app.store).await;
    let upload = at.rsplit('/').next().expect("an id");
    let expected = [
        ("upload_delete", upload),
        ("retention_purge", "idempotency_key"),
        ("retention_purge", "job"),
        ("retention_purge", "event"),
        ("retention_purge", "blob"),
    ];
    assert_eq!(told(&all[before..]), expected);
    assert!(all[before..].iter().all(|entry| entry.actor == "server" && entry.tenant.is_none()));

    assert_eq!(ops::purge_audit(&api.app).await.expect("entries"), before as u64);
    let kept = entries(&*api.app.store).await;
    assert_eq!(told(&kept)[expected.len()..], [("retention_purge", "audit_entry")]);
    assert_eq!(purge_jobs(&api).await, 0);
    ops::purge_audit(&api.app).await.expect("entries");
    assert_eq!(entries(&*api.app.store).await, kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_and_a_restore_are_in_the_record_and_a_later_start_is_not() {
    let dir = scratch_dir();
    let data = dir.path().join("data");
    let config = |data: &std::path::Path| ServerConfig::new(data, SocketAddr::from(([127, 0, 0, 1], 0)));
    let server = Server::start(config(&data)).await.expect("starts");
    let first = entries(&*server.app().store).await;
    server.shutdown().await;
    let operations: Vec<_> = first.iter().map(|entry| entry.operation.as_str()).collect();
    assert_eq!(operations, ["tenant_create", "zone_create", "token_create"]);
    assert!(first.iter().all(|entry| entry.actor == "server" && entry.outcome.as_str() == "done"));
    let server = Server::start(config(&data)).await.expect("starts again");
    assert_eq!(entries(&*server.app().store).await, first);
    let now = server.app().clock.now();
    server.shutdown().await;

    let (backup, back) = (dir.path().join("backup"), dir.path().join("back"));
    back_up(&DataDir::new(&data), &backup, BackupOptions { copy: true, now }).await.expect("a backup");
    let (_, generation) = restore(&backup, &DataDir::new(&back), now).await.expect("restores");
    let server = Server::start(config(&back)).await.expect("starts from the backup");
    let all = entries(&*server.app().store).await;
    server.shutdown().await;
    let object = format!("generation {generation}");
    assert_eq!(told(&all[first.len()..]), [("backup_restore", object.as_str())]);
}

#[tokio::test]
async fn a_reader_of_the_api_sees_what_the_server_did() {
    let api = Api::start().await;
    let begin = call("POST", "/v1/uploads").header("tus-resumable", "1.0.0").header("upload-length", "9");
    api.admin(begin).await;
    api.clock.advance(Duration::from_hours(31 * 24));
    ops::expire_uploads(&api.app).await.expect("uploads");
    api.token("gmu_later", "default", Scope::ALL).await;
    let seen = api.send(call("GET", "/v1/audit?actor=server").token("gmu_later")).await.json();
    assert_eq!(seen["items"][0]["operation"], "upload_delete", "{seen:#}");
    assert_eq!(seen["items"].as_array().map(Vec::len), Some(1));
}
