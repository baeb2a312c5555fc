//! Bulk submit, cancel and retry over HTTP.

use std::collections::BTreeSet;

use gristmill_lifecycle::Settings;
use gristmill_protocol::tenancy::Scope;
use serde_json::{Value, json};

use crate::{
    backend::Backend as _,
    http_api::{Answer, Api, call},
    http_node::leased,
};

async fn api(settings: Settings) -> Api {
    let api = Api::start_with(settings).await;
    api.publish("mill", "1.0.0").await;
    api
}

fn lines(items: &[Value]) -> String {
    items.iter().flat_map(|item| [item.to_string(), "\n".to_owned()]).collect()
}

async fn submit(api: &Api, body: impl Into<bytes::Bytes>, kind: &str) -> Answer {
    let post = call("POST", "/v1/bulk/jobs/submit").header("content-type", kind).bytes(body);
    api.admin(post).await
}

async fn submit_lines(api: &Api, items: &[Value]) -> Value {
    let answer = submit(api, lines(items), "application/x-ndjson").await;
    assert_eq!(answer.status, 200, "{:?}", answer.json());
    answer.json()
}

fn statuses(view: &Value) -> Vec<u64> {
    let results = view["results"].as_array().expect("results");
    assert!(results.iter().enumerate().all(|(place, result)| result["index"] == place), "{view:#?}");
    results.iter().map(|result| result["status"].as_u64().expect("a status")).collect()
}

fn jobs(view: &Value) -> Vec<String> {
    let results = view["results"].as_array().expect("results");
    results.iter().filter_map(|result| result["job"].as_str().map(str::to_owned)).collect()
}

async fn post(api: &Api, path: &str, body: &Value) -> Value {
    let answer = api.admin(call("POST", format!("/v1/bulk/jobs/{path}")).json(body)).await;
    assert_eq!(answer.status, 200, "{:?}", answer.json());
    answer.json()
}

#[tokio::test]
async fn each_item_gets_its_own_result_in_order_and_all_that_are_accepted_share_one_commit() {
    let api = api(Settings::default()).await;
    let before = api.app.store.counters().commits;
    let items = [
        json!({"module": "mill", "idempotency_key": "a", "stdin": {"text": "corn"}}),
        json!({"module": "nothing"}),
        json!({"module": "mill", "prio": 1}),
        json!({"module": "mill", "idempotency_key": "a", "stdin": {"text": "corn"}}),
        json!({"module": "mill", "idempotency_key": "a"}),
        json!({"module": "mill", "priority": 1_000}),
        json!(7),
        json!({"module": "mill", "idempotency_key": 7}),
        json!({"module": "mill", "labels": {"disk": "fast"}, "limits": {"cpus_milli": 99_000}}),
        json!({"module": "mill"}),
    ];
    let expected = [201, 404, 400, 200, 422, 400, 400, 400, 201, 201];
    let view = submit_lines(&api, &items).await;
    assert_eq!(statuses(&view), expected, "{view:#?}");
    assert_eq!(api.app.store.counters().commits - before, 1);
    assert_eq!((&view["accepted"], &view["existing"], &view["refused"]), (&json!(3), &json!(1), &json!(6)));
    assert_eq!(jobs(&view)[0], jobs(&view)[1], "the same key is the same job within one call too");
    let codes: Vec<_> = view["results"]
        .as_array()
        .expect("results")
        .iter()
        .filter_map(|result| result["problem"]["code"].as_str())
        .collect();
    let invalid = "invalid_request";
    assert_eq!(codes, ["not_found", invalid, "idempotency_key_mismatch", invalid, invalid, invalid]);
    let audit = api.admin(call("GET", "/v1/audit?operation=job_submit")).await.json();
    let told: BTreeSet<_> =
        audit["items"].as_array().expect("entries").iter().map(|entry| entry["object"].to_string()).collect();
    assert_eq!(told, jobs(&view).iter().map(|id| format!("\"{id}\"")).collect(), "{audit:#?}");
    let stored = api.admin(call("GET", format!("/v1/jobs/{}", jobs(&view)[0]))).await.json();
    assert_eq!((&stored["state"], &stored["module"]["name"]), (&json!("queued"), &json!("mill")));

    let array = json!(items).to_string();
    let again = submit(&api, array, "application/json").await.json();
    assert_eq!(statuses(&again)[..5], [200, 404, 400, 200, 422]);
    assert_eq!(jobs(&again)[0], jobs(&view)[0]);
    let single = call("POST", "/v1/jobs").header("idempotency-key", "a");
    let single = api.admin(single.json(&json!({"module": "mill", "stdin": {"text": "corn"}}))).await;
    assert_eq!((single.status.as_u16(), &single.json()["id"]), (200, &json!(jobs(&view)[0])));
}

#[tokio::test]
async fn a_call_that_is_repeated_whole_makes_nothing_new() {
    let api = api(Settings::default()).await;
    let items: Vec<_> =
        (0..50).map(|n| json!({"module": "mill", "idempotency_key": format!("k{n}")})).collect();
    let first = submit_lines(&api, &items).await;
    let before = api.backend().dump().await;
    let again = submit_lines(&api, &items).await;
    assert_eq!((&again["existing"], jobs(&again)), (&json!(50), jobs(&first)));
    assert_eq!(api.backend().dump().await, before);
    assert_eq!(jobs(&first).into_iter().collect::<BTreeSet<_>>().len(), 50);
}

#[tokio::test]
async fn ten_thousand_jobs_are_one_commit_and_the_one_after_them_finds_the_queue_full() {
    let api = api(Settings::default()).await;
    let items = vec![json!({"module": "mill"}); 10_000];
    let before = api.app.store.counters();
    let view = submit_lines(&api, &items).await;
    let after = api.app.store.counters();
    assert_eq!((&view["accepted"], jobs(&view).len()), (&json!(10_000), 10_000));
    assert_eq!(after.commits - before.commits, 1);
    assert!(after.statements - before.statements < 30, "{before:?} {after:?}");
    let one = submit_lines(&api, &[json!({"module": "mill"})]).await;
    assert_eq!((statuses(&one), &one["results"][0]["problem"]["code"]), (vec![429], &json!("queue_full")));
    let cancelled = post(&api, "cancel", &json!({"all": true, "filter": {"page_size": 9_000}})).await;
    assert_eq!((&cancelled["matched"], &cancelled["cancelled"]), (&json!(9_000), &json!(9_000)));
    let token = &cancelled["next_page_token"];
    let rest = post(&api, "cancel", &json!({"all": true, "filter": {"page_token": token}})).await;
    assert_eq!(rest, json!({"matched": 1_000, "cancelled": 1_000}));
}

#[tokio::test]
async fn the_bounds_of_the_queue_hold_item_by_item() {
    let api = api(Settings { queue_depth_max: 5, ..Settings::default() }).await;
    let view = submit_lines(&api, &vec![json!({"module": "mill"}); 8]).await;
    assert_eq!(statuses(&view), [201, 201, 201, 201, 201, 429, 429, 429]);
}

#[tokio::test]
async fn a_body_that_is_refused_as_a_whole_changes_nothing() {
    let api = api(Settings { bulk_jobs_max: 3, bulk_bytes_max: 2 << 20, ..Settings::default() }).await;
    let before = api.backend().dump().await;
    let item = json!({"module": "mill"});
    let four = lines(&vec![item.clone(); 4]);
    let long = format!("{{\"module\": \"{}\"}}", "x".repeat(1 << 20));
    let much = lines(std::slice::from_ref(&item)) + &" ".repeat(2 << 20);
    for (body, kind, code) in [
        (four.as_str(), "application/x-ndjson", "body_too_large"),
        (&long, "application/jsonl", "body_too_large"),
        (&much, "application/x-ndjson", "body_too_large"),
        ("[{\"module\": \"mill\"}", "application/json", "invalid_request"),
        ("{\"module\": \"mill\"}", "application/json", "invalid_request"),
        ("[]x", "application/json", "invalid_request"),
        ("", "text/plain", "unsupported_media_type"),
    ] {
        assert_eq!(submit(&api, body.to_owned(), kind).await.code(), code, "{kind}");
    }
    api.token("gmu_reader", "default", &[Scope::Read]).await;
    for path in ["submit", "cancel", "retry"] {
        let post = call("POST", format!("/v1/bulk/jobs/{path}")).json(&json!({"all": true}));
        assert_eq!(api.send(post.token("gmu_reader")).await.code(), "forbidden", "{path}");
    }
    assert_eq!(submit_lines(&api, &[]).await["results"], json!([]));
    // The token was made, and its refusals may be on record.
    let rest = |rows: Vec<String>| {
        let is_other = |row: &String| !row.starts_with("tokens|") && !row.starts_with("audit|");
        rows.into_iter().filter(is_other).collect::<Vec<_>>()
    };
    let (after, before) = (rest(api.backend().dump().await), rest(before));
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_dry_run_counts_and_changes_nothing_and_a_cancel_takes_what_it_counted() {
    let api = api(Settings::default()).await;
    let of = |disk: &str| json!({"module": "mill", "labels": {"disk": disk}});
    let made = submit_lines(&api, &[of("fast"), of("slow"), of("fast"), of("slow"), of("fast")]).await;
    let fast = json!({"filter": {"label": "disk:fast"}});
    let before = api.backend().dump().await;
    assert_eq!(post(&api, "cancel?dry_run=true", &fast).await, json!({"matched": 3}));
    assert_eq!(post(&api, "cancel?dry_run=true", &json!({"all": true})).await, json!({"matched": 5}));
    assert_eq!(post(&api, "retry?dry_run=true", &json!({"all": true})).await, json!({"matched": 0}));
    assert_eq!(api.backend().dump().await, before);
    assert_eq!(post(&api, "cancel", &fast).await, json!({"matched": 3, "cancelled": 3}));
    assert_eq!(post(&api, "cancel", &fast).await, json!({"matched": 0, "cancelled": 0}));
    let ids = json!({"jobs": [jobs(&made)[0], jobs(&made)[1]]});
    assert_eq!(post(&api, "cancel?dry_run", &ids).await, json!({"matched": 1}));
    assert_eq!(post(&api, "cancel", &ids).await, json!({"matched": 1, "cancelled": 1}));
    for wrong in [
        json!({}),
        json!({"filter": {}}),
        json!({"filter": {"page_size": 5}}),
        json!({"filter": {"stat": "queued"}}),
        json!({"jobs": [], "all": true}),
        json!({"jobs": [], "filter": {"state": "queued"}}),
        json!({"all": true, "filter": {"page_size": 10_001}}),
        json!({"all": "yes"}),
    ] {
        let answer = api.admin(call("POST", "/v1/bulk/jobs/cancel").json(&wrong)).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "invalid_request"), "{wrong}");
    }
    assert_eq!(post(&api, "cancel?dry_run=true", &json!({"all": true})).await, json!({"matched": 1}));
}

#[tokio::test]
async fn the_zone_of_a_filter_is_where_a_job_ran_last_or_else_the_one_that_it_asks_for() {
    let api = api(Settings::default()).await;
    api.admin(call("POST", "/v1/zones").json(&json!({"name": "lab"}))).await;
    let node = api.enroll("grinder").await;
    let ran = leased(&api, &node, &json!({"module": "mill"})).await.job.to_string();
    let of = |zone: &str| json!({"module": "mill", "zone": zone});
    let made = submit_lines(&api, &[of("default"), of("lab"), json!({"module": "mill"}), of("lab")]).await;
    let made = jobs(&made);
    for (zone, expected) in
        [("default", vec![&made[0], &ran]), ("lab", vec![&made[3], &made[1]]), ("none", vec![])]
    {
        let list = api.admin(call("GET", format!("/v1/jobs?zone={zone}"))).await.json();
        let items = list["items"].as_array().expect("items");
        let found: Vec<_> = items.iter().map(|job| job["id"].as_str().expect("an id")).collect();
        assert_eq!(found, expected, "{zone}");
        let filter = json!({"filter": {"zone": zone}});
        let counted = post(&api, "cancel?dry_run=true", &filter).await;
        assert_eq!(counted, json!({"matched": expected.len()}), "{zone}");
    }
    let lab = json!({"filter": {"zone": "lab"}});
    assert_eq!(post(&api, "cancel", &lab).await, json!({"matched": 2, "cancelled": 2}));
    assert_eq!(post(&api, "retry?dry_run=true", &lab).await, json!({"matched": 2}));
    assert_eq!(statuses(&post(&api, "retry", &lab).await), [201, 201]);
}

#[tokio::test]
async fn what_belongs_into_the_address_is_told_from_what_is_unknown() {
    let api = api(Settings::default()).await;
    for path in ["cancel", "retry"] {
        for (body, hint) in [
            (json!({"all": true, "dry_run": true}), "?dry_run=true"),
            (json!({"all": true, "dry": true}), "known here: jobs, filter, all"),
        ] {
            let answer = api.admin(call("POST", format!("/v1/bulk/jobs/{path}")).json(&body)).await;
            let told = answer.json()["hint"].as_str().unwrap_or_default().to_owned();
            assert!(answer.code() == "invalid_request" && told.contains(hint), "{:?}", answer.json());
        }
    }
    let logs = api.admin(call("GET", "/v1/jobs/job_x/logs")).await;
    assert_eq!(logs.code(), "not_found");
    let told = logs.json()["hint"].as_str().unwrap_or_default().to_owned();
    assert!(told.contains("/v1/jobs/{id}/attempts/{number}/logs"), "{told}");
}

#[tokio::test]
async fn a_tenant_cancels_and_retries_its_own_jobs_alone() {
    let api = api(Settings::default()).await;
    api.token("gmu_other", "other", &[Scope::Submit, Scope::Read]).await;
    let made = submit_lines(&api, &[json!({"module": "mill"})]).await;
    for (path, selection) in [("cancel", json!({"all": true})), ("cancel", json!({"jobs": jobs(&made)}))] {
        let post = call("POST", format!("/v1/bulk/jobs/{path}")).json(&selection).token("gmu_other");
        assert_eq!(api.send(post).await.json()["matched"], 0, "{selection}");
    }
    post(&api, "cancel", &json!({"all": true})).await;
    let foreign = call("POST", "/v1/bulk/jobs/retry").json(&json!({"jobs": jobs(&made)})).token("gmu_other");
    assert_eq!(api.send(foreign).await.json()["results"], json!([]));
}

#[tokio::test]
async fn a_retry_makes_one_new_job_for_each_and_is_harmless_to_repeat_under_its_key() {
    let api = api(Settings::default()).await;
    let made = submit_lines(&api, &vec![json!({"module": "mill"}); 5]).await;
    post(&api, "cancel", &json!({"jobs": &jobs(&made)[..3]})).await;
    let cancelled = json!({"filter": {"state": "cancelled"}});
    assert_eq!(post(&api, "retry?dry_run=true", &cancelled).await, json!({"matched": 3}));
    let retry = || call("POST", "/v1/bulk/jobs/retry").header("idempotency-key", "again").json(&cancelled);
    let first = api.admin(retry()).await.json();
    assert_eq!(statuses(&first), [201, 201, 201]);
    let formers: BTreeSet<_> =
        first["results"].as_array().expect("results").iter().map(|r| r["retry_of"].to_string()).collect();
    assert_eq!(formers, jobs(&made)[..3].iter().map(|id| format!("\"{id}\"")).collect());
    let again = api.admin(retry()).await.json();
    assert_eq!((statuses(&again), jobs(&again)), (vec![200, 200, 200], jobs(&first)));
    let by_page = post(&api, "retry", &json!({"filter": {"state": "cancelled", "page_size": 2}})).await;
    let token = &by_page["next_page_token"];
    let last = json!({"filter": {"state": "cancelled", "page_size": 2, "page_token": token}});
    let last = post(&api, "retry", &last).await;
    assert_eq!((statuses(&by_page).len(), statuses(&last).len(), last.get("next_page_token")), (2, 1, None));
}
