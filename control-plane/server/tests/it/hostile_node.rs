//! Nodes that mean harm or are confused, each refused with its code. The numbers are those of the list
//! in `tests/it/hostile` at the top of the repository.

use gristmill_protocol::{
    JobId,
    node_api::{LEASE_HEADER, LeaseGrant},
    tenancy::Scope,
};
use serde_json::{Value, json};

use crate::{
    hostile_api::{assert_explained, submitted, with_module},
    http_api::{Answer, Api, Node, call, digest},
};

/// How a node asks for work, or for one job.
fn acquire(job: Option<JobId>) -> Value {
    let mut body = json!({
        "incarnation": "a", "cpus_milli_free": 4000, "memory_bytes_free": 17_179_869_184_u64,
        "leases_max": 1, "wait_ms": 0,
    });
    if let Some(job) = job {
        body["job"] = json!(job);
    }
    body
}

/// The answer to a node that asks for work.
async fn acquired(api: &Api, node: &Node, job: Option<JobId>) -> Option<LeaseGrant> {
    let answer = api.signed(node, call("POST", "/v1/node/leases/acquire").json(&acquire(job))).await;
    serde_json::from_value::<Vec<LeaseGrant>>(answer.json()["leases"].clone()).expect("a list").pop()
}

/// One update of an attempt, and its verdict.
async fn update(api: &Api, node: &Node, lease: &LeaseGrant, token: &str, change: Value) -> Value {
    let body = json!({"updates": [{
        "job": lease.job, "attempt": lease.attempt, "lease_token": token, "change": change,
    }]});
    let answer = api.signed(node, call("POST", "/v1/node/updates").json(&body)).await;
    answer.json()["verdicts"][0].clone()
}

/// How a node is answered, without what differs from call to call.
fn told(answer: &Answer) -> (u16, Value) {
    let mut problem = answer.json();
    problem["request_id"] = Value::Null;
    (answer.status.as_u16(), problem)
}

#[tokio::test]
async fn a07_a_job_of_another_zone_is_as_absent_to_a_node() {
    let api = with_module().await;
    assert_eq!(api.admin(call("POST", "/v1/zones").json(&json!({"name": "lab"}))).await.status, 201);
    let node = api.enroll("grinder").await;
    let spec = json!({"module": "mill", "zone": "lab", "stdin": {"text": "of the lab"}});
    let foreign = submitted(&api, &spec).await;
    let absent = JobId::from_parts(9, [9; 10]);
    let named = async |job: JobId| {
        told(&api.signed(&node, call("POST", "/v1/node/leases/acquire").json(&acquire(Some(job)))).await)
    };
    let (status, problem) = named(foreign).await;
    assert_eq!((status, &problem["code"]), (404, &json!("not_found")), "{problem}");
    assert_eq!((status, problem), named(absent).await);
    // Nobody who holds no lease of it gets further, whether it exists or not.
    let asked = async |job: JobId, method: &'static str, part: &str| {
        let target = format!("/v1/node/attempts/{job}/1/{part}");
        told(&api.signed(&node, call(method, target).header(LEASE_HEADER, "00")).await)
    };
    let blob = digest(b"of the lab");
    for (method, part) in [("GET", format!("blobs/{blob}")), ("HEAD", format!("outputs/{blob}"))] {
        let there = asked(foreign, method, &part).await;
        assert_eq!(there.0, 409, "{}", there.1);
        assert_eq!(there, asked(absent, method, &part).await);
    }
    // A lease of another job does not help either, although the bytes are there.
    let own = submitted(&api, &json!({"module": "mill"})).await;
    let lease = acquired(&api, &node, Some(own)).await.expect("its own zone's job, by its name");
    let of_own = async |digest: &str| {
        let target = format!("/v1/node/attempts/{own}/1/blobs/{digest}");
        told(&api.signed(&node, call("GET", target).header(LEASE_HEADER, lease.lease_token.as_str())).await)
    };
    let there = of_own(&blob).await;
    assert_eq!((there.0, &there.1["code"]), (404, &json!("not_found")));
    assert_eq!(there, of_own(&digest(b"nothing")).await);
    let zoneless = acquired(&api, &node, None).await;
    assert!(zoneless.is_none(), "what is left is not this zone's: {zoneless:?}");
    let shown = api.admin(call("GET", format!("/v1/jobs/{foreign}"))).await.json();
    assert_eq!(shown["state"], "queued", "nothing happened to it");
}

/// Insists that nothing can be done under a lease: no byte comes or goes, and nothing is recorded.
async fn assert_powerless(api: &Api, node: &Node, lease: &LeaseGrant, token: &str, what: &str) {
    for change in [
        json!({"kind": "started"}),
        json!({"kind": "released"}),
        json!({"kind": "finished", "outcome": {"state": "succeeded"}, "outputs": []}),
        json!({"kind": "finished", "outcome": {"state": "failed", "reason": "trap"}, "outputs": []}),
    ] {
        assert_eq!(update(api, node, lease, token, change.clone()).await, "lease_lost", "{what}: {change}");
    }
    let held = json!({"job": lease.job, "attempt": lease.attempt, "lease_token": token});
    let renewed = call("POST", "/v1/node/leases/renew").json(&json!({"leases": [held]}));
    let renewed = api.signed(node, renewed).await.json();
    assert!(renewed["leases"][0].to_string().contains("lost"), "{what}: {renewed}");
    let watched = call("POST", "/v1/node/leases/watch").json(&json!({"leases": [held], "wait_ms": 0}));
    let watched = api.signed(node, watched).await.json();
    assert_eq!(watched["lost"], json!([[lease.job, lease.attempt]]), "{what}: {watched}");
    let x = digest(b"x");
    for (method, part, body) in [
        ("GET", format!("blobs/{}", lease.module), ""),
        ("HEAD", format!("outputs/{x}"), ""),
        ("PUT", format!("outputs/{x}"), "x"),
        ("PUT", "logs/stdout?offset=0&elapsed_us=1".to_owned(), "x"),
    ] {
        let target = format!("/v1/node/attempts/{}/{}/{part}", lease.job, lease.attempt);
        let mut request = call(method, target).header(LEASE_HEADER, token);
        if !body.is_empty() {
            request = request.bytes(body);
        }
        let answer = api.signed(node, request).await;
        assert_eq!(answer.status, 409, "{what}: {method} {part}");
        if method != "HEAD" {
            assert_eq!(answer.code(), "lease_lost", "{what}: {method} {part}");
        }
    }
}

#[tokio::test]
async fn a21_a_lease_that_is_stale_forged_or_anothers_has_no_effect() {
    let api = with_module().await;
    let (node, other) = (api.enroll("grinder").await, api.enroll("other").await);
    let job = submitted(&api, &json!({"module": "mill"})).await;
    let stale = acquired(&api, &node, None).await.expect("a lease");
    let token = stale.lease_token.as_str();
    let zeros = "0".repeat(token.len());
    let longer = format!("{token}0");
    for (what, node, token) in [
        ("a forged token", &node, zeros.as_str()),
        ("a longer token", &node, longer.as_str()),
        ("a shorter token", &node, &token[1..]),
        ("another node", &other, token),
        ("none", &node, ""),
    ] {
        assert_powerless(&api, node, &stale, token, what).await;
    }
    // The next fence is that of the next attempt, which has a token of its own.
    let ahead = LeaseGrant { attempt: stale.attempt + 1, fence: stale.fence + 1, ..stale.clone() };
    assert_powerless(&api, &node, &ahead, token, "the next attempt").await;
    let unsigned = call("POST", "/v1/node/updates").json(&json!({"updates": []}));
    assert_eq!(api.send(unsigned).await.code(), "unauthenticated");
    assert_eq!(update(&api, &node, &stale, token, json!({"kind": "started"})).await, "accepted");

    // Each node is in the record, once for this job, and so is one that renews or watches another's.
    let third = api.enroll("third").await;
    let leases = json!([{"job": stale.job, "attempt": stale.attempt, "lease_token": token}]);
    let watch = json!({"leases": leases, "phases": [], "wait_ms": 0});
    api.signed(&third, call("POST", "/v1/node/leases/watch").json(&watch)).await;
    let fourth = api.enroll("fourth").await;
    let renew = call("POST", "/v1/node/leases/renew").json(&json!({"leases": leases}));
    assert_eq!(api.signed(&fourth, renew).await.status, 200);
    let entries = api.admin(call("GET", "/v1/audit?operation=lease_forge")).await.json();
    let told: Vec<_> = entries["items"]
        .as_array()
        .expect("a page")
        .iter()
        .map(|entry| (entry["actor"].clone(), entry["object"].clone(), entry["outcome"].clone()))
        .collect();
    let of = |node: &Node| (json!(node.id), json!(stale.job), json!("refused"));
    assert_eq!(told, [of(&fourth), of(&third), of(&other), of(&node)]);

    // The lease runs out, and another node gets the job.
    let mut sweep = gristmill_server::sweep::Sweep::default();
    api.clock.advance_s(31);
    sweep.round(&api.app).await;
    assert_powerless(&api, &node, &stale, token, "run out").await;
    api.clock.advance_s(60);
    sweep.round(&api.app).await;
    let lease = acquired(&api, &other, Some(job)).await.expect("the job again");
    assert!((lease.job, lease.attempt) == (job, 2) && lease.fence > stale.fence, "{lease:?}");
    assert_powerless(&api, &node, &stale, token, "stale").await;
    let crossed = LeaseGrant { lease_token: stale.lease_token.clone(), ..lease.clone() };
    assert_powerless(&api, &other, &crossed, token, "the former token for the present attempt").await;
    assert_powerless(&api, &node, &lease, lease.lease_token.as_str(), "the present token, of another").await;

    let revoked = api.admin(call("POST", format!("/v1/nodes/{}/revoke", node.id))).await;
    assert_eq!(revoked.status, 200);
    let refused = api.signed(&node, call("POST", "/v1/node/updates").json(&json!({"updates": []}))).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (403, "forbidden"));
    let token = lease.lease_token.as_str();
    assert_eq!(update(&api, &other, &lease, token, json!({"kind": "started"})).await, "accepted");
    let done = json!({"kind": "finished", "outcome": {"state": "succeeded"}, "outputs": []});
    assert_eq!(update(&api, &other, &lease, token, done).await, "accepted", "who holds it is not disturbed");
    let shown = api.admin(call("GET", format!("/v1/jobs/{job}"))).await.json();
    assert_eq!((shown["state"].as_str(), shown["attempt"].as_u64()), (Some("succeeded"), Some(2)));
}

#[tokio::test]
async fn a22_a_renewal_for_a_job_that_has_ended_says_that_the_lease_is_lost() {
    let api = with_module().await;
    let node = api.enroll("grinder").await;
    submitted(&api, &json!({"module": "mill"})).await;
    let lease = acquired(&api, &node, None).await.expect("a lease");
    let renew = async || {
        let body = json!({"leases": [{
            "job": lease.job, "attempt": lease.attempt, "lease_token": lease.lease_token,
        }]});
        let answer = api.signed(&node, call("POST", "/v1/node/leases/renew").json(&body)).await;
        assert_eq!(answer.status, 200);
        answer.json()["leases"][0].to_string()
    };
    assert!(renew().await.contains("held"));
    let done = json!({"kind": "finished", "outcome": {"state": "succeeded"}, "outputs": []});
    let token = lease.lease_token.as_str();
    assert_eq!(update(&api, &node, &lease, token, json!({"kind": "started"})).await, "accepted");
    assert_eq!(update(&api, &node, &lease, token, done).await, "accepted");
    assert!(renew().await.contains("lost"));
    let forged = api.admin(call("GET", "/v1/audit?operation=lease_forge")).await.json();
    assert_eq!(forged["items"], json!([]), "that a lease is over is daily business");
}

#[tokio::test]
async fn a23_a_report_may_come_twice_but_not_change() {
    let api = with_module().await;
    let node = api.enroll("grinder").await;
    let job = submitted(&api, &json!({"module": "mill"})).await;
    let lease = acquired(&api, &node, None).await.expect("a lease");
    let token = lease.lease_token.as_str();
    let report = |fuel: u64| json!({"kind": "finished", "outcome": {"state": "succeeded", "usage": {"fuel": fuel}}, "outputs": []});
    assert_eq!(update(&api, &node, &lease, token, json!({"kind": "started"})).await, "accepted");
    assert_eq!(update(&api, &node, &lease, token, report(7)).await, "accepted");
    assert_eq!(update(&api, &node, &lease, token, report(7)).await, "accepted", "the same again");
    assert_eq!(update(&api, &node, &lease, token, report(8)).await, "lease_lost");
    let shown = api.admin(call("GET", format!("/v1/jobs/{job}"))).await.json();
    assert_eq!(shown["usage"]["fuel"], 7);
}

/// The verdicts of one batch.
async fn batch(api: &Api, node: &Node, updates: &[(&LeaseGrant, Value)]) -> Value {
    let updates: Vec<_> = updates
        .iter()
        .map(|(lease, change)| {
            json!({
                "job": lease.job, "attempt": lease.attempt, "lease_token": lease.lease_token, "change": change,
            })
        })
        .collect();
    let answer = api.signed(node, call("POST", "/v1/node/updates").json(&json!({"updates": updates}))).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    answer.json()["verdicts"].clone()
}

/// The report of a success with these outputs: path, digest, size.
fn success(outputs: &[(&str, &str, u64)]) -> Value {
    let outputs: Vec<_> = outputs
        .iter()
        .map(|(path, digest, size)| json!({"path": path, "digest": digest, "size": size}))
        .collect();
    json!({"kind": "finished", "outcome": {"state": "succeeded"}, "outputs": outputs})
}

/// Reports of an attempt that stored `12345`, `abcde` and `1` for a job that may make 8 bytes in 2 files.
fn bad_reports() -> Vec<(&'static str, Value)> {
    let (own, more, little) = (digest(b"12345"), digest(b"abcde"), digest(b"1"));
    let (theirs, nothing) = (digest(b"theirs"), digest(b"nothing"));
    let foreign = digest(b"foreign");
    let mut refused = vec![
        ("another tenant's", success(&[("a", &foreign, 7)])),
        ("another attempt's", success(&[("a", &theirs, 6)])),
        ("nobody's", success(&[("a", &nothing, 7)])),
        ("one of them another tenant's", success(&[("a", &little, 1), ("b", &foreign, 7)])),
        ("smaller than it is", success(&[("a", &own, 1)])),
        ("larger than it is", success(&[("a", &own, 6)])),
        ("more bytes than the job may make", success(&[("a", &own, 5), ("b", &more, 5)])),
        ("the same bytes too often", success(&[("a", &own, 5), ("b", &own, 5)])),
        (
            "more files than the job may make",
            success(&[("a", &little, 1), ("b", &little, 1), ("c", &little, 1)]),
        ),
        ("a path twice", success(&[("a", &little, 1), ("a", &little, 1)])),
    ];
    let paths = ["", ".", "../a", "/a", "a/", "a//b", "a/./b", "a/..", "a\0b"];
    refused.extend(paths.map(|path| (path, success(&[(path, &little, 1)]))));
    let mut failed = success(&[("a", &little, 1)]);
    failed["outcome"] = json!({"state": "failed", "reason": "trap"});
    refused.push(("outputs of a failure", failed));
    refused
}

#[tokio::test]
async fn a24_a_result_that_is_too_large_or_names_what_is_not_its_own_is_refused() {
    let api = with_module().await;
    let node = api.enroll("grinder").await;
    let limits = json!({"output_bytes": 8, "output_files": 2, "cpus_milli": 100, "memory_bytes": 1 << 20});
    let spec = json!({"module": "mill", "limits": limits});
    let mut leases = Vec::new();
    for _ in 0..2 {
        submitted(&api, &spec).await;
        leases.push(acquired(&api, &node, None).await.expect("a lease"));
    }
    let [lease, neighbour] = &leases[..] else { panic!("two leases") };
    let started = json!({"kind": "started"});
    assert_eq!(
        batch(&api, &node, &[(lease, started.clone()), (neighbour, started.clone())]).await,
        json!(["accepted", "accepted"])
    );
    let put = async |lease: &LeaseGrant, bytes: &'static str| {
        let path = format!("/v1/node/attempts/{}/{}/outputs", lease.job, lease.attempt);
        let put = call("PUT", format!("{path}/{}", digest(bytes.as_bytes()))).bytes(bytes);
        api.signed(&node, put.header(LEASE_HEADER, lease.lease_token.as_str())).await
    };
    let large = put(lease, "123456789").await;
    assert_eq!((large.status.as_u16(), large.code().as_str()), (413, "body_too_large"));
    for bytes in ["12345", "abcde", "1"] {
        assert_eq!(put(lease, bytes).await.status, 201);
    }
    assert_eq!(put(neighbour, "theirs").await.status, 201);
    api.token("gmu_other", "other", &[Scope::Submit]).await;
    let foreign = digest(b"foreign");
    let stored = call("PUT", format!("/v1/blobs/{foreign}")).bytes("foreign").token("gmu_other");
    assert_eq!(api.send(stored).await.status, 201);

    let (own, little, theirs) = (digest(b"12345"), digest(b"1"), digest(b"theirs"));
    for (what, report) in bad_reports() {
        assert_eq!(batch(&api, &node, &[(lease, report)]).await, json!(["rejected"]), "{what:?}");
    }
    let many = json!({"updates": vec![json!({
        "job": lease.job, "attempt": 1, "lease_token": lease.lease_token, "change": started,
    }); 257]});
    let answer = api.signed(&node, call("POST", "/v1/node/updates").json(&many)).await;
    assert_explained(&answer, "257 updates");
    let shown = async |job: JobId| api.admin(call("GET", format!("/v1/jobs/{job}"))).await.json();
    let running = shown(lease.job).await;
    assert_eq!((running["state"].as_str(), running["output_count"].as_u64()), (Some("running"), Some(0)));

    // Each of a batch is judged by itself, in order, and what is within the limits is taken.
    let forged = LeaseGrant { attempt: 9, ..lease.clone() };
    let updates = [
        (neighbour, success(&[("a", &own, 5)])),
        (&forged, success(&[])),
        (lease, success(&[("a", &own, 5), ("b", &little, 1)])),
        (neighbour, success(&[("a", &theirs, 6)])),
    ];
    let verdicts = batch(&api, &node, &updates).await;
    assert_eq!(verdicts, json!(["rejected", "lease_lost", "accepted", "accepted"]));
    for (job, count, bytes) in [(lease.job, 2, 6), (neighbour.job, 1, 6)] {
        let ended = shown(job).await;
        assert_eq!(ended["state"], "succeeded", "{ended}");
        assert_eq!(
            (ended["output_count"].as_u64(), ended["output_bytes"].as_u64()),
            (Some(count), Some(bytes))
        );
    }
}

#[tokio::test]
async fn h84_a_job_never_reaches_a_node_that_lacks_a_feature_of_its_module_and_the_feature_is_named() {
    let api = with_module().await;
    let calls = "(module (func $f) (func (export \"_start\") (return_call $f)))";
    let wasm = wat::parse_str(calls).expect("is valid");
    let published = api.admin(call("PUT", "/v1/modules/tail/versions/1.0.0").bytes(wasm)).await;
    assert_eq!(published.json()["metadata"]["features"], json!(["tail_call"]), "{}", published.json());
    let spec = json!({"module": "tail"});
    let lacking = api.enroll("old").await;
    let why = "the module uses tail_call, which the node cannot run";
    // While no node can run it, it is refused; once one can, it waits for that one.
    let refused = api.admin(call("POST", "/v1/jobs").json(&spec)).await;
    assert_eq!(refused.code(), "never_runnable");
    assert!(refused.json()["detail"].as_str().expect("a detail").contains(why), "{:?}", refused.json());
    let able = api.enroll_able("new", &["simd", "tail_call"]).await;
    let job = submitted(&api, &spec).await;
    assert!(acquired(&api, &lacking, None).await.is_none());
    assert!(acquired(&api, &lacking, Some(job)).await.is_none(), "not by name either");
    let explained = api.admin(call("GET", format!("/v1/jobs/{job}/placement"))).await.json();
    let nodes = explained["zones"][0]["nodes"].as_array().expect("both nodes");
    let of =
        |name: &str| nodes.iter().find(|node| node["name"] == name).expect("is listed")["why_not"].clone();
    assert_eq!((of("old"), of("new")), (json!([why]), json!([])), "{explained}");
    assert_eq!(acquired(&api, &able, None).await.expect("a lease").job, job);
}
