//! What a tenant keeps by a policy of its own, and what goes beyond its ceilings.

use std::time::Duration;

use gristmill_lifecycle::{Settings, settings::Retention as Ages};
use gristmill_protocol::{attempt::LogStream, reason::OutcomeState, tenancy::Scope};
use gristmill_server::{clock::Clock, retention::Retention};
use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    commands::{Script, TENANT, append, job_id, outcome, output, report, submit},
    http_api::{Api, call, digest},
};

async fn set(api: &Api, name: &str, retention: Value) -> Value {
    let body = json!({"name": name, "retention": retention});
    let answer = api.admin(call("PUT", format!("/v1/tenants/{name}")).json(&body)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.json());
    answer.json()
}

/// Submits a job and cancels it, unless it is to stay. Returns its path.
async fn job(api: &Api, token: &str, body: &Value, stays: bool) -> String {
    let made = api.send(call("POST", "/v1/jobs").json(body).token(token)).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.json());
    let path = format!("/v1/jobs/{}", made.json()["id"].as_str().expect("an id"));
    if !stays {
        let cancelled = api.send(call("POST", format!("{path}/cancel")).token(token)).await;
        assert_eq!(cancelled.json()["state"], "cancelled");
    }
    path
}

async fn status(api: &Api, path: &str, token: &str) -> StatusCode {
    api.send(call("GET", path).token(token)).await.status
}

#[tokio::test]
async fn a_tenants_retention_is_set_under_its_entity_tag_and_shown() {
    let api = Api::start().await;
    let own = json!({"job_ttl_ms": 60_000, "log_ttl_ms": 30_000, "jobs_max": 10, "bytes_max": 1_000_000});
    let body = json!({"name": "acme", "queue_depth_max": 5, "retention": {"jobs_max": 3}});
    let made = api.admin(call("POST", "/v1/tenants").json(&body)).await.json();
    assert_eq!(made["retention"], json!({"jobs_max": 3}));
    let changed = set(&api, "acme", own.clone()).await;
    assert_eq!((&changed["retention"], &changed["version"]), (&own, &json!(2)));
    assert_eq!(changed["queue_depth_max"], 10_000, "what is absent is the server's");
    assert_eq!(changed["created_at"], made["created_at"]);
    let shown = api.admin(call("GET", "/v1/tenants/acme")).await;
    assert_eq!((shown.json(), shown.header("etag")), (changed.clone(), Some("\"2\"")));
    let listed = api.admin(call("GET", "/v1/tenants")).await.json();
    assert_eq!(listed["items"][0], changed);

    let put = |body: Value| call("PUT", "/v1/tenants/acme").json(&body);
    let stale = api.admin(put(json!({"name": "acme"})).header("if-match", "\"1\"")).await;
    assert_eq!(
        (stale.status, stale.code().as_str()),
        (StatusCode::PRECONDITION_FAILED, "precondition_failed")
    );
    for (body, pointer) in [
        (json!({"name": "other"}), "/name"),
        (json!({"name": "acme", "queue_depth_max": 100_001}), "/queue_depth_max"),
        (json!({"name": "acme", "retention": {"job_ttl_ms": 0}}), "/retention/job_ttl_ms"),
        (json!({"name": "acme", "retention": {"log_ttl_ms": 315_360_000_001_u64}}), "/retention/log_ttl_ms"),
        (json!({"name": "acme", "retention": {"jobs_max": 0}}), "/retention/jobs_max"),
        (json!({"name": "acme", "retention": {"bytes_max": u64::MAX}}), "/retention/bytes_max"),
    ] {
        let refused = api.admin(put(body)).await.json();
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{refused}");
    }
    let nobody = call("PUT", "/v1/tenants/moon").json(&json!({"name": "moon"}));
    assert_eq!(api.admin(nobody).await.status, StatusCode::NOT_FOUND);
    api.token("gmu_acme", "acme", &[Scope::Read, Scope::Submit]).await;
    let own_tenant = put(json!({"name": "acme"})).token("gmu_acme");
    assert_eq!(api.send(own_tenant).await.status, StatusCode::FORBIDDEN);
    assert_eq!(api.send(call("GET", "/v1/tenants/acme").token("gmu_acme")).await.json(), changed);

    let body = json!({"name": "acme", "queue_depth_max": 1});
    let bare = api.admin(put(body.clone()).header("if-match", "\"2\"")).await.json();
    assert_eq!((&bare["version"], bare.get("retention")), (&json!(3), None));
    api.publish("mill", "1.0.0").await;
    let public = call("PATCH", "/v1/modules/mill").json(&json!({"visibility": "public"}));
    api.admin(public).await;
    let spec = json!({"module": "default:mill"});
    job(&api, "gmu_acme", &spec, true).await;
    let full = api.send(call("POST", "/v1/jobs").json(&spec).token("gmu_acme")).await;
    assert_eq!(full.code(), "queue_full", "the new depth holds at once");
    set(&api, "acme", json!({})).await;
    job(&api, "gmu_acme", &spec, true).await;
}

#[tokio::test]
async fn a_tenants_own_age_holds_for_it_alone() {
    let api = Api::start().await;
    api.admin(call("POST", "/v1/tenants").json(&json!({"name": "acme"}))).await;
    api.publish("mill", "1.0.0").await;
    api.admin(call("PATCH", "/v1/modules/mill").json(&json!({"visibility": "public"}))).await;
    api.token("gmu_acme", "acme", &[Scope::Read, Scope::Submit]).await;
    api.token("gmu_plain", "default", &[Scope::Read, Scope::Submit]).await;
    let spec = json!({"module": "default:mill"});
    let short = job(&api, "gmu_acme", &spec, false).await;
    let live = job(&api, "gmu_acme", &spec, true).await;
    let long = job(&api, "gmu_plain", &spec, false).await;
    set(&api, "acme", json!({"job_ttl_ms": 60_000})).await;
    let mut retention = Retention::default();
    for (seconds, kept) in [(59, StatusCode::OK), (2, StatusCode::NOT_FOUND)] {
        api.clock.advance(Duration::from_secs(seconds));
        retention.round(&api.app).await;
        assert_eq!(status(&api, &short, "gmu_acme").await, kept);
        assert_eq!(status(&api, &live, "gmu_acme").await, StatusCode::OK, "it has not ended");
        assert_eq!(status(&api, &long, "gmu_plain").await, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_ceiling_takes_the_oldest_jobs_and_no_blob_that_anything_still_needs() {
    let retention = Ages {
        jobs_tenant_max: Some(2),
        blob_grace: Duration::from_secs(10),
        leftover_period: Duration::ZERO,
        ..Ages::default()
    };
    let api = Api::start_with(Settings { retention, ..Settings::default() }).await;
    api.publish("mill", "1.0.0").await;
    let token = crate::http_api::ADMIN;
    let put = async |text: &str| {
        let digest = digest(text.as_bytes());
        let path = format!("/v1/blobs/{digest}");
        api.admin(call("PUT", path).bytes(text.to_owned())).await;
        digest
    };
    let reading = async |texts: &[&str]| {
        let mut inputs = Vec::new();
        for text in texts {
            inputs.push(json!({"name": text, "source": {"digest": put(text).await}}));
        }
        json!({"module": "mill", "inputs": inputs})
    };
    // The oldest of all, and the only one that has not ended.
    let live = job(&api, token, &reading(&["live", "shared"]).await, true).await;
    let mut ended = Vec::new();
    for own in ["one", "two", "three", "four"] {
        api.clock.advance(Duration::from_secs(1));
        ended.push(job(&api, token, &reading(&[own, "shared"]).await, false).await);
    }
    let has = async |text: &str| {
        let digest = digest(text.as_bytes()).parse().expect("a digest");
        api.app.blobs.size(digest).await.expect("the blob store answers").is_some()
    };
    let mut rounds = Retention::default();
    rounds.round(&api.app).await;
    api.clock.advance(Duration::from_secs(20));
    // Of a submit that is not finished.
    put("pending").await;
    rounds.round(&api.app).await;
    for (job, expected) in ended.iter().zip([404, 404, 200, 200]) {
        assert_eq!(status(&api, job, token).await.as_u16(), expected, "{job}");
    }
    assert_eq!(status(&api, &live, token).await, StatusCode::OK);
    for (text, is_kept) in [
        ("live", true),
        ("shared", true),
        ("one", false),
        ("two", false),
        ("three", true),
        ("four", true),
        ("pending", true),
    ] {
        assert_eq!(has(text).await, is_kept, "{text}");
    }
    job(&api, token, &reading(&["pending"]).await, true).await;
    rounds.round(&api.app).await;
    let left = api.app.store.blob_totals().await.expect("totals").0;
    assert_eq!(left, 6, "the module's bytes are there too");
    let cancelled = api.admin(call("POST", format!("{live}/cancel"))).await;
    assert_eq!(cancelled.json()["state"], "cancelled");
    rounds.round(&api.app).await;
    assert_eq!(status(&api, &ended[2], token).await, StatusCode::NOT_FOUND, "now it is the newest");
    assert_eq!(status(&api, &live, token).await, StatusCode::OK);
}

#[tokio::test]
async fn a_ceiling_of_bytes_counts_outputs_and_logs_of_jobs_that_have_ended() {
    let api = Api::start().await;
    api.admin(call("POST", "/v1/tenants").json(&json!({"name": TENANT}))).await;
    let store = &*api.app.store;
    let script = Script(store);
    let run = async |n: u64| {
        let lease = script.run(submit(n)).await;
        store.log_append(append(1, &lease, LogStream::Stdout, 0, b"hello")).await.expect("append");
        let made = output(&format!("output-{n:03}"));
        let now = api.clock.now();
        store.blob_record_output(lease.job, 1, made.digest, made.size, now).await.expect("stored");
        (lease, made)
    };
    let _live = run(9).await;
    for n in 1..=4 {
        let (lease, made) = run(n).await;
        let succeeded = report(&made.path, outcome(OutcomeState::Succeeded, None), vec![made.clone()]);
        script.update(1, &lease, succeeded).await;
    }
    let kept = async || {
        let mut kept = Vec::new();
        for n in [1, 2, 3, 4, 9] {
            if store.job_get(job_id(n)).await.expect("read").is_some() {
                kept.push(n);
            }
        }
        kept
    };
    // Ten bytes of output and five of log each; all have ended in the same moment.
    for (bytes_max, expected) in [(60, vec![1, 2, 3, 4, 9]), (59, vec![2, 3, 4, 9]), (30, vec![3, 4, 9])] {
        set(&api, TENANT, json!({"bytes_max": bytes_max})).await;
        Retention::default().round(&api.app).await;
        assert_eq!(kept().await, expected, "of {bytes_max} bytes");
    }
    set(&api, TENANT, json!({"bytes_max": 0})).await;
    Retention::default().round(&api.app).await;
    assert_eq!(kept().await, [9], "what has not ended stays");
}
