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
    http_api::{Api, Node, call, digest},
};

/// The answer to a node that asks for work.
async fn acquired(api: &Api, node: &Node, job: Option<JobId>) -> Option<LeaseGrant> {
    let mut body = json!({
        "incarnation": "a", "cpus_milli_free": 4000, "memory_bytes_free": 17_179_869_184_u64,
        "leases_max": 1, "wait_ms": 0,
    });
    if let Some(job) = job {
        body["job"] = json!(job);
    }
    let answer = api.signed(node, call("POST", "/v1/node/leases/acquire").json(&body)).await;
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

#[tokio::test]
async fn a07_a_job_of_another_zone_is_as_absent_to_a_node() {
    let api = with_module().await;
    api.admin(call("POST", "/v1/zones").json(&json!({"name": "lab"}))).await;
    let node = api.enroll("grinder").await;
    let job = submitted(&api, &json!({"module": "mill", "zone": "lab"})).await;
    assert!(acquired(&api, &node, Some(job)).await.is_none(), "not even by its name");
    let absent = JobId::from_parts(9, [9; 10]);
    let asked = async |job: JobId, part: &str| {
        let target = format!("/v1/node/attempts/{job}/1/{part}/{}", digest(b"x"));
        let method = if part == "blobs" { "GET" } else { "HEAD" };
        let answer = api.signed(&node, call(method, target).header(LEASE_HEADER, "00")).await;
        let mut problem = answer.json();
        problem["request_id"] = Value::Null;
        (answer.status.as_u16(), problem)
    };
    for part in ["blobs", "outputs"] {
        let there = asked(job, part).await;
        assert_eq!(there.0, 409, "{}", there.1);
        assert_eq!(there, asked(absent, part).await);
    }
}

#[tokio::test]
async fn a21_a_lease_that_is_stale_forged_or_anothers_has_no_effect() {
    let api = with_module().await;
    let (node, other) = (api.enroll("grinder").await, api.enroll("other").await);
    submitted(&api, &json!({"module": "mill"})).await;
    let lease = acquired(&api, &node, None).await.expect("a lease");
    let token = lease.lease_token.as_str();
    let zeros = "0".repeat(token.len());
    for (what, node, token) in
        [("a forged token", &node, zeros.as_str()), ("another node", &other, token), ("none", &node, "")]
    {
        assert_eq!(
            update(&api, node, &lease, token, json!({"kind": "started"})).await,
            "lease_lost",
            "{what}"
        );
        let target = format!("/v1/node/attempts/{}/{}/outputs/{}", lease.job, lease.attempt, digest(b"x"));
        let put = call("PUT", target).header(LEASE_HEADER, token).bytes("x");
        assert_eq!(api.signed(node, put).await.code(), "lease_lost", "{what}");
    }
    // The next attempt's number with the present token is no lease either.
    let forged = LeaseGrant { attempt: lease.attempt + 1, ..lease.clone() };
    assert_eq!(update(&api, &node, &forged, token, json!({"kind": "started"})).await, "lease_lost");
    let unsigned = call("POST", "/v1/node/updates").json(&json!({"updates": []}));
    assert_eq!(api.send(unsigned).await.code(), "unauthenticated");
    assert_eq!(update(&api, &node, &lease, token, json!({"kind": "started"})).await, "accepted");

    // Each node is in the record, once for this job, and so is one that renews or watches another's.
    let third = api.enroll("third").await;
    let leases = json!([{"job": lease.job, "attempt": lease.attempt, "lease_token": token}]);
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
    let of = |node: &Node| (json!(node.id), json!(lease.job), json!("refused"));
    assert_eq!(told, [of(&fourth), of(&third), of(&other), of(&node)]);
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

#[tokio::test]
async fn a24_a_result_that_is_too_large_or_names_what_is_not_its_own_is_refused() {
    let api = with_module().await;
    let node = api.enroll("grinder").await;
    let job = submitted(&api, &json!({"module": "mill", "limits": {"output_bytes": 4}})).await;
    let lease = acquired(&api, &node, None).await.expect("a lease");
    let token = lease.lease_token.as_str();
    assert_eq!(update(&api, &node, &lease, token, json!({"kind": "started"})).await, "accepted");
    let target = format!("/v1/node/attempts/{}/{}/outputs/{}", lease.job, lease.attempt, digest(b"12345"));
    let put = call("PUT", target).header(LEASE_HEADER, token).bytes("12345");
    assert_eq!(api.signed(&node, put).await.code(), "body_too_large");
    api.token("gmu_other", "other", &[Scope::Submit]).await;
    let foreign = digest(b"foreign");
    api.send(call("PUT", format!("/v1/blobs/{foreign}")).bytes("foreign").token("gmu_other")).await;
    for path in ["a", "../a", "/a", "a//b", "a\0b"] {
        let report = json!({
            "kind": "finished", "outcome": {"state": "succeeded"},
            "outputs": [{"path": path, "digest": foreign, "size": 7}],
        });
        assert_eq!(update(&api, &node, &lease, token, report).await, "rejected", "{path:?}");
    }
    let many = json!({"updates": vec![json!({
        "job": lease.job, "attempt": 1, "lease_token": token, "change": {"kind": "started"},
    }); 257]});
    let answer = api.signed(&node, call("POST", "/v1/node/updates").json(&many)).await;
    assert_explained(&answer, "257 updates");
    let shown = api.admin(call("GET", format!("/v1/jobs/{job}"))).await.json();
    assert_eq!((shown["state"].as_str(), shown["output_count"].as_u64()), (Some("running"), Some(0)));
}
