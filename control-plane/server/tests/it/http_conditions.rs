//! Requests under a condition: parts of bytes, what the caller has already, and changes to what the
//! caller has seen.

use std::collections::{BTreeMap, BTreeSet};

use gristmill_protocol::{
    node_api::{LEASE_HEADER, LeaseGrant},
    tenancy::Scope,
};
use serde_json::json;

use crate::{
    http_api::{Answer, Api, Call, Node, call, command, digest},
    http_node::leased,
    http_openapi::operations,
};

const TEXT: &str = "0123456789";

/// A server with a blob, and a call for it.
async fn with_blob() -> (Api, impl Fn(&[(&'static str, &str)]) -> Call) {
    let api = Api::start().await;
    let target = format!("/v1/blobs/{}", digest(TEXT.as_bytes()));
    assert_eq!(api.admin(call("PUT", &target).bytes(TEXT)).await.status, 201);
    let get = move |headers: &[(&'static str, &str)]| {
        headers.iter().fold(call("GET", &target), |call, (name, value)| call.header(name, *value))
    };
    (api, get)
}

fn seen(answer: &Answer) -> (u16, String, Option<&str>) {
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    (answer.status.as_u16(), body, answer.header("content-range"))
}

#[tokio::test]
async fn a_part_of_a_blob_is_served_when_the_condition_holds() {
    let (api, get) = with_blob().await;
    let etag = format!("\"{}\"", digest(TEXT.as_bytes()));
    let ask = async |headers: &[(&'static str, &str)]| api.admin(get(headers)).await;
    let whole = ask(&[]).await;
    assert_eq!(seen(&whole), (200, TEXT.into(), None));
    assert_eq!((whole.header("etag"), whole.header("accept-ranges")), (Some(&*etag), Some("bytes")));
    assert_eq!(whole.header("x-content-type-options"), Some("nosniff"));
    assert!(whole.header("content-security-policy").is_some_and(|text| text.contains("sandbox")));
    assert!(whole.header("cache-control").is_some_and(|text| text.contains("immutable")));
    for (range, part, content_range) in [
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
        ("bytes=8-", "89", "bytes 8-9/10"),
    ] {
        let answer = ask(&[("range", range)]).await;
        assert_eq!(seen(&answer), (206, part.into(), Some(content_range)), "{range}");
        let length = part.len().to_string();
        assert_eq!(answer.header("content-length"), Some(&*length));
        assert_eq!(ask(&[("range", range), ("if-range", &etag)]).await.status, 206);
        assert_eq!(
            seen(&ask(&[("range", range), ("if-range", "\"other\"")]).await),
            (200, TEXT.into(), None)
        );
    }
    let outside = ask(&[("range", "bytes=10-")]).await;
    assert_eq!((outside.status.as_u16(), outside.header("content-range")), (416, Some("bytes */10")));
    for (known, status) in [(&*etag, 304), ("*", 304), ("\"other\", W/\"x\"", 200)] {
        assert_eq!(ask(&[("if-none-match", known)]).await.status, status, "{known}");
    }
    for (expected, status) in [(&*etag, 200), ("*", 200), ("\"other\"", 412)] {
        assert_eq!(ask(&[("if-match", expected)]).await.status, status, "{expected}");
    }
}

#[tokio::test]
async fn several_parts_come_in_one_answer_with_its_exact_length() {
    let (api, get) = with_blob().await;
    let answer = api.admin(get(&[("range", "bytes=7-8,0-0")])).await;
    let kind = answer.header("content-type").expect("a type");
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").expect("a boundary");
    let expected = format!(
        "--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 7-8/10\r\n\r\n78\r\n\
         --{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 0-0/10\r\n\r\n0\r\n\
         --{boundary}--\r\n"
    );
    let length = expected.len().to_string();
    assert_eq!(answer.header("content-length"), Some(&*length));
    assert_eq!(seen(&answer), (206, expected, None));
}

/// The entity tag of what is at a path; a change under another one is refused and changes nothing, one
/// under this tag is made.
async fn expect_guarded(api: &Api, what: &str, change: impl Fn() -> Call) {
    let before = api.admin(call("GET", what)).await;
    let etag = before.header("etag").unwrap_or_else(|| panic!("{what} has no ETag")).to_owned();
    let refused = api.admin(change().header("if-match", "\"77\"")).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (412, "precondition_failed"), "{what}");
    // What stands behind a dot does not count for a change.
    let version = format!("\"{}\"", etag.trim_matches('"').split('.').next().expect("a version"));
    assert!(refused.json()["detail"].as_str().is_some_and(|text| text.contains(&version)), "{refused:?}");
    assert_eq!(api.admin(call("GET", what)).await.body, before.body, "{what}");
    let changed = api.admin(change().header("if-match", etag.clone())).await;
    assert_eq!(changed.status, 200, "{what}: {changed:?}");
    let after = api.admin(call("GET", what)).await;
    assert_ne!(after.header("etag"), Some(&*etag), "{what}");
    assert_eq!(changed.header("etag"), after.header("etag"), "{what}");
    let late = api.admin(change().header("if-match", etag)).await;
    assert_eq!(late.status, 412, "{what}");
}

#[tokio::test]
async fn whatever_can_be_changed_has_a_tag_and_is_changed_only_under_it() {
    let api = Api::start().await;
    assert_eq!(api.publish("mill", "1.0.0").await.status, 201);
    let module = "/v1/modules/mill";
    expect_guarded(&api, module, || call("PATCH", module).json(&json!({"visibility": "public"}))).await;
    let version = "/v1/modules/mill/versions/1.0.0";
    let before = api.admin(call("GET", module)).await;
    expect_guarded(&api, version, || call("PATCH", version).json(&json!({"deprecated": true}))).await;
    let after = api.admin(call("GET", module)).await;
    assert_ne!(before.header("etag"), after.header("etag"), "a module changes with its versions");
    let next = call("PUT", "/v1/modules/mill/versions/1.1.0").bytes(command());
    assert_eq!(api.admin(next).await.status, 201);
    assert_ne!(api.admin(call("GET", module)).await.header("etag"), after.header("etag"));

    let node = format!("/v1/nodes/{}", api.enroll("grinder").await.id);
    for verb in ["drain", "resume", "revoke"] {
        expect_guarded(&api, &node, || call("POST", format!("{node}/{verb}"))).await;
    }
    for method in ["POST", "DELETE"] {
        let token =
            format!("/v1/tokens/{}", api.token(&format!("gmu_{method}"), "default", &[Scope::Read]).await);
        let target = if method == "POST" { format!("{token}/revoke") } else { token.clone() };
        expect_guarded(&api, &token, || call(method, &target)).await;
    }
    let zone = "/v1/zones/default";
    let put = || call("PUT", zone).json(&json!({"name": "default", "description": "behind glass"}));
    expect_guarded(&api, zone, put).await;
    let submitted = api.admin(call("POST", "/v1/jobs").json(&json!({"module": "mill@1.0.0"}))).await;
    let job = submitted.header("location").expect("a job").to_owned();
    expect_guarded(&api, &job, || call("POST", format!("{job}/cancel"))).await;
    let malformed = api.admin(call("POST", format!("{job}/cancel")).header("if-match", "3")).await;
    assert_eq!(malformed.code(), "invalid_request");
}

/// A job that has ended with an output and a log, one that is leased, and where all that has a tag is.
struct Things {
    api: Api,
    node: Node,
    leased: LeaseGrant,
    targets: BTreeMap<&'static str, String>,
}

/// What stands for a file and for a log.
const BYTES: &str = "corn\nflour\n";

impl Things {
    async fn make() -> Self {
        let api = Api::start().await;
        assert_eq!(api.publish("mill", "1.0.0").await.status, 201);
        let node = api.enroll("grinder").await;
        let spec = json!({"module": "mill", "stdin": {"text": BYTES}});
        let ended = leased(&api, &node, &spec).await;
        let output = digest(BYTES.as_bytes());
        let of_attempt = format!("/v1/node/attempts/{}/1", ended.job);
        for target in [
            format!("{of_attempt}/outputs/{output}"),
            format!("{of_attempt}/logs/stdout?offset=0&elapsed_us=1"),
        ] {
            let put = call("PUT", target).header(LEASE_HEADER, ended.lease_token.as_str()).bytes(BYTES);
            assert!(api.signed(&node, put).await.status.is_success());
        }
        let report = json!({"updates": [{
            "job": ended.job, "attempt": 1, "lease_token": ended.lease_token.as_str(),
            "change": {"kind": "finished", "outcome": {"state": "succeeded"},
                       "outputs": [{"path": "a/flour", "digest": output, "size": BYTES.len()}]},
        }]});
        let done = api.signed(&node, call("POST", "/v1/node/updates").json(&report)).await;
        assert_eq!(done.json()["verdicts"], json!(["accepted"]));
        let leased = leased(&api, &node, &spec).await;
        let token = api.token("gmu_shown", "default", &[Scope::Read]).await;
        let job = format!("/v1/jobs/{}", ended.job);
        let targets = BTreeMap::from([
            ("/docs", "/docs".to_owned()),
            ("/docs/page.css", "/docs/page.css".to_owned()),
            ("/docs/page.js", "/docs/page.js".to_owned()),
            ("/openapi.json", "/openapi.json".to_owned()),
            ("/v1/blobs/{digest}", format!("/v1/blobs/{output}")),
            ("/v1/jobs/{id}", job.clone()),
            ("/v1/jobs/{id}/attempts/{number}/logs", format!("{job}/attempts/1/logs")),
            ("/v1/jobs/{id}/outputs", format!("{job}/outputs?format=tar")),
            ("/v1/jobs/{id}/outputs/{path}", format!("{job}/outputs/a/flour")),
            ("/v1/modules/{name}", "/v1/modules/mill".to_owned()),
            ("/v1/modules/{name}/versions/{version}", "/v1/modules/mill/versions/1.0.0".to_owned()),
            ("/v1/modules/{name}/versions/{version}/wasm", "/v1/modules/mill/versions/1.0.0/wasm".to_owned()),
            (
                "/v1/node/attempts/{job}/{number}/blobs/{digest}",
                format!("/v1/node/attempts/{}/1/blobs/{output}", leased.job),
            ),
            ("/v1/nodes/{id}", format!("/v1/nodes/{}", node.id)),
            ("/v1/tenants/{name}", "/v1/tenants/default".to_owned()),
            ("/v1/tokens/{id}", format!("/v1/tokens/{token}")),
            ("/v1/zones/{name}", "/v1/zones/default".to_owned()),
        ]);
        Self { api, node, leased, targets }
    }

    /// Asks for what is at a path of the description.
    async fn ask(&self, method: &'static str, path: &str, headers: &[(&'static str, &str)]) -> Answer {
        let target =
            self.targets.get(path).unwrap_or_else(|| panic!("{path} has a tag: add it to the things"));
        let asked =
            headers.iter().fold(call(method, target), |call, (name, value)| call.header(name, *value));
        if path.starts_with("/v1/node/") {
            let asked = asked.header(LEASE_HEADER, self.leased.lease_token.as_str());
            self.api.signed(&self.node, asked).await
        } else {
            self.api.admin(asked).await
        }
    }

    /// The paths of the description whose GET answers with this status and header.
    async fn paths(&self, status: &str, header: &str) -> Vec<String> {
        let document = self.api.send(call("GET", "/openapi.json")).await.json();
        let found = operations(&document).into_iter().filter(|(_, method, operation)| {
            *method == "get" && operation["responses"][status]["headers"][header].is_object()
        });
        found.map(|(path, ..)| path.to_owned()).collect()
    }
}

/// The headers that tell of the content.
fn about(answer: &Answer) -> Vec<Option<&str>> {
    let names = [
        "etag",
        "content-type",
        "content-length",
        "content-range",
        "accept-ranges",
        "content-disposition",
        "cache-control",
        "vary",
        "gristmill-log-next",
        "gristmill-log-end",
    ];
    names.iter().map(|name| answer.header(name)).collect()
}

#[tokio::test]
async fn whatever_has_a_tag_is_read_only_as_the_caller_expects_it_and_not_sent_twice() {
    let things = Things::make().await;
    let paths = things.paths("200", "etag").await;
    let described: BTreeSet<_> = paths.iter().map(String::as_str).collect();
    assert_eq!(described, things.targets.keys().copied().collect());
    for path in &paths {
        let ask = async |method, headers: &[(&'static str, &str)]| things.ask(method, path, headers).await;
        let plain = ask("GET", &[]).await;
        assert_eq!(plain.status, 200, "{path}");
        assert!(!plain.body.is_empty(), "{path}");
        let etag = plain.header("etag").unwrap_or_else(|| panic!("{path} has no tag")).to_owned();
        let head = ask("HEAD", &[]).await;
        assert_eq!((head.status.as_u16(), head.body.len(), about(&head)), (200, 0, about(&plain)), "{path}");
        let weak = format!("W/{etag}");
        let listed = format!("\"other\", {etag}");
        for known in [&*etag, "*", &weak, &listed] {
            for method in ["GET", "HEAD"] {
                let answer = ask(method, &[("if-none-match", known)]).await;
                assert_eq!((answer.status.as_u16(), answer.body.len()), (304, 0), "{method} {path} {known}");
                assert_eq!(about(&answer), about(&plain), "{method} {path} {known}");
            }
        }
        for (condition, value, status) in [
            ("if-none-match", "\"other\"", 200),
            ("if-match", &*etag, 200),
            ("if-match", &*listed, 200),
            ("if-match", "*", 200),
            ("if-match", &*weak, 412),
            ("if-match", "\"other\"", 412),
        ] {
            let answer = ask("GET", &[(condition, value)]).await;
            assert_eq!(answer.status, status, "{path} {condition}: {value}");
            assert_eq!(answer.code() == "precondition_failed", status == 412, "{path} {condition}: {value}");
            assert_eq!(
                ask("HEAD", &[(condition, value)]).await.status,
                status,
                "{path} {condition}: {value}"
            );
        }
        let both = ask("GET", &[("if-match", "\"other\""), ("if-none-match", &etag)]).await;
        assert_eq!(both.status, 412, "{path}: what is expected comes first");
    }
}

#[tokio::test]
async fn all_bytes_are_served_in_parts() {
    let things = Things::make().await;
    let paths = things.paths("206", "content-range").await;
    assert!(paths.len() >= 6, "{paths:?}");
    for path in &paths {
        let ask = async |method, headers: &[(&'static str, &str)]| things.ask(method, path, headers).await;
        let whole = ask("GET", &[]).await;
        let size = whole.body.len();
        assert_eq!(whole.header("accept-ranges"), Some("bytes"), "{path}");
        let etag = whole.header("etag").expect("a tag").to_owned();
        let (from, over) = (format!("bytes={}-", size - 1), format!("bytes=1-{}", size + 9));
        for (range, part) in [
            ("bytes=0-0", 0..1),
            ("bytes=1-2", 1..3),
            ("bytes=-3", size - 3..size),
            (&*from, size - 1..size),
            (&*over, 1..size),
            ("bytes=0-", 0..size),
        ] {
            let answer = ask("GET", &[("range", range), ("if-range", &etag)]).await;
            let which = format!("bytes {}-{}/{size}", part.start, part.end - 1);
            assert_eq!(
                (answer.status.as_u16(), answer.header("content-range")),
                (206, Some(&*which)),
                "{path}"
            );
            assert_eq!(answer.body, whole.body.slice(part.clone()), "{path} {range}");
            assert_eq!(answer.header("content-length"), Some(&*part.len().to_string()), "{path} {range}");
            assert_eq!(answer.header("etag"), Some(&*etag), "{path} {range}");
            let head = ask("HEAD", &[("range", range)]).await;
            assert_eq!((head.status.as_u16(), about(&head)), (206, about(&answer)), "{path} {range}");
        }
        let beyond = format!("bytes={size}-");
        let there = format!("bytes */{size}");
        for range in [&*beyond, "bytes=-0"] {
            for method in ["GET", "HEAD"] {
                let answer = ask(method, &[("range", range)]).await;
                let seen = (answer.status.as_u16(), answer.header("content-range"));
                assert_eq!(seen, (416, Some(&*there)), "{method} {path} {range}");
            }
        }
        expect_conditions_of_parts(&things, path, &whole, &beyond).await;
    }
}

/// When a range of what is at a path is answered by something else: all of it, nothing, or a refusal.
/// `beyond` is a range outside.
async fn expect_conditions_of_parts(things: &Things, path: &str, whole: &Answer, beyond: &str) {
    let ask = async |method, headers: &[(&'static str, &str)]| things.ask(method, path, headers).await;
    let etag = whole.header("etag").expect("a tag").to_owned();
    let weak = format!("W/{etag}");
    for headers in [
        [("range", "bytes=1-2"), ("if-range", "\"other\"")],
        [("range", "bytes=1-2"), ("if-range", &*weak)],
        [("range", beyond), ("if-range", "\"other\"")],
        [("range", "bytes=2-1"), ("if-range", &*etag)],
        [("range", "lines=1-2"), ("if-range", &*etag)],
    ] {
        let answer = ask("GET", &headers).await;
        assert_eq!((answer.status.as_u16(), &answer.body), (200, &whole.body), "{path} {headers:?}");
    }
    for (range, condition, tag, status) in [
        ("bytes=1-2", "if-none-match", &*etag, 304),
        (beyond, "if-none-match", &*etag, 304),
        ("bytes=1-2", "if-match", "\"other\"", 412),
        (beyond, "if-match", "\"other\"", 412),
        ("bytes=1-2", "if-match", &*etag, 206),
        (beyond, "if-match", &*etag, 416),
    ] {
        let answer = ask("GET", &[("range", range), (condition, tag)]).await;
        assert_eq!(answer.status, status, "{path} {range} {condition}");
    }
    let several = ask("GET", &[("range", "bytes=0-0,2-2")]).await;
    let kind = several.header("content-type").expect("a type").to_owned();
    if path.ends_with("/logs") {
        assert_eq!((several.status.as_u16(), &several.body), (200, &whole.body), "a log has one part");
    } else {
        assert_eq!(several.status, 206, "{path}");
        assert!(kind.starts_with("multipart/byteranges; boundary="), "{path}: {kind}");
    }
}

/// Changes that are made under a condition; a test above tries each, and one in `http_retention` that of a tenant.
const GUARDED: [(&str, &str); 10] = [
    ("delete", "/v1/tokens/{id}"),
    ("patch", "/v1/modules/{name}"),
    ("patch", "/v1/modules/{name}/versions/{version}"),
    ("post", "/v1/jobs/{id}/cancel"),
    ("post", "/v1/nodes/{id}/drain"),
    ("post", "/v1/nodes/{id}/resume"),
    ("post", "/v1/nodes/{id}/revoke"),
    ("post", "/v1/tokens/{id}/revoke"),
    ("put", "/v1/tenants/{name}"),
    ("put", "/v1/zones/{name}"),
];
/// What makes something new, and changes nothing that is there.
const MADE: [(&str, &str); 3] = [
    ("post", "/v1/jobs/{id}/retry"),
    ("put", "/v1/blobs/{digest}"),
    ("put", "/v1/modules/{name}/versions/{version}"),
];

#[tokio::test]
async fn every_change_of_what_has_a_tag_takes_a_condition() {
    let things = Things::make().await;
    let tagged = things.paths("200", "etag").await;
    let document = things.api.send(call("GET", "/openapi.json")).await.json();
    let mut guarded = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        let is_reading = ["get", "head", "options"].contains(&method);
        let parameters = operation["parameters"].as_array().expect("a list");
        if !is_reading && parameters.iter().any(|parameter| parameter["name"] == "if-match") {
            assert!(operation["responses"]["412"].is_object(), "{method} {path} has no 412");
            guarded.insert((method, path));
        }
    }
    assert_eq!(guarded, GUARDED.into_iter().collect());
    let of = |path: &str| path.rsplit_once('/').map(|(of, _)| of.to_owned()).unwrap_or_default();
    for (path, method, _) in operations(&document) {
        let changes = !["get", "head", "options"].contains(&method);
        let is_about = tagged.iter().any(|tagged| tagged == path || *tagged == of(path));
        if changes && is_about && !MADE.contains(&(method, path)) {
            assert!(guarded.contains(&(method, path)), "{method} {path} takes no If-Match");
        }
    }
}
