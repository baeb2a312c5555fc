//! Those who wait for something cost nothing while nothing happens, and are woken when it does.

use std::time::Duration;

use futures_util::future::join_all;
use gristmill_server::store::job::StoreCounters;
use serde_json::json;

use crate::{
    http_api::{Answer, Api, call},
    http_node::leased,
};

/// What the store has been asked, once nobody asks any more.
async fn settled(api: &Api) -> StoreCounters {
    let mut before = api.app.store.counters();
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let after = api.app.store.counters();
        if (after.queries, after.statements) == (before.queries, before.statements) {
            return after;
        }
        before = after;
    }
}

#[tokio::test]
async fn an_idle_server_makes_no_query_for_those_who_wait() {
    let api = Api::start().await;
    api.publish("mill", "1.0.0").await;
    let node = api.enroll("grinder").await;
    let running = leased(&api, &node, &json!({"module": "mill"})).await;
    let others: Vec<_> = join_all((0..8).map(|n| {
        let api = &api;
        async move { api.enroll(&format!("mill-{n}")).await }
    }))
    .await;
    let wait = |target: String| api.admin(call("GET", target));
    let users = join_all((0..20).flat_map(|_| {
        [
            wait(format!("/v1/jobs/{}?wait=30s", running.job)),
            wait("/v1/events?wait=30s&type=none.such".into()),
        ]
    }));
    let ask = json!({
        "incarnation": "a", "cpus_milli_free": 4000, "memory_bytes_free": 17_179_869_184_u64,
        "leases_max": 1, "wait_ms": 25_000,
    });
    let nodes = join_all(
        others.iter().map(|other| api.signed(other, call("POST", "/v1/node/leases/acquire").json(&ask))),
    );
    let held = json!({"leases": [{
        "job": running.job, "attempt": running.attempt, "lease_token": running.lease_token.as_str(),
    }], "wait_ms": 25_000});
    let watch = api.signed(&node, call("POST", "/v1/node/leases/watch").json(&held));
    let waiting = async { tokio::join!(users, nodes, watch) };
    let idle = async {
        let before = settled(&api).await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let after = api.app.store.counters();
        (before, after)
    };
    let (before, after) = tokio::select! {
        (users, ..) = waiting => panic!("somebody did not wait: {:?}", users.first().map(Answer::json)),
        seen = idle => seen,
    };
    assert!(before.claims > 8, "the nodes' calls are held");
    assert_eq!(
        (after.queries, after.statements, after.commits),
        (before.queries, before.statements, before.commits),
    );
}
