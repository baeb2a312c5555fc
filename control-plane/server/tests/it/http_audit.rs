//! The record of who changed what, and what the server says of its own health.

use std::time::Duration;

use gristmill_protocol::tenancy::Scope;
use serde_json::{Value, json};

use crate::http_api::{ADMIN, Api, Call, call, command, digest};

async fn entries(api: &Api, query: &str) -> Vec<Value> {
    let answer = api.admin(call("GET", format!("/v1/audit?{query}"))).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    answer.json()["items"].as_array().cloned().expect("a page")
}

/// Makes a call and returns the one entry that it brought about.
async fn recorded(api: &Api, call: Call) -> Value {
    let before =
        entries(api, "page_size=1").await.first().map_or(0, |entry| entry["seq"].as_u64().expect("a number"));
    let answer = api.admin(call).await;
    let id = answer.header("x-request-id").expect("an id").to_owned();
    let newest = entries(api, "page_size=2").await;
    let news: Vec<_> = newest.iter().filter(|entry| entry["seq"].as_u64() > Some(before)).collect();
    assert_eq!(news.len(), 1, "{}: {newest:?}", answer.json());
    assert_eq!(news[0]["request_id"], json!(id));
    news[0].clone()
}

#[tokio::test]
async fn every_change_is_recorded_with_who_and_what_and_no_read_is() {
    let api = Api::start().await;
    let admin = api.admin(call("GET", "/v1/tokens")).await.json()["items"][0]["id"].clone();
    let node = api.enroll("grinder").await;
    let enrolled = entries(&api, "operation=node_enroll").await;
    let join_token = entries(&api, "operation=join_token_create").await[0]["object"].clone();
    assert_eq!((&enrolled[0]["actor"], &enrolled[0]["object"]), (&join_token, &json!(node.id)));

    let post = |target: &str, body: Value| call("POST", target).json(&body);
    let blob = digest(b"grain");
    let put = |target: &str, bytes: Vec<u8>| call("PUT", target).bytes(bytes);
    let node_path = |rest: &str| format!("/v1/nodes/{}/{rest}", node.id);
    for (request, operation, object) in [
        (put(&format!("/v1/blobs/{blob}"), b"grain".to_vec()), "blob_put", blob.as_str()),
        (put("/v1/modules/mill/versions/1.0.0", command()), "module_publish", "default:mill@1.0.0"),
        (
            call("PATCH", "/v1/modules/mill").json(&json!({"visibility": "public"})),
            "module_change",
            "default:mill",
        ),
        (
            call("PATCH", "/v1/modules/mill/versions/1.0.0").json(&json!({"deprecated": false})),
            "module_version_change",
            "default:mill@1.0.0",
        ),
        (post("/v1/tenants", json!({"name": "third"})), "tenant_create", "third"),
        (call("PUT", "/v1/tenants/third").json(&json!({"name": "third"})), "tenant_replace", "third"),
        (post("/v1/zones", json!({"name": "lab"})), "zone_create", "lab"),
        (call("PUT", "/v1/zones/lab").json(&json!({"name": "lab"})), "zone_replace", "lab"),
        (post("/v1/tokens", json!({"name": "ci"})), "token_create", "tok_"),
        (post("/v1/join-tokens", json!({"zone": "lab"})), "join_token_create", "join_"),
        (call("POST", node_path("drain")), "node_drain", "node_"),
        (call("POST", node_path("resume")), "node_resume", "node_"),
        (post("/v1/jobs", json!({"module": "mill"})), "job_submit", "job_"),
        (call("POST", node_path("revoke")), "node_revoke", "node_"),
    ] {
        let entry = recorded(&api, request).await;
        assert_eq!((&entry["operation"], &entry["outcome"]), (&json!(operation), &json!("done")), "{entry}");
        assert!(entry["object"].as_str().is_some_and(|found| found.starts_with(object)), "{entry}");
        assert_eq!((&entry["actor"], &entry["tenant"]), (&admin, &json!("default")), "{entry}");
        assert_eq!(entry["at"], "2026-01-01T00:00:00Z");
    }
    let job = entries(&api, "operation=job_submit").await[0]["object"].as_str().expect("an id").to_owned();
    let cancelled = recorded(&api, call("POST", format!("/v1/jobs/{job}/cancel"))).await;
    assert_eq!(cancelled["operation"], "job_cancel");
    assert!(cancelled["version_after"].as_u64() > cancelled["version_before"].as_u64(), "{cancelled}");
    let zone = &entries(&api, "operation=zone_replace").await[0];
    assert_eq!((&zone["version_before"], &zone["version_after"]), (&json!(1), &json!(2)));
    let token =
        entries(&api, "operation=token_create").await[0]["object"].as_str().expect("an id").to_owned();
    let revoked = recorded(&api, call("DELETE", format!("/v1/tokens/{token}"))).await;
    assert_eq!((&revoked["operation"], &revoked["object"]), (&json!("token_revoke"), &json!(token)));

    let count = entries(&api, "page_size=1000").await.len();
    for read in ["/v1/jobs", "/v1/tokens", "/v1/zones", "/v1/nodes", "/v1/modules", "/v1/audit"] {
        api.admin(call("GET", read)).await;
    }
    api.admin(post("/v1/jobs?validate_only=true", json!({"module": "mill"}))).await;
    assert_eq!(entries(&api, "page_size=1000").await.len(), count);
}

#[tokio::test]
async fn what_was_refused_is_recorded_as_that_and_what_was_not_allowed_not_at_all() {
    let api = Api::start().await;
    let taken = recorded(&api, call("POST", "/v1/tenants").json(&json!({"name": "other"}))).await;
    assert_eq!((&taken["operation"], &taken["outcome"]), (&json!("tenant_create"), &json!("refused")));
    let stale =
        call("PUT", "/v1/zones/default").json(&json!({"name": "default"})).header("if-match", "\"7\"");
    let stale = recorded(&api, stale).await;
    assert_eq!((&stale["outcome"], &stale["version_before"]), (&json!("refused"), &json!(1)));
    let count = entries(&api, "page_size=1000").await.len();
    api.token("gmu_reader", "default", &[Scope::Read]).await;
    for request in [
        call("POST", "/v1/tenants").json(&json!({"name": "x"})).token("gmu_reader"),
        call("POST", "/v1/tenants").json(&json!({"name": "x"})),
        call("POST", "/v1/tenants").json(&json!({"name": "X"})).token(ADMIN),
    ] {
        assert!(api.send(request).await.status.is_client_error());
    }
    assert_eq!(entries(&api, "page_size=1000").await.len(), count);
    let refused = api.send(call("GET", "/v1/audit").token("gmu_reader")).await;
    assert_eq!(refused.code(), "forbidden");
}

#[tokio::test]
async fn the_record_is_read_page_by_page_and_filtered() {
    let api = Api::start().await;
    for number in 0..5 {
        api.admin(call("POST", "/v1/tenants").json(&json!({"name": format!("t{number}")}))).await;
        api.clock.advance_s(10);
    }
    let objects = |items: &[Value]| -> Vec<String> {
        items.iter().map(|entry| entry["object"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let first = api.admin(call("GET", "/v1/audit?page_size=2")).await.json();
    assert_eq!(objects(first["items"].as_array().expect("a page")), ["t4", "t3"]);
    let token = first["next_page_token"].as_str().expect("there is more");
    assert_eq!(objects(&entries(&api, &format!("page_size=2&page_token={token}")).await), ["t2", "t1"]);
    assert_eq!(objects(&entries(&api, "object=t3").await), ["t3"]);
    let times = "since=2026-01-01T00:00:10Z&until=2026-01-01T00:00:30Z";
    assert_eq!(objects(&entries(&api, times).await), ["t2", "t1"]);
    for nothing in ["tenant=other", "actor=server", "operation=blob_put", "object=t9"] {
        assert_eq!(entries(&api, nothing).await, Vec::<Value>::new(), "{nothing}");
    }
    let wrong = api.admin(call("GET", "/v1/audit?operation=tenant_crate")).await;
    assert_eq!(wrong.code(), "invalid_request");
    assert!(
        wrong.json()["hint"].as_str().is_some_and(|hint| hint.contains("tenant_create")),
        "{}",
        wrong.json()
    );
}

#[tokio::test]
async fn no_secret_reaches_the_record() {
    let api = Api::start().await;
    let token = api.admin(call("POST", "/v1/tokens").json(&json!({"name": "ci"}))).await.json();
    let join = api.admin(call("POST", "/v1/join-tokens").json(&json!({"zone": "default"}))).await.json();
    let text = format!("{:?}", entries(&api, "page_size=1000").await);
    for secret in [&token["secret"], &join["secret"], &json!(ADMIN)] {
        assert!(!text.contains(secret.as_str().expect("a secret")));
    }
    assert!(!text.contains("gmu_") && !text.contains("gmj_"));
}

#[tokio::test]
async fn readiness_lists_its_checks_and_names_what_fails() {
    let api = Api::start().await;
    let verbose = || call("GET", "/readyz?verbose");
    let fine = api.send(verbose()).await;
    assert_eq!((fine.status.as_u16(), &fine.json()["ready"]), (200, &json!(true)));
    let names = |answer: &Value, ok: bool| -> Vec<String> {
        let checks = answer["checks"].as_array().cloned().unwrap_or_default();
        let found = checks.iter().filter(|check| check["ok"] == ok && check["elapsed_us"].is_u64());
        found.map(|check| check["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(names(&fine.json(), true), ["running", "store", "blobs", "disk", "clock", "sweep"]);

    // Nobody sweeps here: after a while that is noticed.
    api.clock.advance_s(31);
    let late = api.send(verbose()).await;
    assert_eq!((late.status.as_u16(), names(&late.json(), false)), (503, vec!["sweep".to_owned()]));
    let plain = api.send(call("GET", "/readyz")).await;
    assert_eq!((plain.status.as_u16(), plain.code().as_str()), (503, "unavailable"));
    assert_eq!(plain.json()["errors"][0]["pointer"], "sweep");
    gristmill_server::sweep::Sweep::default().round(&api.app).await;
    api.clock.advance_s(3);
    assert_eq!(api.send(call("GET", "/readyz")).await.status, 200);

    // A store that is closed and a directory that is gone are found out; the process lives.
    api.remove_staging();
    api.clock.advance(Duration::from_secs(3));
    assert_eq!(names(&api.send(verbose()).await.json(), false), ["blobs", "disk"]);
    api.app.store.close().await;
    api.clock.advance(Duration::from_secs(3));
    assert_eq!(names(&api.send(verbose()).await.json(), false), ["store", "blobs", "disk"]);
    assert_eq!(api.send(call("GET", "/livez")).await.status, 200);
}
