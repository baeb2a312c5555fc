//! The node protocol over HTTP: enrolment, signatures, and a job's way through a node.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use gristmill_protocol::node_api::{LEASE_HEADER, LeaseGrant};
use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::http_api::{Api, Node, call, digest};

fn heartbeat(incarnation: &str, sequence: u64) -> Value {
    json!({
        "incarnation": incarnation, "sequence": sequence, "draining": false, "labels": {},
        "capabilities": {"cpus_milli": 4000, "memory_bytes": 17_179_869_184_u64},
    })
}

fn beat(sequence: u64) -> crate::http_api::Call {
    call("POST", "/v1/node/heartbeat").json(&heartbeat("a", sequence))
}

async fn join_token(api: &Api, body: Value) -> String {
    let answer = api.admin(call("POST", "/v1/join-tokens").json(&body)).await;
    answer.json()["secret"].as_str().expect("is created").to_owned()
}

#[tokio::test]
async fn a_join_token_makes_one_node_and_its_answer_may_be_asked_for_again() {
    let api = Api::start().await;
    let token = join_token(&api, json!({"zone": "default"})).await;
    let enroll = |node: &Node, name: &str, token: &str| {
        call("POST", "/v1/node/enroll").json(&node.enroll_request(name, token))
    };
    let (first, second) = (Node::new(1), Node::new(2));
    let granted = api.send(enroll(&first, "one", &token)).await;
    assert_eq!((granted.status.as_u16(), &granted.json()["zone"]), (200, &json!("default")));
    let again = api.send(enroll(&first, "one", &token)).await;
    assert_eq!(again.json()["node"], granted.json()["node"]);
    assert_eq!(api.send(enroll(&second, "two", &token)).await.code(), "unauthenticated");
    let spare = join_token(&api, json!({"zone": "default"})).await;
    assert_eq!(api.send(enroll(&first, "one", &spare)).await.code(), "conflict");
    let named = join_token(&api, json!({"zone": "default", "node_name": "three"})).await;
    assert_eq!(api.send(enroll(&second, "two", &named)).await.code(), "forbidden");
    assert_eq!(api.send(enroll(&second, "three", &named)).await.status, 200);
    let late = join_token(&api, json!({"zone": "default", "ttl_ms": 1_000})).await;
    api.clock.advance_s(1);
    assert_eq!(api.send(enroll(&Node::new(3), "late", &late)).await.code(), "unauthenticated");
    let mut future = Node::new(4).enroll_request("four", &spare);
    future["protocol_versions"] = json!([2, 3]);
    assert_eq!(api.send(call("POST", "/v1/node/enroll").json(&future)).await.code(), "protocol_version");
}

#[tokio::test]
async fn only_a_fresh_request_signed_by_the_nodes_own_key_is_served() {
    let api = Api::start().await;
    let node = api.enroll("grinder").await;
    let now = api.app.clock.now().as_second();
    let nonce = |n: u8| hex::encode([n; 16]);
    assert_eq!(api.send(node.sign(beat(1), now, &nonce(1))).await.status, 200);
    assert_eq!(api.send(node.sign(beat(2), now, &nonce(1))).await.code(), "unauthenticated", "a replay");
    assert_eq!(api.send(beat(2)).await.code(), "unauthenticated", "no signature");
    let thief = Node { id: node.id, ..Node::new(99) };
    assert_eq!(api.send(thief.sign(beat(2), now, &nonce(2))).await.code(), "unauthenticated", "another key");
    let stranger = Node::new(98);
    assert_eq!(api.send(stranger.sign(beat(2), now, &nonce(3))).await.code(), "unauthenticated", "unknown");
    let altered = node.sign(beat(2), now, &nonce(4)).bytes(heartbeat("a", 3).to_string());
    assert_eq!(api.send(altered).await.code(), "unauthenticated", "another body");
    let unsigned_lease = node.sign(beat(2), now, &nonce(5)).header(LEASE_HEADER, "abc");
    assert_eq!(api.send(unsigned_lease).await.code(), "unauthenticated", "a header added on the way");
    assert_eq!(api.send(node.sign(beat(2), now, "short")).await.code(), "unauthenticated", "a short nonce");
    let mut moved = node.sign(beat(2), now, &nonce(6));
    moved = moved.retarget("/v1/node/leases/renew");
    assert_eq!(api.send(moved).await.code(), "unauthenticated", "another path");
    for skew in [-301, 301] {
        let answer = api.send(node.sign(beat(2), now + skew, &nonce(7))).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "clock_skew"));
        assert_eq!(answer.header("date"), Some("Thu, 01 Jan 2026 00:00:00 GMT"));
    }
    for (n, skew) in [(8, -300), (9, 300)] {
        assert_eq!(api.send(node.sign(beat(2), now + skew, &nonce(n))).await.status, 200);
    }
    api.admin(call("POST", format!("/v1/nodes/{}/revoke", node.id))).await;
    let answer = api.send(node.sign(beat(3), now, &nonce(10))).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (403, "forbidden"));
}

#[tokio::test]
async fn a_new_start_of_the_node_replaces_the_old_one_for_good() {
    let api = Api::start().await;
    let node = api.enroll("grinder").await;
    let beat =
        |incarnation, sequence| call("POST", "/v1/node/heartbeat").json(&heartbeat(incarnation, sequence));
    assert_eq!(api.signed(&node, beat("a", 1)).await.status, 200);
    assert_eq!(api.signed(&node, beat("b", 1)).await.status, 200);
    assert_eq!(api.signed(&node, beat("a", 2)).await.code(), "conflict");
    assert_eq!(api.signed(&node, beat("b", 1)).await.status, 200, "a repeated heartbeat is harmless");
}

#[tokio::test]
async fn an_idle_nodes_heartbeats_cost_two_writes_a_minute() {
    let api = Api::start().await;
    let node = api.enroll("grinder").await;
    api.signed(&node, beat(1)).await;
    let before = api.app.store.counters().ops;
    for sequence in 2..=7 {
        api.clock.advance_s(10);
        assert_eq!(api.signed(&node, beat(sequence)).await.status, 200);
    }
    assert_eq!(api.app.store.counters().ops - before, 2);
}

/// Submits a job and lets the node lease it.
pub(crate) async fn leased(api: &Api, node: &Node, spec: &Value) -> LeaseGrant {
    let submitted = api.admin(call("POST", "/v1/jobs").json(spec)).await;
    assert_eq!(submitted.status, 201, "{:?}", submitted.json());
    let acquire = json!({
        "incarnation": "a", "cpus_milli_free": 4000, "memory_bytes_free": 17_179_869_184_u64,
        "leases_max": 1, "wait_ms": 0,
    });
    let answer = api.signed(node, call("POST", "/v1/node/leases/acquire").json(&acquire)).await;
    let mut grant: gristmill_protocol::node_api::AcquireGrant =
        serde_json::from_slice(&answer.body).expect("is a grant");
    grant.leases.pop().expect("one job is ready")
}

#[tokio::test]
async fn a_job_goes_through_a_node_and_its_output_and_log_come_out() {
    let mut api = Api::start().await;
    api.publish("mill", "1.0.0").await;
    let node = api.enroll("grinder").await;
    let spec = json!({"module": "mill", "stdin": {"text": "corn"}});
    let lease = leased(&api, &node, &spec).await;
    let token = lease.lease_token.as_str().to_owned();
    let path = format!("/v1/node/attempts/{}/{}", lease.job, lease.attempt);
    let with_lease = |method, target: String| call(method, target).header(LEASE_HEADER, token.clone());

    let stdin = lease.stdin.as_ref().expect("was given").digest;
    let blob = api
        .signed(&node, with_lease("GET", format!("{path}/blobs/{stdin}")).header("range", "bytes=1-"))
        .await;
    assert_eq!((blob.status.as_u16(), &blob.body[..]), (206, &b"orn"[..]));
    let foreign = digest(b"secret of another tenant");
    api.admin(call("PUT", format!("/v1/blobs/{foreign}")).bytes("secret of another tenant")).await;
    let denied = api.signed(&node, with_lease("GET", format!("{path}/blobs/{foreign}"))).await;
    assert_eq!(denied.code(), "not_found", "a blob that the job does not name");

    let flour = digest(b"flour");
    let target = format!("{path}/outputs/{flour}");
    assert_eq!(api.signed(&node, with_lease("HEAD", target.clone())).await.status, 404);
    assert_eq!(api.signed(&node, with_lease("PUT", target.clone()).bytes("flour")).await.status, 201);
    assert_eq!(api.signed(&node, with_lease("HEAD", target.clone())).await.status, 200);
    let stale = call("PUT", target).header(LEASE_HEADER, "00").bytes("flour");
    assert_eq!(api.signed(&node, stale).await.code(), "lease_lost");
    let hidden = api.admin(call("GET", format!("/v1/blobs/{flour}"))).await;
    assert_eq!(hidden.status, 404, "an output is visible with the accepted report only");

    let log = with_lease("PUT", format!("{path}/logs/stdout?offset=0&elapsed_us=10")).bytes("grinding\n");
    assert_eq!(api.signed(&node, log).await.status, 204);
    let log = with_lease("PUT", format!("{path}/logs/stdout?offset=99&elapsed_us=10")).bytes("gap");
    assert_eq!(api.signed(&node, log).await.code(), "conflict");

    let update = |change: Value| {
        json!({"updates": [{
            "job": lease.job, "attempt": lease.attempt, "lease_token": token, "change": change,
        }]})
    };
    let report = json!({
        "kind": "finished", "outcome": {"state": "succeeded", "usage": {"fuel": 7}},
        "outputs": [{"path": "a/flour.txt", "digest": flour, "size": 5}],
        "log_tail": [{"stream": "stdout", "offset": 9, "elapsed_us": 20, "base64": STANDARD.encode("done\n")}],
    });
    let done = call("POST", "/v1/node/updates").json(&update(report));
    assert_eq!(api.signed(&node, done).await.json()["verdicts"], json!(["accepted"]));

    let get = |rest: &str| call("GET", format!("/v1/jobs/{}{rest}", lease.job));
    api.note_admin("the job", get("")).await;
    api.note_admin("its attempts", get("/attempts")).await;
    api.note_admin("its log", get("/attempts/1/logs")).await;
    api.note_admin(
        "its log from a byte on",
        get("/attempts/1/logs?stream=stdout").header("range", "bytes=9-"),
    )
    .await;
    api.note_admin("beyond its end", get("/attempts/1/logs").header("range", "bytes=14-")).await;
    api.note_admin("its outputs", get("/outputs")).await;
    api.note_admin("one output", get("/outputs/a/flour.txt")).await;
    api.note_admin("the blob", call("GET", format!("/v1/blobs/{flour}"))).await;
    for range in ["bytes=0-7", "bytes=-5", "bytes=0-1,3-4"] {
        api.note_admin("a part of its log", get("/attempts/1/logs").header("range", range)).await;
    }
    api.note_admin("the archive without its bytes", get("/outputs?format=tar").header("if-none-match", "*"))
        .await;
    api.note_admin("an archive of another kind", get("/outputs?format=zip")).await;
    expect_archive(&api, &lease.job.to_string()).await;
    assert_snapshot!(api.transcript());
}

/// The archive of the job's one output, `a/flour.txt`, and of a job that has none.
async fn expect_archive(api: &Api, job: &str) {
    let get = |rest: &str| call("GET", format!("/v1/jobs/{job}{rest}"));
    let tar = api.admin(get("/outputs?format=tar")).await;
    let accepted = api.admin(get("/outputs").header("accept", "application/x-tar")).await;
    assert_eq!((tar.header("content-length"), &tar.body), (Some("2048"), &accepted.body));
    assert_eq!(tar.body.len(), 2_048);
    assert_eq!(&tar.body[..11], b"a/flour.txt");
    assert_eq!(&tar.body[512..517], b"flour");
    let part = api.admin(get("/outputs?format=tar").header("range", "bytes=510-514")).await;
    assert_eq!((part.status.as_u16(), &part.body[..]), (206, &b"\0\0flo"[..]));
    let other = api.admin(call("POST", "/v1/jobs").json(&json!({"module": "mill"}))).await;
    let unfinished = format!("{}/outputs?format=tar", other.header("location").expect("a job"));
    assert_eq!(api.admin(call("GET", unfinished)).await.code(), "conflict");
}

#[tokio::test]
async fn what_a_node_does_is_shown_as_it_tells_it_and_costs_no_commit() {
    let api = Arc::new(Api::start().await);
    api.publish("mill", "1.0.0").await;
    let (node, other) = (api.enroll("grinder").await, api.enroll("other").await);
    let lease = leased(&api, &node, &json!({"module": "mill"})).await;
    let named = json!({"job": lease.job, "attempt": 1, "lease_token": lease.lease_token});
    let commits = api.app.store.counters().commits;
    let tell = async |node: &Node, phases: Value| {
        let watch = json!({"leases": [named], "wait_ms": 0, "phases": phases});
        let answer = api.signed(node, call("POST", "/v1/node/leases/watch").json(&watch)).await;
        assert_eq!(answer.status, 200, "{:?}", answer.json());
    };
    let path = format!("/v1/jobs/{}", lease.job);
    let phase = |phase: &str, elapsed_ms: u64| json!([{"job": lease.job, "attempt": 1, "phase": phase, "elapsed_ms": elapsed_ms}]);
    let shown = async || {
        let job = api.admin(call("GET", &path)).await;
        let attempts = api.admin(call("GET", format!("{path}/attempts"))).await.json();
        let (job_json, attempt) = (job.json(), &attempts["items"][0]);
        assert_eq!(
            (&job_json["phase"], &job_json["phase_since"]),
            (&attempt["phase"], &attempt["phase_since"])
        );
        let tag = job.header("etag").expect("a tag").to_owned();
        (job_json["phase"].clone(), job_json["phase_since"].clone(), tag)
    };
    assert_eq!(shown().await, (json!("staging"), Value::Null, "\"2\"".to_owned()));
    let waiting = {
        let (api, path) = (api.clone(), format!("{path}?wait=50s"));
        let seen = call("GET", path).header("if-none-match", "\"2\"");
        tokio_util::task::TaskTracker::new().spawn(async move { api.admin(seen).await.json() })
    };
    tell(&other, phase("collecting", 1_000)).await;
    assert_eq!(shown().await.0, json!("staging"), "another node has no say");
    api.clock.advance_s(10);
    tell(&node, phase("compiling", 4_000)).await;
    assert_eq!(waiting.await.expect("an answer")["phase"], json!("compiling"), "who waits is told");
    let compiling = (json!("compiling"), json!("2026-01-01T00:00:06Z"), "\"2.compiling\"".to_owned());
    assert_eq!(shown().await, compiling);
    api.clock.advance_s(1);
    tell(&node, phase("compiling", 4_900)).await;
    assert_eq!(shown().await, compiling, "it is the same compilation");
    let known = api.admin(call("GET", &path).header("if-none-match", "\"2.compiling\"")).await;
    assert_eq!(known.status, 304);
    let written = api.app.store.counters().commits - commits;
    assert_eq!(written, 1, "nothing of it is written but that the other node used a lease of this one");

    let update = json!({"updates": [{"job": lease.job, "attempt": 1, "lease_token": lease.lease_token,
        "change": {"kind": "started"}}]});
    api.signed(&node, call("POST", "/v1/node/updates").json(&update)).await;
    assert_eq!(shown().await, (json!("running"), Value::Null, "\"3\"".to_owned()));
    tell(&node, phase("collecting", 0)).await;
    assert_eq!(shown().await.0, json!("collecting"));
    let stale = call("POST", format!("{path}/cancel")).header("if-match", "\"2.compiling\"");
    assert_eq!(api.admin(stale).await.code(), "precondition_failed");
    let cancel = call("POST", format!("{path}/cancel")).header("if-match", "\"3.collecting\"");
    assert_eq!(api.admin(cancel).await.status, 200, "the tag names its version");
}

#[tokio::test]
async fn an_output_that_the_attempt_did_not_store_is_not_accepted() {
    let api = Api::start().await;
    api.publish("mill", "1.0.0").await;
    api.token("gmu_other", "other", gristmill_protocol::tenancy::Scope::ALL).await;
    let secret = digest(b"secret of another tenant");
    let put = call("PUT", format!("/v1/blobs/{secret}")).bytes("secret of another tenant");
    assert_eq!(api.send(put.token("gmu_other")).await.status, 201);
    let node = api.enroll("grinder").await;
    let lease = leased(&api, &node, &json!({"module": "mill"})).await;
    let token = lease.lease_token.as_str();
    let target = format!("/v1/node/attempts/{}/{}/outputs/{secret}", lease.job, lease.attempt);
    let head = api.signed(&node, call("HEAD", target).header(LEASE_HEADER, token)).await;
    assert_eq!(head.status, 404, "that another tenant has these bytes is not told");
    let report = json!({"updates": [{
        "job": lease.job, "attempt": lease.attempt, "lease_token": token,
        "change": {"kind": "finished", "outcome": {"state": "succeeded"},
                   "outputs": [{"path": "x", "digest": secret, "size": 24}]},
    }]});
    let answer = api.signed(&node, call("POST", "/v1/node/updates").json(&report)).await;
    assert_eq!(answer.json()["verdicts"], json!(["rejected"]));
    let blob = api.admin(call("GET", format!("/v1/blobs/{secret}"))).await;
    assert_eq!(blob.status, 404);
}

#[tokio::test]
async fn a_report_of_another_form_is_refused_at_its_place() {
    let api = Api::start().await;
    api.publish("mill", "1.0.0").await;
    let node = api.enroll("grinder").await;
    let lease = leased(&api, &node, &json!({"module": "mill"})).await;
    let usage = "/updates/0/change/outcome/usage";
    for (change, pointer) in [
        (
            json!({"kind": "finished", "outcome": {"state": "succeeded", "usage": [1, 2]}, "outputs": []}),
            usage,
        ),
        (
            json!({"kind": "finished", "outcome": {"state": "succeeded", "usage": {"fuel": "7"}}, "outputs": []}),
            "/updates/0/change/outcome/usage/fuel",
        ),
        (json!({"kind": "finished", "outcome": {"state": "succeeded"}}), "/updates/0/change/outputs"),
        (json!({"kind": "finished", "outputs": []}), "/updates/0/change/outcome"),
        (json!({"kind": "ended"}), "/updates/0/change/kind"),
        (json!(["started"]), "/updates/0/change"),
    ] {
        let update = json!({"updates": [{"job": lease.job, "attempt": lease.attempt,
            "lease_token": lease.lease_token, "change": &change}]});
        let answer = api.signed(&node, call("POST", "/v1/node/updates").json(&update)).await;
        assert_eq!(answer.status, 400, "{change}");
        assert_eq!(answer.json()["errors"][0]["pointer"], pointer, "{change}");
    }
    let update = json!({"updates": [{"job": lease.job, "attempt": lease.attempt,
        "lease_token": lease.lease_token, "change": {"kind": "started"}}]});
    let answer = api.signed(&node, call("POST", "/v1/node/updates").json(&update)).await;
    assert_eq!(answer.json()["verdicts"], json!(["accepted"]), "nothing of those was recorded");
}
