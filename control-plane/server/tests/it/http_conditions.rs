//! Requests under a condition: parts of bytes, what the caller has already, and changes to what the
//! caller has seen.

use gristmill_protocol::tenancy::Scope;
use serde_json::json;

use crate::http_api::{Answer, Api, Call, call, command, digest};

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
    assert!(refused.json()["detail"].as_str().is_some_and(|text| text.contains(&etag)), "{refused:?}");
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
    let submitted = api.admin(call("POST", "/v1/jobs").json(&json!({"module": "mill@1.0.0"}))).await;
    let job = submitted.header("location").expect("a job").to_owned();
    expect_guarded(&api, &job, || call("POST", format!("{job}/cancel"))).await;
    let malformed = api.admin(call("POST", format!("{job}/cancel")).header("if-match", "3")).await;
    assert_eq!(malformed.code(), "invalid_request");
}
