//! What goes wrong with any request, whatever it is about.

use gristmill_protocol::tenancy::Scope;
use insta::assert_snapshot;
use serde_json::json;

use crate::{
    http_api::{ADMIN, Api, call, digest},
    http_node::leased,
};

#[tokio::test]
async fn every_wrong_request_gets_a_problem_document() {
    let mut api = Api::start().await;
    api.note("unknown path", call("GET", "/v2/jobs")).await;
    api.note_admin("unknown path below the version", call("GET", "/v1/bobs")).await;
    api.note_admin("unknown method", call("DELETE", "/v1/zones")).await;
    api.note_admin("trace", call("TRACE", "/v1/zones")).await;
    api.note("no token", call("GET", "/v1/zones")).await;
    api.note("another scheme", call("GET", "/v1/zones").header("authorization", "Basic abc")).await;
    api.note("no token of ours", call("GET", "/v1/zones").token("secret")).await;
    api.note("unknown token", call("GET", "/v1/zones").token("gmu_unknown")).await;
    api.note("long token", call("GET", "/v1/zones").token(&"gmu_".repeat(2_500))).await;
    let post = || call("POST", "/v1/zones");
    api.note_admin("no body", post().header("content-type", "application/json")).await;
    api.note_admin("no content type", post().bytes("{}")).await;
    api.note_admin("cut", post().header("content-type", "application/json").bytes("{\"name\": \"a")).await;
    api.note_admin(
        "more after it",
        post().header("content-type", "application/json").bytes("{\"name\":\"a\"} {}"),
    )
    .await;
    let deep = format!("{{\"params\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    api.note_admin("no object", post().header("content-type", "application/json").bytes("[]")).await;
    api.note_admin("deep", call("POST", "/v1/jobs").header("content-type", "application/json").bytes(deep))
        .await;
    let twice = call("POST", "/v1/zones").header("content-type", "application/json");
    api.note_admin("a field twice", twice.bytes("{\"name\":\"a\",\"name\":\"b\"}")).await;
    let huge = call("POST", "/v1/jobs").header("content-type", "application/json");
    api.note_admin("huge number", huge.bytes("{\"module\":\"m\",\"limits\":{\"fuel\":1e999}}")).await;
    let long = json!({"name": "a".repeat(1 << 20)});
    api.note_admin("too large", post().json(&long)).await;
    api.note_admin("unknown parameter", call("GET", "/v1/jobs?stat=queued")).await;
    api.note_admin("parameter twice", call("GET", "/v1/jobs?state=queued&state=running")).await;
    api.note_admin("page token", call("GET", "/v1/tenants?page_token=abcdefgh1234")).await;
    api.note_admin("page size", call("GET", "/v1/tenants?page_size=0")).await;
    api.note_admin("no duration", call("POST", "/v1/jobs?wait=soon").json(&json!({"module": "m"}))).await;
    api.note_admin("odd path", call("GET", "/v1/modules/%2e%2e%2f%00")).await;
    api.note_admin("no text", call("GET", "/v1/modules/%ff")).await;
    assert_snapshot!(api.transcript());
}

#[tokio::test]
async fn wrong_parameters_and_headers_are_named_with_their_rule() {
    let api = Api::start().await;
    let get = |target: &str| call("GET", target);
    let job = || call("POST", "/v1/jobs").json(&json!({"module": "mill"}));
    let tus = || call("POST", "/v1/uploads").header("tus-resumable", "1.0.0");
    for (request, named, rule) in [
        (get("/v1/tokens?page_size=many"), "page_size", "must be a whole number, such as 50"),
        (get("/v1/tokens?page_size="), "page_size", "must be a whole number, such as 50"),
        (get("/v1/tokens?page_size=-1"), "page_size", "must be a whole number, such as 50"),
        (get("/v1/tokens?page_size=99999999999"), "page_size", "is a larger number than is allowed here"),
        (get("/v1/tokens?page_size=1001"), "page_size", "must be from 1 to 1000"),
        (get("/v1/tokens?page_token=x"), "page_token", "no page token of this list"),
        (get("/v1/audit?since=yesterday"), "since", "must be a time such as"),
        (get("/v1/jobs?state=lost"), "state", "must be one of queued"),
        (get("/v1/jobs?label=x"), "label", "must be key:value"),
        (call("POST", "/v1/jobs?wait=soon").json(&json!({"module": "m"})), "wait", ""),
        (job().header("idempotency-key", ""), "Idempotency-Key", "1 to 255 visible ASCII"),
        (
            get("/v1/events").header("last-event-id", "x").header("accept", "text/event-stream"),
            "Last-Event-ID",
            "",
        ),
        (tus().header("upload-length", "many"), "upload-length", "must be a number of bytes"),
        (
            call("PUT", "/v1/zones/default").json(&json!({"name": "default"})).header("if-match", "three"),
            "If-Match",
            "ETag of an earlier answer",
        ),
    ] {
        let what = request.target.clone();
        let answer = api.admin(request).await.json();
        let field = &answer["errors"][0];
        assert_eq!(
            (&answer["code"], &field["pointer"]),
            (&json!("invalid_request"), &json!(named)),
            "{what}: {answer}"
        );
        let detail = field["detail"].as_str().expect("a rule");
        assert!(detail.len() > 10 && detail.contains(rule), "{what}: {answer}");
        for vague in ["invalid digit", "invalid value", "failed to"] {
            assert!(!detail.contains(vague), "{what}: {answer}");
        }
        assert!(answer["detail"].as_str().is_some_and(|text| text.contains(named)), "{what}: {answer}");
        assert!(answer["hint"].as_str().is_some_and(|hint| hint.len() > 10), "{what}: {answer}");
    }
}

#[tokio::test]
async fn an_expired_token_is_refused_even_when_it_was_remembered() {
    let api = Api::start().await;
    assert_eq!(api.admin(call("GET", "/v1/zones")).await.status, 200);
    api.clock.advance_s(1_000);
    let answer = api.admin(call("GET", "/v1/zones")).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "unauthenticated"));
}

#[tokio::test]
async fn a_scope_that_is_missing_is_named() {
    let api = Api::start().await;
    api.token("gmu_reader", "default", &[Scope::Read]).await;
    api.token("gmu_submitter", "default", &[Scope::Submit]).await;
    let blob = format!("/v1/blobs/{}", digest(b"x"));
    for (secret, request, scope) in [
        ("gmu_reader", call("POST", "/v1/jobs").json(&json!({"module": "m"})), "submit"),
        ("gmu_reader", call("PUT", &blob).bytes("x"), "submit"),
        ("gmu_reader", call("PUT", "/v1/modules/m/versions/1.0.0").bytes("x"), "publish"),
        ("gmu_reader", call("POST", "/v1/tenants").json(&json!({"name": "x"})), "admin"),
        ("gmu_submitter", call("GET", "/v1/modules"), "read"),
        ("gmu_submitter", call("GET", "/v1/nodes"), "read"),
    ] {
        let answer = api.send(request.token(secret)).await;
        assert_eq!(answer.code(), "forbidden");
        let detail = answer.json()["detail"].to_string();
        assert!(detail.contains(scope), "{detail}");
    }
}

#[tokio::test]
async fn every_answer_carries_its_id_and_keeps_browsers_from_guessing() {
    let api = Api::start().await;
    let answer = api.send(call("GET", "/nowhere")).await;
    let id = answer.header("x-request-id").expect("every answer has an id");
    assert_eq!(answer.json()["request_id"], id);
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("date"), Some("Thu, 01 Jan 2026 00:00:00 GMT"));
    assert!(
        answer.header("content-security-policy").is_some_and(|value| value.contains("default-src 'none'"))
    );
    assert!(answer.header("access-control-allow-origin").is_none());
}

#[tokio::test]
async fn liveness_needs_no_token_and_metrics_need_their_scope_and_tell_no_names() {
    let api = Api::start().await;
    api.publish("mill", "1.0.0").await;
    api.enroll("grinder").await;
    api.admin(call("POST", "/v1/jobs").json(&json!({"module": "mill"}))).await;
    api.clock.advance_s(7);
    assert_eq!(api.send(call("GET", "/livez")).await.status, 200);
    assert_eq!(api.send(call("GET", "/readyz")).await.status, 200);
    assert_eq!(api.send(call("GET", "/metrics")).await.code(), "unauthenticated");
    api.token("gmu_tenant", "default", &[Scope::Read, Scope::Submit, Scope::Publish]).await;
    assert_eq!(api.send(call("GET", "/metrics").token("gmu_tenant")).await.code(), "forbidden");
    api.token("gmu_monitor", "default", &[Scope::Metrics]).await;
    assert_eq!(api.send(call("GET", "/v1/jobs").token("gmu_monitor")).await.code(), "forbidden");
    let metrics = api.send(call("GET", "/metrics").token("gmu_monitor")).await;
    let text = String::from_utf8(metrics.body.to_vec()).expect("is text");
    for line in [
        "gristmill_jobs{state=\"queued\"} 1",
        "gristmill_queue_depth 1",
        "gristmill_jobs_queued{zone=\"_any\"} 1",
        "gristmill_jobs_queued{zone=\"default\"} 0",
        "gristmill_jobs_submitted_total 1",
        "gristmill_leases_active 0",
        "gristmill_nodes{zone=\"default\",state=\"active\"} 1",
        "gristmill_nodes{zone=\"default\",state=\"away\"} 0",
        "gristmill_node_cores{zone=\"default\"} 4",
        "gristmill_queue_oldest_age_seconds 7",
        "gristmill_node_heartbeat_age_seconds{zone=\"default\"} 7",
        "gristmill_http_request_duration_seconds_count{route=\"/v1/jobs\",method=\"POST\",status=\"201\"} 1",
        "# TYPE gristmill_store_commits_total counter",
        "gristmill_blobs 1",
        "gristmill_http_requests_denied_total{code=\"unauthenticated\"} 1",
        "gristmill_http_requests_denied_total{code=\"forbidden\"} 2",
        "gristmill_http_requests_denied_total{code=\"queue_full\"} 0",
        "gristmill_http_connections_denied_total 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    assert!(!text.contains("grinder") && !text.contains("mill\""));
    api.app.shutdown.cancel();
    assert_eq!(api.send(call("GET", "/readyz")).await.status, 503);
    assert_eq!(api.send(call("GET", "/livez").token(ADMIN)).await.status, 200);
}

#[tokio::test]
async fn the_queue_and_the_use_of_nodes_are_counted_by_zone() {
    let api = Api::start().await;
    api.publish("mill", "1.0.0").await;
    assert_eq!(api.admin(call("POST", "/v1/zones").json(&json!({"name": "lab"}))).await.status, 201);
    let node = api.enroll("grinder").await;
    let limits = json!({"cpus_milli": 1_500, "memory_bytes": 64 << 20});
    leased(&api, &node, &json!({"module": "mill", "limits": limits})).await;
    for (zone, count) in [(json!(null), 1), (json!("default"), 2), (json!("lab"), 3)] {
        for _ in 0..count {
            let spec = json!({"module": "mill", "zone": zone});
            assert_eq!(api.admin(call("POST", "/v1/jobs").json(&spec)).await.status, 201);
        }
    }
    let shown = async || {
        let metrics = api.admin(call("GET", "/metrics")).await;
        String::from_utf8(metrics.body.to_vec()).expect("is text")
    };
    let text = shown().await;
    for line in [
        "gristmill_jobs_queued{zone=\"_any\"} 1",
        "gristmill_jobs_queued{zone=\"default\"} 2",
        "gristmill_jobs_queued{zone=\"lab\"} 3",
        "gristmill_queue_depth 6",
        "gristmill_jobs{state=\"queued\"} 7",
        "gristmill_leases_active 1",
        "gristmill_node_cores_used{zone=\"default\"} 1.5",
        "gristmill_node_memory_used_bytes{zone=\"default\"} 67108864",
        "gristmill_node_cores_used{zone=\"lab\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    api.admin(call("POST", format!("/v1/nodes/{}/drain", node.id))).await;
    api.clock.advance_s(1);
    let text = shown().await;
    for name in ["gristmill_node_cores", "gristmill_node_cores_used"] {
        let line = format!("{name}{{zone=\"default\"}} 0");
        assert!(text.lines().any(|found| found == line), "a node that drains offers nothing: {text}");
    }
}
