//! Logs over HTTP as they grow: streams of pieces, resumed at any byte.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use gristmill_lifecycle::Settings;
use gristmill_protocol::node_api::{LEASE_HEADER, LeaseGrant};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::{
    event_stream::Message,
    http_api::{ADMIN, Api, Node, call},
    http_node::leased,
};

struct Attempt {
    api: Arc<Api>,
    node: Node,
    lease: LeaseGrant,
}

impl Attempt {
    async fn start() -> Self {
        let settings = Settings { stream_keep_alive: Duration::from_millis(10), ..Settings::default() };
        let api = Arc::new(Api::start_with(settings).await);
        api.publish("mill", "1.0.0").await;
        let node = api.enroll("grinder").await;
        let lease = leased(&api, &node, &json!({"module": "mill"})).await;
        Self { api, node, lease }
    }

    fn path(&self) -> String {
        format!("/v1/jobs/{}/attempts/{}/logs", self.lease.job, self.lease.attempt)
    }

    async fn write(&self, stream: &str, offset: usize, bytes: &[u8]) {
        let (job, attempt) = (self.lease.job, self.lease.attempt);
        let target = format!("/v1/node/attempts/{job}/{attempt}/logs/{stream}?offset={offset}&elapsed_us=7");
        let put =
            call("PUT", target).header(LEASE_HEADER, self.lease.lease_token.as_str()).bytes(bytes.to_vec());
        assert_eq!(self.api.signed(&self.node, put).await.status, 204);
    }

    async fn finish(&self) {
        let report = json!({"updates": [{
            "job": self.lease.job, "attempt": self.lease.attempt, "lease_token": self.lease.lease_token.as_str(),
            "change": {"kind": "finished", "outcome": {"state": "succeeded"}, "outputs": []},
        }]});
        let done = self.api.signed(&self.node, call("POST", "/v1/node/updates").json(&report)).await;
        assert_eq!(done.json()["verdicts"], json!(["accepted"]));
    }
}

fn bytes(message: &Message) -> (String, u64, Vec<u8>) {
    let data = message.json();
    let bytes = match (data["text"].as_str(), data["base64"].as_str()) {
        (Some(text), None) => text.as_bytes().to_vec(),
        (None, Some(text)) => STANDARD.decode(text).expect("is base64"),
        _ => panic!("either text or base64: {data}"),
    };
    (
        data["stream"].as_str().expect("a stream").to_owned(),
        data["offset"].as_u64().expect("an offset"),
        bytes,
    )
}

#[tokio::test]
async fn both_streams_come_in_one_with_their_offsets_and_end_in_a_message() {
    let attempt = Attempt::start().await;
    let mut stream = attempt.api.stream(call("GET", attempt.path()).token(ADMIN)).await;
    attempt.write("stdout", 0, b"corn\n").await;
    let first = stream.message().await.expect("a message");
    assert_eq!((first.event.as_deref(), first.id.as_deref()), (Some("log"), Some("5-0")));
    assert_eq!(first.json(), json!({"stream": "stdout", "offset": 0, "elapsed_us": 7, "text": "corn\n"}));
    attempt.write("stderr", 0, b"\xff\x00dust").await;
    let second = stream.message().await.expect("a message");
    assert_eq!(
        (second.id.as_deref(), bytes(&second)),
        (Some("5-6"), ("stderr".into(), 0, b"\xff\x00dust".to_vec()))
    );
    attempt.write("stdout", 5, b"flour\n").await;
    assert_eq!(stream.message().await.expect("a message").id.as_deref(), Some("11-6"));
    attempt.finish().await;
    let end = stream.message().await.expect("a message");
    assert_eq!((end.event.as_deref(), end.id.as_deref()), (Some("end"), Some("11-6")));
    assert_eq!(
        end.json(),
        json!({"state": "succeeded", "stdout_bytes": 11, "stderr_bytes": 6, "log_truncated": false})
    );
    assert_eq!(stream.next().await, None);
    let from = |id: &str| call("GET", attempt.path()).header("last-event-id", id).token(ADMIN);
    let mut again = attempt.api.stream(from("5-3")).await;
    assert_eq!(bytes(&again.message().await.expect("a message")), ("stderr".into(), 3, b"ust".to_vec()));
    let mut over = attempt.api.stream(from("11-6")).await;
    assert_eq!(over.message().await.expect("a message").event.as_deref(), Some("end"));
    for wrong in ["3-3", "0-5", "12-6", "x", "1-2-3", "99999999999999999999-0", "18446744073709551615-1"] {
        let answer = attempt.api.send(from(wrong).header("accept", "text/event-stream")).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "invalid_request"), "{wrong}");
    }
}

#[tokio::test]
async fn one_stream_alone_and_a_later_attempt_can_be_followed() {
    let attempt = Attempt::start().await;
    attempt.write("stderr", 0, b"dust").await;
    attempt.write("stdout", 0, b"corn").await;
    let one = call("GET", format!("{}?stream=stdout&offset=1", attempt.path())).token(ADMIN);
    let mut one = attempt.api.stream(one).await;
    let message = one.message().await.expect("a message");
    assert_eq!((message.id.as_deref(), bytes(&message)), (Some("4"), ("stdout".into(), 1, b"orn".to_vec())));
    let next = format!("/v1/jobs/{}/attempts/2/logs", attempt.lease.job);
    let mut next = attempt.api.stream(call("GET", next).token(ADMIN)).await;
    assert_eq!(next.next().await.expect("kept alive").comment.as_deref(), Some("keep-alive"));
    attempt.finish().await;
    assert_eq!(one.message().await.expect("a message").event.as_deref(), Some("end"));
    let mut last = None;
    while let Some(message) = next.next().await {
        last = message.comment;
    }
    assert!(last.expect("a comment").starts_with("not_found"));
    api_hides(&attempt).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_read_in_parts_while_it_grows_and_has_a_tag_when_it_is_complete() {
    let attempt = Arc::new(Attempt::start().await);
    attempt.write("stdout", 0, b"0123456789").await;
    let asked = |headers: &[(&'static str, &str)]| {
        headers.iter().fold(call("GET", attempt.path()), |call, (name, value)| call.header(name, *value))
    };
    let ask = async |headers: &[(&'static str, &str)]| {
        let answer = attempt.api.admin(asked(headers)).await;
        let which = answer.header("content-range").map(str::to_owned);
        let body = if answer.status.is_success() { answer.body.to_vec() } else { Vec::new() };
        (answer.status.as_u16(), which, String::from_utf8(body).expect("is text"))
    };
    let part = |which: &str, text: &str| (206, Some(which.to_owned()), text.to_owned());
    let whole = |text: &str| (200, None, text.to_owned());
    let growing = attempt.api.admin(asked(&[])).await;
    assert_eq!((growing.header("etag"), growing.header("accept-ranges")), (None, Some("bytes")));
    assert_eq!(ask(&[("range", "bytes=2-4")]).await, part("bytes 2-4/*", "234"));
    assert_eq!(ask(&[("range", "bytes=-3")]).await, part("bytes 7-9/*", "789"));
    assert_eq!(ask(&[("range", "bytes=8-20")]).await, part("bytes 8-9/*", "89"));
    assert_eq!(ask(&[("range", "bytes=2-4"), ("if-range", "\"log-10\"")]).await, whole("0123456789"));
    assert_eq!(ask(&[("if-none-match", "*")]).await, whole("0123456789"));
    assert_eq!(ask(&[("if-match", "*")]).await, whole("0123456789"));
    for headers in [&[("if-match", "\"log-10\"")][..], &[("if-match", "\"log-10\""), ("range", "bytes=2-4")]]
    {
        assert_eq!(ask(headers).await.0, 412, "what still grows is not what anybody expects");
    }
    assert_eq!(ask(&[("range", "bytes=10-")]).await, (416, Some("bytes */10".into()), String::new()));

    let waiting = {
        let (attempt, target) = (attempt.clone(), format!("{}?wait=50s", attempt.path()));
        let next = call("GET", target).header("range", "bytes=11-11");
        TaskTracker::new().spawn(async move { attempt.api.admin(next).await })
    };
    attempt.write("stdout", 10, b"a").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!waiting.is_finished(), "the byte before is not what is waited for");
    attempt.write("stderr", 0, b"bc").await;
    let next = waiting.await.expect("an answer");
    assert_eq!((next.status.as_u16(), &next.body[..]), (206, &b"b"[..]));
    assert_eq!(next.header("content-range"), Some("bytes 11-11/*"));
    assert_eq!(next.header("gristmill-log-next"), Some("12"));

    attempt.finish().await;
    let tag = "\"log-13\"";
    assert_eq!(attempt.api.admin(asked(&[])).await.header("etag"), Some(tag));
    assert_eq!(ask(&[("range", "bytes=12-"), ("if-range", tag)]).await, part("bytes 12-12/13", "c"));
    assert_eq!(ask(&[("if-none-match", tag)]).await.0, 304);
    assert_eq!(ask(&[("if-match", tag)]).await.0, 200);
    assert_eq!(ask(&[("range", "bytes=13-")]).await, (416, Some("bytes */13".into()), String::new()));
    let offset = call("GET", format!("{}?offset=11", attempt.path())).header("range", "bytes=0-0");
    let offset = attempt.api.admin(offset).await;
    assert_eq!((offset.status.as_u16(), &offset.body[..]), (200, &b"bc"[..]), "the offset is stronger");
}

async fn api_hides(attempt: &Attempt) {
    attempt.api.token("gmu_other", "other", &[gristmill_protocol::tenancy::Scope::Read]).await;
    let foreign = call("GET", attempt.path()).header("accept", "text/event-stream").token("gmu_other");
    assert_eq!(attempt.api.send(foreign).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_follower_that_breaks_off_at_random_gets_every_byte_once() {
    let attempt = Arc::new(Attempt::start().await);
    let mut dice = StdRng::seed_from_u64(5);
    // Small pieces lie in their rows, large ones elsewhere; neither is text.
    let mut pieces = Vec::new();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    for _ in 0..40 {
        let size =
            if dice.random_bool(0.2) { dice.random_range(9_000..200_000) } else { dice.random_range(1..300) };
        let piece: Vec<u8> = (0..size).map(|_| dice.random()).collect();
        let (name, whole) = if dice.random() { ("stdout", &mut stdout) } else { ("stderr", &mut stderr) };
        pieces.push((name, whole.len(), piece.clone()));
        whole.extend(piece);
    }
    let reader = {
        let attempt = attempt.clone();
        TaskTracker::new().spawn(async move {
            let mut dice = StdRng::seed_from_u64(6);
            let (mut out, mut err, mut id) = (Vec::new(), Vec::new(), None::<String>);
            loop {
                let mut request = call("GET", attempt.path());
                if let Some(id) = &id {
                    request = request.header("last-event-id", id.clone());
                }
                let mut stream = attempt.api.stream(request.token(ADMIN)).await;
                for _ in 0..dice.random_range(0..8) {
                    let message = stream.next().await.expect("the stream goes on");
                    id = message.id.clone().or(id);
                    if message.event.as_deref() == Some("end") {
                        return (out, err);
                    }
                    if message.data.is_none() {
                        continue;
                    }
                    let (name, offset, bytes) = bytes(&message);
                    let whole = if name == "stdout" { &mut out } else { &mut err };
                    assert_eq!(offset, whole.len() as u64);
                    whole.extend(bytes);
                }
            }
        })
    };
    for (name, offset, piece) in pieces {
        attempt.write(name, offset, &piece).await;
    }
    attempt.finish().await;
    let (out, err) = reader.await.expect("the reader ends");
    assert!(out == stdout && err == stderr);
}
