//! Levels of isolation over HTTP: what a node reports, what a job or zone asks for, who gets a lease.

use serde_json::{Value, json};

use crate::http_api::{Api, Node, call};

/// What a node reports that reached a level.
fn confined(outer_limit: &str) -> Value {
    json!({"outer_limit": outer_limit, "seccomp": true, "landlock_abi": 4})
}

async fn beat(api: &Api, node: &Node, incarnation: &str, isolation: Value) {
    let request = json!({
        "incarnation": incarnation, "sequence": 1, "draining": false, "labels": {},
        "capabilities": {
            "cpus_milli": 4000, "memory_bytes": 17_179_869_184_u64, "isolation": isolation,
        },
    });
    assert_eq!(api.signed(node, call("POST", "/v1/node/heartbeat").json(&request)).await.status, 200);
}

/// How many leases a start of the node process gets.
async fn lease_count(api: &Api, node: &Node, incarnation: &str) -> usize {
    let acquire = json!({
        "incarnation": incarnation, "cpus_milli_free": 4000, "memory_bytes_free": 17_179_869_184_u64,
        "leases_max": 1, "wait_ms": 0,
    });
    let answer = api.signed(node, call("POST", "/v1/node/leases/acquire").json(&acquire)).await;
    answer.json()["leases"].as_array().expect("is a grant").len()
}

#[tokio::test]
async fn a_job_waits_for_a_node_that_proved_its_level_in_this_start() {
    let api = Api::start().await;
    api.publish("mill", "1.0.0").await;
    // Its enrolment still says how it is isolated in a word of its own.
    let node = api.enroll("grinder").await;
    let shown = api.admin(call("GET", format!("/v1/nodes/{}", node.id))).await.json();
    assert_eq!(
        shown["capabilities"]["isolation"],
        json!({"outer_limit": "process", "seccomp": false, "landlock_abi": 0, "own_uid": false})
    );
    let spec = json!({"module": "mill", "isolation": "cgroup_v1"});
    let submit = || call("POST", "/v1/jobs").json(&spec);
    let refused = api.admin(submit()).await;
    assert_eq!(refused.code(), "never_runnable");
    let why =
        "the job asks for isolation cgroup_v1 or stronger, the node's isolation is weak or not proved yet";
    assert!(refused.json()["detail"].as_str().expect("a detail").contains(why), "{:?}", refused.json());
    let explained = api.admin(call("POST", "/v1/jobs?validate_only=true").json(&spec)).await.json();
    assert_eq!(explained["zones"][0]["nodes"][0]["why_not"], json!([why]));
    let unknown = json!({"module": "mill", "isolation": "cgroup_v3"});
    assert_eq!(api.admin(call("POST", "/v1/jobs").json(&unknown)).await.code(), "invalid_request");

    beat(&api, &node, "a", confined("cgroup_v2")).await;
    assert_eq!(api.admin(submit()).await.status, 201);
    assert_eq!(lease_count(&api, &node, "b").await, 0, "a new start that has not said what it has");
    beat(&api, &node, "b", confined("process")).await;
    assert_eq!(lease_count(&api, &node, "b").await, 0, "a weaker level than before");
    for (n, missing) in [("seccomp", json!(false)), ("landlock_abi", json!(0))].into_iter().enumerate() {
        let mut weak = confined("cgroup_v2");
        weak[missing.0] = missing.1;
        let incarnation = format!("weak-{n}");
        beat(&api, &node, &incarnation, weak).await;
        assert_eq!(lease_count(&api, &node, &incarnation).await, 0, "a level without {}", missing.0);
    }
    beat(&api, &node, "c", confined("cgroup_v1")).await;
    assert_eq!(lease_count(&api, &node, "c").await, 1);
}

#[tokio::test]
async fn a_zone_keeps_jobs_from_its_weaker_nodes() {
    let api = Api::start().await;
    api.publish("mill", "1.0.0").await;
    let node = api.enroll("grinder").await;
    beat(&api, &node, "a", confined("cgroup_v1")).await;
    let submit = || call("POST", "/v1/jobs").json(&json!({"module": "mill"}));
    assert_eq!(api.admin(submit()).await.status, 201);
    let policy = |level| json!({"name": "default", "policy": {"isolation": level}});
    let strict = api.admin(call("PUT", "/v1/zones/default").json(&policy("cgroup_v2"))).await;
    assert_eq!((strict.status.as_u16(), &strict.json()["policy"]["isolation"]), (200, &json!("cgroup_v2")));
    assert_eq!(lease_count(&api, &node, "a").await, 0);
    let refused = api.admin(submit()).await;
    assert_eq!(refused.code(), "never_runnable");
    let detail = refused.json()["detail"].as_str().expect("a detail").to_owned();
    assert!(detail.contains("the zone requires isolation cgroup_v2 or stronger"), "{detail}");
    api.admin(call("PUT", "/v1/zones/default").json(&policy("cgroup_v1"))).await;
    assert_eq!(lease_count(&api, &node, "a").await, 1);
}
