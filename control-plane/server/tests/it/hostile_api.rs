//! Requests that mean harm, each refused with its code. The numbers are those of the list in
//! `tests/it/hostile` at the top of the repository; what nodes could do is in `hostile_node`,
//! what needs a real socket in `hostile_wire`.

use gristmill_protocol::{JobId, tenancy::Scope};
use serde_json::{Value, json};

use crate::http_api::{ADMIN, Answer, Api, Call, call, digest};

/// Insists on a refusal that names the place and the rule and says what to do.
#[track_caller]
pub(crate) fn assert_explained(answer: &Answer, what: &str) {
    let problem = answer.json();
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}: {problem}");
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (400, "invalid_request"),
        "{what}: {problem}"
    );
    let field = &problem["errors"][0];
    assert!(field["pointer"].is_string(), "{what}: {problem}");
    assert!(field["detail"].as_str().is_some_and(|rule| !rule.is_empty()), "{what}: {problem}");
    assert!(problem["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{what}: {problem}");
}

fn pointers(answer: &Answer) -> Vec<String> {
    let errors = answer.json()["errors"].as_array().cloned().unwrap_or_default();
    errors.iter().filter_map(|field| field["pointer"].as_str().map(str::to_owned)).collect()
}

fn raw_json(target: &str, text: impl Into<String>) -> Call {
    call("POST", target).header("content-type", "application/json").bytes(text.into())
}

/// A server with a module that a job may run.
pub(crate) async fn with_module() -> Api {
    let api = Api::start().await;
    api.publish("mill", "1.0.0").await;
    api
}

pub(crate) async fn submitted(api: &Api, spec: &Value) -> JobId {
    let answer = api.admin(call("POST", "/v1/jobs").json(spec)).await;
    assert_eq!(answer.status, 201, "{}", answer.json());
    serde_json::from_value(answer.json()["id"].clone()).expect("an id")
}

#[tokio::test]
async fn a01_json_that_is_nested_too_deeply_is_refused_by_name() {
    let api = with_module().await;
    for depth in [129, 100_000] {
        let deep = format!("{{\"module\":\"mill\",\"params\":{}1{}}}", "[".repeat(depth), "]".repeat(depth));
        let answer = api.admin(raw_json("/v1/jobs", deep)).await;
        assert_explained(&answer, "deep");
        assert_eq!(pointers(&answer), ["/params"]);
        assert!(answer.json()["detail"].as_str().is_some_and(|text| text.contains("128 levels")));
    }
}

#[tokio::test]
async fn a02_a_key_that_is_there_twice_is_refused_at_any_depth() {
    let api = with_module().await;
    for (text, at) in [
        (r#"{"module":"mill","module":"other"}"#, "/module"),
        (r#"{"module":"mill","env":{"A":"1","A":"2"}}"#, "/env/A"),
        (r#"{"module":"mill","params":[{"a":1,"a":1}]}"#, "/params/0/a"),
    ] {
        let answer = api.admin(raw_json("/v1/jobs", text)).await;
        assert_explained(&answer, text);
        assert_eq!(pointers(&answer), [at]);
    }
}

#[tokio::test]
async fn a03_numbers_that_are_none_or_do_not_fit_are_refused() {
    let api = with_module().await;
    for number in ["NaN", "1e999", "-1e999", "-1", "9223372036854775808000", "1.5", "Infinity", "0x10", "01"]
    {
        let text = format!(r#"{{"module":"mill","limits":{{"fuel":{number}}}}}"#);
        let answer = api.admin(raw_json("/v1/jobs", text)).await;
        assert_explained(&answer, number);
    }
    for (number, is_good) in [("0", true), ("-0", false), ("4294967295", false), ("4294967296", false)] {
        let text = format!(r#"{{"module":"mill","retries":{number}}}"#);
        let answer = api.admin(raw_json("/v1/jobs?validate_only=true", text)).await;
        assert_eq!(answer.status.is_success(), is_good, "{number}: {}", answer.json());
    }
}

#[tokio::test]
async fn a04_unknown_fields_are_named_with_the_one_that_was_meant() {
    let api = with_module().await;
    for (target, body, at, meant) in [
        ("/v1/jobs", json!({"module": "mill", "argz": []}), "/argz", "args"),
        (
            "/v1/jobs",
            json!({"module": "mill", "limits": {"memory_byte": 1}}),
            "/limits/memory_byte",
            "memory_bytes",
        ),
        ("/v1/zones", json!({"name": "a", "policy": {"isolatoin": "x"}}), "/policy/isolatoin", "isolation"),
        ("/v1/tenants", json!({"name": "a", "queue_depth": 1}), "/queue_depth", ""),
        ("/v1/tokens", json!({"name": "a", "scope": ["read"]}), "/scope", "scopes"),
        ("/v1/join-tokens", json!({"zome": "default"}), "/zome", "zone"),
    ] {
        let answer = api.admin(call("POST", target).json(&body)).await;
        assert_explained(&answer, at);
        assert_eq!(pointers(&answer), [at], "{}", answer.json());
        let detail = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
        assert!(meant.is_empty() || detail.contains(&format!("did you mean {meant}?")), "{detail}");
    }
    let answer = api.admin(call("GET", "/v1/jobs?modul=mill")).await;
    assert_explained(&answer, "query");
    assert_eq!(pointers(&answer), ["modul"]);
}

#[tokio::test]
async fn a05_credentials_that_are_missing_doubled_or_strange_are_refused() {
    let api = Api::start().await;
    let get = || call("GET", "/v1/zones");
    let twice = get().token("gmu_wrong").token(ADMIN);
    let bearer = |value: &str| get().header("authorization", value);
    for (what, request) in [
        ("none", get()),
        ("twice", twice),
        ("basic", bearer("Basic Z211X2FkbWluOg==")),
        ("no scheme", bearer(ADMIN)),
        ("no secret", bearer("Bearer ")),
        ("ten kilobytes", get().token(&format!("gmu_{}", "a".repeat(10_000)))),
        ("a join token", get().token("gmj_admin")),
        ("a byte more", get().token("gmu_admin1")),
        ("a byte less", get().token("gmu_admi")),
        ("in the query", call("GET", format!("/v1/zones?token={ADMIN}"))),
    ] {
        let answer = api.send(request).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "unauthenticated"), "{what}");
        assert!(answer.header("www-authenticate").is_some(), "{what}");
        assert!(!String::from_utf8_lossy(&answer.body).contains(ADMIN), "{what}");
    }
}

#[tokio::test]
async fn a06_what_belongs_to_another_tenant_is_as_absent() {
    let api = with_module().await;
    let job = submitted(&api, &json!({"module": "mill", "stdin": {"text": "secret"}})).await;
    let token = api.token("gmu_theirs", "default", &[Scope::Read]).await;
    api.token("gmu_other", "other", &[Scope::Read, Scope::Submit, Scope::Publish]).await;
    let absent_job = JobId::from_parts(9, [9; 10]);
    let absent_token = gristmill_protocol::TokenId::from_parts(9, [9; 10]);
    let (secret, nothing) = (digest(b"secret"), digest(b"nothing"));
    for (method, there, absent) in [
        ("GET", format!("/v1/jobs/{job}"), format!("/v1/jobs/{absent_job}")),
        ("GET", format!("/v1/jobs/{job}/attempts"), format!("/v1/jobs/{absent_job}/attempts")),
        ("GET", format!("/v1/jobs/{job}/attempts/1/logs"), format!("/v1/jobs/{absent_job}/attempts/1/logs")),
        ("GET", format!("/v1/jobs/{job}/outputs"), format!("/v1/jobs/{absent_job}/outputs")),
        ("GET", format!("/v1/jobs/{job}/outputs/a"), format!("/v1/jobs/{absent_job}/outputs/a")),
        ("GET", format!("/v1/jobs/{job}/placement"), format!("/v1/jobs/{absent_job}/placement")),
        ("POST", format!("/v1/jobs/{job}/cancel"), format!("/v1/jobs/{absent_job}/cancel")),
        ("POST", format!("/v1/jobs/{job}/retry"), format!("/v1/jobs/{absent_job}/retry")),
        ("GET", format!("/v1/blobs/{secret}"), format!("/v1/blobs/{nothing}")),
        ("GET", format!("/v1/tokens/{token}"), format!("/v1/tokens/{absent_token}")),
        ("DELETE", format!("/v1/tokens/{token}"), format!("/v1/tokens/{absent_token}")),
        ("GET", "/v1/modules/default:mill".into(), "/v1/modules/default:bill".into()),
    ] {
        let told = |answer: Answer| {
            let mut problem = answer.json();
            problem["request_id"] = Value::Null;
            (answer.status.as_u16(), problem)
        };
        let theirs = told(api.send(call(method, &there).token("gmu_other")).await);
        assert_eq!(theirs.0, 404, "{method} {there}: {}", theirs.1);
        let nobodys = told(api.send(call(method, &absent).token("gmu_other")).await);
        assert_eq!(theirs, nobodys, "{method} {there}");
    }
    let mine = api.admin(call("GET", format!("/v1/jobs/{job}"))).await;
    assert_eq!(mine.json()["state"], "queued", "nothing happened to it");
}

#[tokio::test]
async fn a08_an_idempotency_key_stands_for_one_request() {
    let api = with_module().await;
    let submit = |body: Value, key: &str| {
        call("POST", "/v1/jobs").json(&body).header("idempotency-key", key.to_owned())
    };
    let first = api.admin(submit(json!({"module": "mill"}), "k")).await;
    let other = api.admin(submit(json!({"module": "mill", "args": ["a"]}), "k")).await;
    assert_eq!((other.status.as_u16(), other.code().as_str()), (422, "idempotency_key_mismatch"));
    let again = api.admin(submit(json!({"module": "mill"}), "k")).await;
    assert_eq!(again.json()["id"], first.json()["id"]);
    for key in ["", &"k".repeat(256), "k\u{e9}"] {
        assert_explained(&api.admin(submit(json!({"module": "mill"}), key)).await, key);
    }
}

#[tokio::test]
async fn a09_limits_and_policies_outside_their_range_are_all_named() {
    let api = with_module().await;
    for (body, at) in [
        (json!({"limits": {"wall_time_ms": 0}}), "/limits/wall_time_ms"),
        (json!({"limits": {"wall_time_ms": u64::MAX}}), "/limits/wall_time_ms"),
        (json!({"limits": {"wall_time_ms": -1}}), "/limits/wall_time_ms"),
        (json!({"limits": {"memory_bytes": 0}}), "/limits/memory_bytes"),
        (json!({"limits": {"memory_bytes": u64::MAX}}), "/limits/memory_bytes"),
        (json!({"limits": {"fuel": 0}}), "/limits/fuel"),
        (json!({"limits": {"cpus_milli": 0}}), "/limits/cpus_milli"),
        (json!({"limits": {"disk_bytes": u64::MAX}}), "/limits/disk_bytes"),
        (json!({"retries": -1}), "/retries"),
        (json!({"retries": 101}), "/retries"),
        (json!({"priority": 101}), "/priority"),
        (json!({"priority": i64::MIN}), "/priority"),
        (json!({"deadline_ms": 0}), "/deadline_ms"),
        (json!({"queue_timeout_ms": u64::MAX}), "/queue_timeout_ms"),
    ] {
        let mut spec = json!({"module": "mill"});
        spec.as_object_mut().expect("an object").extend(body.as_object().cloned().expect("an object"));
        let answer = api.admin(call("POST", "/v1/jobs").json(&spec)).await;
        assert_explained(&answer, at);
        assert_eq!(pointers(&answer), [at], "{}", answer.json());
    }
}

#[tokio::test]
async fn a10_names_are_plain_words_of_bounded_length() {
    let api = Api::start().await;
    let long = "a".repeat(1 << 20);
    for name in ["ü", "\u{202e}evil", "a b", "", "A", "..", "a/b", "a\0b", "\u{ff41}bc", &long[..900_000]] {
        let encoded =
            name.bytes().take(1_000).map(|byte| format!("%{byte:02x}")).collect::<Vec<_>>().concat();
        if !encoded.is_empty() {
            let target = format!("/v1/modules/{encoded}/versions/1.0.0");
            let answer = api.admin(call("PUT", target).bytes(crate::http_api::command())).await;
            assert_explained(&answer, name.get(..20).unwrap_or(name));
        }
        for target in ["/v1/zones", "/v1/tenants"] {
            let answer = api.admin(call("POST", target).json(&json!({"name": name}))).await;
            assert_explained(&answer, target);
            assert!(answer.body.len() < 2_000, "a long name is not told back");
        }
    }
    let answer = api.admin(call("POST", "/v1/zones").json(&json!({"name": long}))).await;
    assert_eq!(answer.code(), "body_too_large");
    for name in ["\u{1b}[2J", "a\nb", &"n".repeat(101)] {
        let answer = api.admin(call("POST", "/v1/tokens").json(&json!({"name": name}))).await;
        assert_explained(&answer, name);
    }
}

#[tokio::test]
async fn a11_signs_of_sql_in_filters_are_only_text() {
    let api = with_module().await;
    submitted(&api, &json!({"module": "mill"})).await;
    for evil in
        ["%25", "_", "'%20OR%201=1--", "mill';DROP%20TABLE%20jobs;--", "%22%20OR%20%22%22=%22", "mill%00"]
    {
        for filter in ["module", "zone"] {
            let answer = api.admin(call("GET", format!("/v1/jobs?{filter}={evil}"))).await;
            assert_eq!(answer.status, 200, "{evil}: {}", answer.json());
            assert_eq!(answer.json()["items"], json!([]), "{filter}={evil}");
        }
        let answer = api.admin(call("GET", format!("/v1/jobs?label=k:{evil}"))).await;
        assert_eq!(answer.json()["items"], json!([]), "{evil}");
    }
    let all = api.admin(call("GET", "/v1/jobs?module=mill")).await;
    assert_eq!(all.json()["items"].as_array().map(Vec::len), Some(1), "the table is still there");
}

#[tokio::test]
async fn a12_page_tokens_that_were_changed_or_are_of_another_list_are_refused() {
    let api = with_module().await;
    for _ in 0..2 {
        submitted(&api, &json!({"module": "mill"})).await;
    }
    let first = api.admin(call("GET", "/v1/jobs?page_size=1")).await.json();
    let token = first["next_page_token"].as_str().expect("there is more").to_owned();
    let flipped: String = token.chars().rev().collect();
    for (list, token) in [
        ("jobs", flipped.as_str()),
        ("jobs", "AAAA"),
        ("jobs", ""),
        ("tokens", &token),
        ("jobs", &token[1..]),
    ] {
        let answer = api.admin(call("GET", format!("/v1/{list}?page_token={token}"))).await;
        assert_explained(&answer, token);
        assert_eq!(pointers(&answer), ["page_token"]);
    }
    for size in ["0", "1001", "-1", "x", "18446744073709551616"] {
        let answer = api.admin(call("GET", format!("/v1/jobs?page_size={size}"))).await;
        assert_explained(&answer, size);
        assert_eq!(pointers(&answer), ["page_size"]);
    }
}

#[tokio::test]
async fn a13_paths_that_lead_elsewhere_lead_nowhere() {
    let api = with_module().await;
    let job = submitted(&api, &json!({"module": "mill"})).await;
    for path in [
        "/v1/modules/%2e%2e%2f%2e%2e%2fetc%2fpasswd".to_owned(),
        "/v1/modules/mill/versions/%2e%2e".to_owned(),
        "/v1//modules".to_owned(),
        "//v1/modules".to_owned(),
        "/v1/modules/mill%00".to_owned(),
        "/v1/modules/%ff%fe".to_owned(),
        format!("/v1/jobs/{job}/outputs/%2e%2e%2f%2e%2e%2fgristmill.db"),
        format!("/v1/jobs/{job}/outputs/../../../gristmill.db"),
        format!("/v1/blobs/sha256:{}", "../".repeat(20)),
        "/v1/blobs/..%2f..%2fgristmill.db".to_owned(),
        "/v1/../metrics/".to_owned(),
    ] {
        let answer = api.admin(call("GET", &path)).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "not_found"), "{path}");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(!text.contains("/tmp") && !text.contains("objects"), "no host path: {text}");
    }
}

#[tokio::test]
async fn a15_compressed_bodies_are_not_taken() {
    let api = Api::start().await;
    for encoding in ["gzip", "deflate", "br", "zstd", "GZIP", "identity, gzip"] {
        let blob = format!("/v1/blobs/{}", digest(b"x"));
        for request in [
            call("PUT", blob).bytes("x"),
            call("PUT", "/v1/modules/m/versions/1.0.0").bytes("x"),
            call("POST", "/v1/tenants").json(&json!({"name": "x"})),
        ] {
            let answer = api.admin(request.header("content-encoding", encoding)).await;
            assert_eq!((answer.status.as_u16(), answer.code().as_str()), (415, "unsupported_media_type"));
        }
    }
}

#[tokio::test]
async fn a16_bodies_of_another_type_are_not_taken() {
    let api = Api::start().await;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/json", ""] {
        let request = call("POST", "/v1/tenants").header("content-type", kind).bytes(r#"{"name":"x"}"#);
        let answer = api.admin(request).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (415, "unsupported_media_type"),
            "{kind}"
        );
    }
    let html = call("PUT", "/v1/modules/m/versions/1.0.0").header("content-type", "text/html").bytes("x");
    assert_eq!(api.admin(html).await.code(), "unsupported_media_type");
}

#[tokio::test]
async fn a17_methods_that_a_path_does_not_take_are_refused_and_do_nothing() {
    let api = with_module().await;
    for method in ["OPTIONS", "TRACE", "DELETE", "PATCH", "PROPFIND", "CONNECT"] {
        let answer = api.admin(call(method, "/v1/jobs")).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (405, "method_not_allowed"), "{method}");
        assert!(answer.header("allow").is_some_and(|allowed| allowed.contains("POST")), "{method}");
    }
    let head = api.admin(call("HEAD", "/v1/modules/mill/versions/1.0.0/wasm")).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    assert!(head.header("content-length").is_some_and(|length| length != "0"));
    for name in ["x-http-method-override", "x-method-override"] {
        let answer = api.admin(call("GET", "/v1/jobs").header(name, "DELETE")).await;
        assert_eq!(answer.status, 200, "the method is the method");
    }
}

#[tokio::test]
async fn a18_a_page_of_another_origin_gets_no_permission() {
    let api = Api::start().await;
    let preflight = call("OPTIONS", "/v1/jobs")
        .header("origin", "https://evil.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization");
    let refused = api.send(preflight).await;
    assert!(!refused.status.is_success());
    let read = api.admin(call("GET", "/v1/jobs").header("origin", "https://evil.example")).await;
    for answer in [refused, read] {
        let granted = answer.headers.keys().find(|name| name.as_str().starts_with("access-control-"));
        assert_eq!(granted, None);
    }
}

#[tokio::test]
async fn a19_ranges_that_overlap_or_lie_outside_move_no_extra_byte() {
    let api = Api::start().await;
    let target = format!("/v1/blobs/{}", digest(b"0123456789"));
    api.admin(call("PUT", &target).bytes("0123456789")).await;
    let many = format!("bytes={}", vec!["0-"; 1_000].join(","));
    for (range, status, body) in [
        ("bytes=0-4,2-9", 200, "0123456789"),
        (many.as_str(), 200, "0123456789"),
        ("bytes=9-0", 200, "0123456789"),
        ("bytes=5-", 206, "56789"),
        ("bytes=-3", 206, "789"),
        ("bytes=0-18446744073709551615", 206, "0123456789"),
        ("bytes=99999999999999999999-", 200, "0123456789"),
    ] {
        let answer = api.admin(call("GET", &target).header("range", range)).await;
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (status, body.as_bytes()), "{range}");
    }
    let outside = api.admin(call("GET", &target).header("range", "bytes=10-")).await;
    assert_eq!((outside.status.as_u16(), outside.code().as_str()), (416, "range_not_satisfiable"));
}
