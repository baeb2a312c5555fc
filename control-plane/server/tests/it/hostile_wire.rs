//! Clients that break the rules of HTTP or hold the server up, on a real socket.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use gristmill_server::{
    Server, ServerConfig,
    config::{PaceRule, Rate},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{backend::scratch_dir, http_api::digest};

/// Longest time for anything that has to happen, on a slow machine.
const LIMIT: Duration = Duration::from_secs(60);

struct Wire {
    server: Server,
    token: String,
    _dir: tempfile::TempDir,
}

impl Wire {
    async fn start(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let dir = scratch_dir();
        let mut config = ServerConfig::new(dir.path(), SocketAddr::from(([127, 0, 0, 1], 0)));
        change(&mut config);
        let server = Server::start(config).await.expect("starts");
        let token = server.issue_admin_token("test").await.expect("is issued");
        Self { server, token, _dir: dir }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.server.local_addr()).await.expect("the server listens")
    }

    /// All that comes back for some bytes, until the server closes or the time is over.
    async fn say(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        // A server that refuses early may have closed before everything was sent.
        let _ = stream.write_all(bytes).await;
        rest(stream).await
    }

    fn head(&self, start: &str, more: &str) -> Vec<u8> {
        let token = &self.token;
        format!("{start} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n{more}\r\n").into_bytes()
    }
}

async fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection stays open: {}", String::from_utf8_lossy(&answer));
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of the first answer.
fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("")
}

#[tokio::test(flavor = "multi_thread")]
async fn a14_lengths_that_lie_or_contradict_each_other_end_the_connection() {
    let wire = Wire::start(|config| {
        config.head_timeout = Duration::from_secs(2);
        config.clients.pace = PaceRule { window: Duration::from_secs(4), bytes_min: 1_000 };
    })
    .await;
    let json = "content-type: application/json\r\n";
    let post = |more: &str, body: &str| {
        let mut bytes = wire.head("POST /v1/tenants", &format!("{json}{more}"));
        bytes.extend_from_slice(body.as_bytes());
        bytes
    };
    for (what, bytes) in [
        ("two lengths", post("content-length: 3\r\ncontent-length: 5\r\n", "{}   ")),
        ("a list of lengths", post("content-length: 3, 5\r\n", "{}   ")),
        ("a negative length", post("content-length: -1\r\n", "{}")),
        ("a length with a sign", post("content-length: +2\r\n", "{}")),
        ("a length of words", post("content-length: two\r\n", "{}")),
        ("chunked twice", post("transfer-encoding: chunked, chunked\r\n", "0\r\n\r\n")),
        ("a coding after chunked", post("transfer-encoding: chunked, identity\r\n", "0\r\n\r\n")),
        ("a bad chunk", post("transfer-encoding: chunked\r\n", "zz\r\n{}\r\n0\r\n\r\n")),
        ("a length beyond the body", post("content-length: 1000\r\n", "{\"name\":")),
        ("a chunk beyond the body", post("transfer-encoding: chunked\r\n", "3e8\r\n{\"name\":")),
    ] {
        let answer = wire.say(&bytes).await;
        assert!(status(&answer) == "400" && answer.contains("invalid_request"), "{what}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: {answer}");
    }
    // With both, the length is passed over; what stands behind the body is never a second request.
    let smuggled = String::from_utf8(wire.head("GET /v1/zones", "")).expect("text");
    let body = format!("c\r\n{{\"name\":\"s\"}}\r\n0\r\n\r\n{smuggled}");
    for both in [
        "content-length: 4\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 4\r\n",
        "content-length: 4\r\ntransfer-encoding: chunked\r\nconnection: keep-alive\r\n",
    ] {
        let answer = wire.say(&post(both, &body)).await;
        assert!(["201", "409"].contains(&status(&answer)), "{both}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{both}: {answer}");
        assert!(!answer.contains("\"default\""), "{both}: {answer}");
    }
    wire.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a14_who_waits_for_permission_to_go_on_is_answered_and_who_then_says_nothing_is_cut() {
    let wire = Wire::start(|config| {
        config.clients.pace = PaceRule { window: Duration::from_secs(2), bytes_min: 1_000 };
    })
    .await;
    let more = "content-type: application/json\r\nexpect: 100-continue\r\ncontent-length: 12\r\nconnection: close\r\n";
    let asks = async || {
        let mut stream = wire.connect().await;
        stream.write_all(&wire.head("POST /v1/tenants", more)).await.expect("the head");
        let mut first = [0; 25];
        tokio::time::timeout(LIMIT, stream.read_exact(&mut first)).await.expect("an answer").expect("bytes");
        assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream
    };
    let mut stream = asks().await;
    stream.write_all(br#"{"name":"a"}"#).await.expect("the body");
    assert_eq!(status(&rest(stream).await), "201");
    let silent = rest(asks().await).await;
    assert!(status(&silent) == "400" && silent.contains("too slowly"), "{silent}");
    // Who may not go on is told so, and is not asked for the body.
    let stranger = format!("POST /v1/tenants HTTP/1.1\r\nhost: x\r\n{more}\r\n");
    assert_eq!(status(&wire.say(stranger.as_bytes()).await), "401");
    wire.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_gets_a_problem_document_and_an_end() {
    let wire = Wire::start(|_| {}).await;
    let many = (0..200).map(|n| format!("h{n}: v\r\n")).collect::<Vec<_>>().concat();
    for (bytes, code) in [
        (b"hello\r\n\r\n".to_vec(), "invalid_request"),
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n".to_vec(), "invalid_request"),
        (b"GET / HTTP/1.1\r\nhost: x\r\na: b\0c\r\n\r\n".to_vec(), "invalid_request"),
        (format!("GET /livez HTTP/1.1\r\nhost: x\r\n{many}\r\n").into_bytes(), "head_too_large"),
        (
            wire.head(&format!("GET /v1/zones?{}", "a".repeat(20_000)), "connection: close\r\n"),
            "target_too_long",
        ),
    ] {
        let answer = wire.say(&bytes).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        assert!(head.contains("application/problem+json"), "{answer}");
        let problem: gristmill_protocol::Problem = serde_json::from_str(body).expect("a problem document");
        assert_eq!(problem.code.as_str(), code);
        assert_eq!(problem.status.to_string(), status(&answer));
        assert!(problem.hint.is_some());
    }
    wire.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_in_drops_is_given_up_and_one_with_pauses_is_not() {
    let wire = Wire::start(|config| {
        config.clients.pace = PaceRule { window: Duration::from_secs(4), bytes_min: 10_000 };
    })
    .await;
    let put = |body: &[u8]| {
        let more = format!("connection: close\r\ncontent-length: {}\r\n", body.len());
        wire.head(&format!("PUT /v1/blobs/{}", digest(body)), &more)
    };
    let body = vec![b'a'; 100_000];
    let mut slow = wire.connect().await;
    slow.write_all(&put(&body)).await.expect("the head");
    let (mut reader, mut writer) = slow.into_split();
    let dripping = tokio_util::task::TaskTracker::new().spawn(async move {
        // Never silent for long, and never fast.
        while writer.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(LIMIT, reader.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "the slow sender was not cut");
    dripping.abort();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.is_empty() || (status(&answer) == "400" && answer.contains("too slowly")), "{answer}");

    let body = vec![b'b'; 60_000];
    let mut steady = wire.connect().await;
    steady.write_all(&put(&body)).await.expect("the head");
    for piece in body.chunks(20_000) {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        steady.write_all(piece).await.expect("the server still reads");
    }
    assert_eq!(status(&rest(steady).await), "201");
    wire.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_takes_nothing_is_cut() {
    let wire = Wire::start(|config| {
        config.clients.pace = PaceRule { window: Duration::from_millis(500), bytes_min: 1_000 };
        config.clients.transfers_max = 2;
    })
    .await;
    // More than the kernel buffers for a connection.
    let body = vec![b'a'; 48 << 20];
    let target = format!("/v1/blobs/{}", digest(&body));
    let more = format!("connection: close\r\ncontent-length: {}\r\n", body.len());
    let stored = wire.say(&[wire.head(&format!("PUT {target}"), &more), body.clone()].concat()).await;
    assert_eq!(status(&stored), "201", "{stored}");

    let mut stuck = wire.connect().await;
    stuck.write_all(&wire.head(&format!("GET {target}"), "")).await.expect("the request");
    // It holds the token's whole share of the downloads until the server has given it up.
    let began = Instant::now();
    let head = wire.head(&format!("HEAD {target}"), "connection: close\r\n");
    let mut refusals = 0;
    while status(&wire.say(&head).await) != "200" {
        refusals += 1;
        assert!(began.elapsed() < LIMIT, "the stuck reader was not cut");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(refusals > 0, "nothing was held");
    let mut got = Vec::new();
    let _ = stuck.read_to_end(&mut got).await;
    assert!(got.len() < body.len(), "{} bytes after {:?}", got.len(), began.elapsed());

    let whole = wire.say(&wire.head(&format!("GET {target}"), "connection: close\r\n")).await;
    assert!(whole.len() > body.len(), "who reads gets it all");
    wire.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_its_share_of_connections_and_a_few_more_for_nodes() {
    let wire = Wire::start(|config| {
        config.connections_max = 64;
        config.connections_peer_max = 10;
    })
    .await;
    let idle: Vec<TcpStream> = {
        let mut idle = Vec::new();
        for _ in 0..10 {
            let mut stream = wire.connect().await;
            stream.write_all(&wire.head("GET /v1/zones", "")).await.expect("the request");
            let mut first = [0; 12];
            stream.read_exact(&mut first).await.expect("an answer");
            assert_eq!(&first, b"HTTP/1.1 200");
            idle.push(stream);
        }
        idle
    };
    // Beyond the share, users are sent away, nodes are heard, and monitoring is answered.
    let user = wire.say(&wire.head("GET /v1/zones", "")).await;
    assert!(status(&user) == "503" && user.to_lowercase().contains("retry-after: 1"), "{user}");
    let body = r#"{"updates":[]}"#;
    let more = format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
    let node = wire.say(&[wire.head("POST /v1/node/updates", &more), body.into()].concat()).await;
    assert_eq!(status(&node), "401", "it is asked for its signature: {node}");
    assert_eq!(status(&wire.say(&wire.head("GET /livez", "connection: close\r\n")).await), "200");
    // Beyond the reserve's share (4 of 8), connections are closed unheard.
    let held: Vec<TcpStream> = futures_util::future::join_all((0..4).map(|_| wire.connect())).await;
    let unheard = wire.say(&wire.head("GET /livez", "connection: close\r\n")).await;
    assert_eq!(unheard, "");
    drop((idle, held));
    let began = Instant::now();
    let again = wire.head("GET /v1/zones", "connection: close\r\n");
    while status(&wire.say(&again).await) != "200" {
        assert!(began.elapsed() < LIMIT, "connections were not given back");
    }
    let metrics = wire.say(&wire.head("GET /metrics", "connection: close\r\n")).await;
    let count = |name: &str| {
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse::<u64>().ok()).unwrap_or_else(|| panic!("{name} in {metrics}"))
    };
    assert!(count("gristmill_http_connections_denied_total") > 0, "the one that was unheard");
    let denied = |code: &str| count(&format!("gristmill_http_requests_denied_total{{code=\"{code}\"}}"));
    assert!(denied("unavailable") > 0 && denied("unauthenticated") > 0, "the user and the node");
    wire.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_own_address_serves_nobody_else() {
    let wire = Wire::start(|config| config.node_listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)))).await;
    let address = wire.server.node_addr().expect("it was asked for");
    let ask = async |bytes: Vec<u8>| {
        let mut stream = TcpStream::connect(address).await.expect("the server listens there too");
        stream.write_all(&bytes).await.expect("the request");
        rest(stream).await
    };
    let user = ask(wire.head("GET /v1/zones", "connection: close\r\n")).await;
    assert!(status(&user) == "403" && user.contains("only nodes"), "{user}");
    assert_eq!(status(&ask(wire.head("GET /readyz", "connection: close\r\n")).await), "200");
    let enroll = "content-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n";
    let node = ask([wire.head("POST /v1/node/enroll", enroll), b"{}".to_vec()].concat()).await;
    assert_eq!(status(&node), "400", "it is heard, and lacks everything: {node}");
    wire.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_often_is_told_when_to_come_back() {
    let wire = Wire::start(|config| {
        config.clients.token_rate = Rate::of(1);
        config.clients.stranger_rate = Rate::of(1);
    })
    .await;
    let get = wire.head("GET /v1/zones", "connection: close\r\n");
    let mut answer = wire.say(&get).await;
    assert!(answer.contains("ratelimit-policy: \"token\";q=10;w=10"), "{answer}");
    assert!(answer.contains("ratelimit: \"token\";r=9;t=1"), "{answer}");
    let began = Instant::now();
    while status(&answer) == "200" {
        assert!(began.elapsed() < LIMIT, "there is no limit");
        answer = wire.say(&get).await;
    }
    assert!(status(&answer) == "429" && answer.contains("rate_limited"), "{answer}");
    let seconds = answer
        .to_lowercase()
        .split("retry-after: ")
        .nth(1)
        .and_then(|rest| rest.lines().next()?.parse().ok());
    assert!(seconds.is_some_and(|seconds: u64| (1..=2).contains(&seconds)), "{answer}");

    let guess =
        b"GET /v1/zones HTTP/1.1\r\nhost: x\r\nauthorization: Bearer gmu_guess\r\nconnection: close\r\n\r\n";
    let mut statuses = vec![status(&wire.say(guess).await).to_owned()];
    while statuses.last().is_some_and(|last| last == "401") {
        assert!(began.elapsed() < LIMIT, "there is no limit for guesses");
        statuses.push(status(&wire.say(guess).await).to_owned());
    }
    assert!(statuses.len() > 5 && statuses.last().is_some_and(|last| last == "429"), "{statuses:?}");
    // A token that is known is not among the strangers of its address.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(status(&wire.say(&get).await), "200");
    wire.server.shutdown().await;
}
