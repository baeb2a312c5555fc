//! The client against a server that follows a script, faults included.

use std::sync::{Arc, Mutex};

use gristmill_protocol::{
    Digest, ErrorCode, JobId, JobSpec, UploadId, attempt::LogStream, event::EventFilter, job::OutputEntry,
};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_util::task::TaskTracker;

use super::{
    Client, ClientError, Endpoint, LogNews, LogSelection, OnSent, RetryPolicy, Secret, uploads::Content,
};

/// Answers one connection after the other with the bytes of the script, then hangs up.
struct Script {
    client: Client,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Script {
    async fn start(answers: Vec<String>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let server = format!("http://{}", listener.local_addr().expect("an address"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        TaskTracker::new().spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let request = read_request(&mut stream).await;
                seen.lock().expect("not poisoned").push(request);
                stream.write_all(answer.as_bytes()).await.expect("written");
            }
        });
        let endpoint = Endpoint { server, token: Some(Secret::new("gmu_secret")), ca_file: None };
        let patience = RetryPolicy { tries: 4, base_ms: 1, cap_ms: 2 };
        Self { client: Client::new(&endpoint).expect("a client").with_retry(patience), requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("not poisoned").clone()
    }
}

/// Head and body of a request with a declared length; a chunked body is read as far as its end mark.
async fn read_request(stream: &mut tokio::net::TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .to_lowercase()
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            if body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return text;
        }
    }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

fn job_json(id: &JobId) -> String {
    let digest = Digest::from_bytes([1; 32]);
    let limits = gristmill_protocol::LimitsSpec::default()
        .resolve(gristmill_protocol::limits::SlotSize::default())
        .expect("valid");
    serde_json::json!({
        "id": id, "tenant": "default", "state": "queued", "module": {"digest": digest},
        "spec": {"module": "m"}, "limits": limits, "attempt": 0, "created_at": "2026-01-01T00:00:00Z",
        "output_count": 0, "output_bytes": 0, "version": 1,
    })
    .to_string()
}

#[tokio::test]
async fn a_submit_whose_answer_got_lost_is_repeated_with_the_same_key() {
    let id = JobId::from_parts(1, [2; 10]);
    let script = Script::start(vec![
        String::new(),
        answer("503 Service Unavailable", "", "busy"),
        answer("201 Created", "", &job_json(&id)),
    ])
    .await;
    let spec = JobSpec { module: "m".into(), ..JobSpec::default() };
    let job = script.client.job_submit(&spec, "key-1", None).await.expect("accepted");
    assert_eq!(job.id, id);
    let requests = script.requests();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|request| request.contains("idempotency-key: key-1")), "{requests:?}");
    assert!(requests.iter().all(|request| request.contains("authorization: Bearer gmu_secret")));
}

#[tokio::test]
async fn an_answer_in_tls_is_told_with_what_to_do_and_not_asked_for_again() {
    // The alert with which a TLS server answers plain text.
    let alert = "\u{15}\u{3}\u{1}\0\u{2}\u{2}\n".to_owned();
    let script = Script::start(vec![alert; 2]).await;
    let error = script.client.job_get(&JobId::from_parts(1, [0; 10])).await.expect_err("no HTTP");
    assert!(
        matches!(&error, ClientError::Connection { fault: crate::ConnectionFault::NoHttp, .. }),
        "{error:?}"
    );
    assert!(error.hint().is_some_and(|hint| hint.contains("https://")), "{error}");
    assert_eq!(script.requests().len(), 1);
}

#[tokio::test]
async fn what_cannot_be_repeated_safely_is_not_repeated() {
    let script = Script::start(vec![String::new()]).await;
    let error = script.client.job_retry(&JobId::from_parts(1, [2; 10])).await.expect_err("no answer");
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    assert_eq!(script.requests().len(), 1);
}

#[tokio::test]
async fn a_refusal_keeps_its_code_hint_and_fields() {
    let problem = r#"{"type":"about:blank","title":"queue full","status":429,"detail":"10,000 jobs wait",
        "code":"queue_full","hint":"wait","request_id":"r-1","errors":[{"pointer":"/x","detail":"y"}]}"#;
    let script = Script::start(vec![answer("429 Too Many Requests", "retry-after: 7\r\n", problem)]).await;
    let error = script.client.zone_list().await.expect_err("refused");
    assert_eq!((error.code(), error.hint().as_deref()), (Some(ErrorCode::QueueFull), Some("wait")));
    let ClientError::Api { problem, retry_after_s } = error else { panic!("not a refusal") };
    assert_eq!((retry_after_s, problem.errors.len()), (Some(7), 1));
    assert_eq!(problem.request_id.as_deref(), Some("r-1"));
}

#[tokio::test]
async fn a_page_of_something_else_is_not_taken_for_an_answer() {
    let page = "<html>please log in</html>";
    let script = Script::start(vec![answer("200 OK", "", page), answer("404 Not Found", "", page)]).await;
    let first = script.client.zone_list().await.expect_err("no zones");
    assert!(matches!(first, ClientError::UnexpectedAnswer { .. }), "{first:?}");
    let digest = Digest::from_bytes([0; 32]);
    let second = script.client.blob_exists(&digest).await.expect_err("nothing of ours says 404");
    assert!(matches!(second, ClientError::UnexpectedAnswer { .. }), "{second:?}");
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_broke_and_is_checked() {
    let content = "0123456789";
    let digest = Digest::from_bytes(Sha256::digest(content).into());
    let broken =
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 10\r\n\r\n{}", &content[..4]);
    let rest = answer("206 Partial Content", "content-range: bytes 4-9/10\r\n", &content[4..]);
    let script = Script::start(vec![broken, rest]).await;
    let output = OutputEntry { path: "dir/a b.txt".into(), digest, size: 10 };
    let file = tempfile_path();
    let mut sink = tokio::fs::File::create(&file).await.expect("a file");
    let job = JobId::from_parts(1, [2; 10]);
    assert_eq!(script.client.job_output_fetch(&job, &output, &mut sink).await.expect("fetched"), 10);
    assert_eq!(std::fs::read_to_string(&file).expect("readable"), content);
    let requests = script.requests();
    assert!(requests[0].starts_with(&format!("GET /v1/jobs/{job}/outputs/dir/a%20b.txt ")), "{requests:?}");
    assert!(requests[1].contains("range: bytes=4-"), "{requests:?}");
    std::fs::remove_file(file).expect("removed");
}

#[tokio::test]
async fn bytes_with_another_digest_are_refused() {
    let script = Script::start(vec![answer("200 OK", "", "something else")]).await;
    let file = tempfile_path();
    let mut sink = tokio::fs::File::create(&file).await.expect("a file");
    let error = script.client.blob_get(&Digest::from_bytes([9; 32]), &mut sink).await.expect_err("refused");
    assert!(matches!(error, ClientError::Corrupted { .. }), "{error:?}");
    std::fs::remove_file(file).expect("removed");
}

#[tokio::test]
async fn bytes_that_the_server_has_are_not_sent_again() {
    let script = Script::start(vec![answer("200 OK", "", "")]).await;
    let upload = script.client.blob_put_bytes("known".into()).await.expect("there");
    assert!(!upload.sent);
    assert!(script.requests()[0].starts_with("HEAD /v1/blobs/sha256:"), "{:?}", script.requests());
}

fn event_json(id: u64) -> String {
    serde_json::json!({
        "id": id, "at": "2026-01-01T00:00:00Z", "kind": "job_submitted", "tenant": "default",
        "job": JobId::from_parts(1, [2; 10]), "actor": "tok", "state": "queued",
    })
    .to_string()
}

/// A stream that breaks off without an end.
fn broken_stream(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 100000\r\n\r\n{text}")
}

#[tokio::test]
async fn a_stream_that_breaks_is_resumed_after_the_last_whole_message() {
    let message = |id| format!("id: {id}\nevent: job_submitted\ndata: {}\n\n", event_json(id));
    let half = message(3);
    let script = Script::start(vec![
        broken_stream(&format!("retry: 500\n\n{}{}", message(2), &half[..half.len() / 2])),
        answer("503 Service Unavailable", "", "starting"),
        broken_stream(&format!("{}: keep-alive\nid: 9\n\n", message(3))),
        answer("410 Gone", "", r#"{"title":"gone","status":410,"detail":"gone","code":"events_gone"}"#),
    ])
    .await;
    let mut follower = script.client.event_follow(&EventFilter::default(), Some(1));
    assert_eq!(follower.next().await.expect("an event").id, 2);
    assert_eq!(follower.next().await.expect("an event").id, 3);
    assert_eq!(follower.next().await.expect_err("refused").code(), Some(ErrorCode::EventsGone));
    assert_eq!(follower.position(), Some(3));
    let requests = script.requests();
    assert!(requests[0].starts_with("GET /v1/events?after=1 ") && !requests[0].contains("last-event-id"));
    assert!(requests.iter().all(|request| request.contains("accept: text/event-stream")), "{requests:?}");
    for (request, id) in [(&requests[1], 2), (&requests[2], 2), (&requests[3], 9)] {
        assert!(request.contains(&format!("last-event-id: {id}\r\n")), "{request}");
    }
}

#[tokio::test]
async fn a_log_is_followed_to_its_end_with_bytes_that_are_no_text() {
    let script = Script::start(vec![broken_stream(
        "id: 2-0\nevent: log\ndata: {\"stream\":\"stdout\",\"offset\":0,\"elapsed_us\":5,\"text\":\"hi\"}\n\n\
         id: 2-2\nevent: log\ndata: {\"stream\":\"stderr\",\"offset\":0,\"elapsed_us\":6,\"base64\":\"/wA=\"}\n\n\
         id: 2-2\nevent: end\ndata: {\"state\":\"succeeded\",\"stdout_bytes\":2,\"stderr_bytes\":2,\
         \"log_truncated\":false}\n\n",
    )])
    .await;
    let job = JobId::from_parts(1, [2; 10]);
    let mut follower = script.client.log_follow(&job, 1, LogSelection::Merged);
    let mut told = Vec::new();
    loop {
        match follower.next().await.expect("news") {
            LogNews::Bytes { stream, offset, bytes, .. } => told.push((stream, offset, bytes.to_vec())),
            LogNews::End(end) => {
                assert_eq!((end.stdout_bytes, end.stderr_bytes), (2, 2));
                break;
            }
        }
    }
    assert_eq!(told, [(LogStream::Stdout, 0, b"hi".to_vec()), (LogStream::Stderr, 0, vec![0xff, 0])]);
}

fn tempfile_path() -> std::path::PathBuf {
    let random: u64 = rand::random();
    std::env::temp_dir().join(format!("gristmill-client-{}-{random:x}", std::process::id()))
}

/// An upload of `hello world` against a script; what it sent, and how it ended.
async fn upload(answers: Vec<String>) -> (Vec<String>, Result<u64, ClientError>, u64) {
    let script = Script::start(answers).await;
    let bytes = bytes::Bytes::from_static(b"hello world");
    let content =
        Content { digest: Digest::from_bytes(Sha256::digest(&bytes).into()), size: bytes.len() as u64 };
    let told = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let hears = Arc::clone(&told);
    let on_sent = OnSent::new(move |sent| hears.store(sent, std::sync::atomic::Ordering::SeqCst));
    let open = |offset: u64| {
        let rest = bytes.slice(offset as usize..);
        futures_util::stream::once(std::future::ready(Ok::<_, std::io::Error>(rest)))
    };
    let stored = script.client.upload(content, open, &on_sent).await.map(|stored| stored.size);
    (script.requests(), stored, told.load(std::sync::atomic::Ordering::SeqCst))
}

fn begun() -> String {
    let id = UploadId::from_parts(1, [3; 10]);
    answer("201 Created", &format!("location: /v1/uploads/{id}\r\n"), "")
}

fn reached(offset: u64) -> String {
    answer("204 No Content", &format!("upload-complete: ?0\r\nupload-offset: {offset}\r\n"), "")
}

#[tokio::test]
async fn an_upload_goes_on_where_the_server_has_got_to() {
    let conflict =
        r#"{"type":"about:blank","title":"t","status":409,"detail":"d","code":"upload_offset_mismatch"}"#;
    let (requests, stored, told) = upload(vec![
        begun(),
        String::new(),
        reached(3),
        answer("409 Conflict", "", conflict),
        reached(6),
        answer("201 Created", "upload-complete: ?1\r\n", "{}"),
    ])
    .await;
    assert_eq!((stored.ok(), told), (Some(11), 11));
    let pieces: Vec<_> = requests.iter().filter(|request| request.starts_with("PATCH")).collect();
    let seen = |request: &str, header: &str, body: &str| request.contains(header) && request.ends_with(body);
    assert_eq!(pieces.len(), 3, "{requests:?}");
    assert!(seen(pieces[0], "upload-offset: 0\r\n", "\r\n\r\nhello world"), "{requests:?}");
    assert!(seen(pieces[1], "upload-offset: 3\r\n", "\r\n\r\nlo world"), "{requests:?}");
    assert!(seen(pieces[2], "upload-offset: 6\r\n", "\r\n\r\nworld"), "{requests:?}");
    assert!(requests[0].contains("upload-length: 11"), "{requests:?}");
    assert!(requests[0].contains("repr-digest: sha-256=:uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=:"));
}

#[tokio::test]
async fn an_upload_without_progress_is_given_up_and_a_lost_answer_is_found_again() {
    let stuck = [begun(), String::new(), reached(0), String::new(), reached(0), String::new(), reached(0)];
    let (requests, stored, _) = upload([&stuck[..], &[String::new()]].concat()).await;
    assert!(matches!(stored, Err(ClientError::Unreachable { .. })), "{stored:?}");
    assert_eq!(requests.iter().filter(|request| request.starts_with("PATCH")).count(), 4);

    let complete = answer("204 No Content", "upload-complete: ?1\r\nupload-offset: 11\r\n", "");
    let (_, stored, _) = upload(vec![begun(), String::new(), complete]).await;
    assert_eq!(stored.ok(), Some(11));

    let gone = || answer("404 Not Found", "x-request-id: r\r\n", "");
    let again = answer("201 Created", "upload-complete: ?1\r\n", "{}");
    let (requests, stored, _) = upload(vec![begun(), String::new(), gone(), begun(), again]).await;
    assert_eq!((requests.len(), stored.ok()), (5, Some(11)));
}
