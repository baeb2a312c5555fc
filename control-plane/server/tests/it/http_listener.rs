//! The server on a real socket: slow clients, large bodies, TLS, the lock on its data, and its end.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use gristmill_server::{Server, ServerConfig, TlsFiles};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use crate::{backend::scratch_dir, http_api::digest};

fn config(data: &Path) -> ServerConfig {
    ServerConfig::new(data, SocketAddr::from(([127, 0, 0, 1], 0)))
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> String {
    stream.write_all(request).await.expect("the server takes the request");
    let mut answer = Vec::new();
    // A server that cuts the connection has said all that it will say.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn ask(address: SocketAddr, request: &[u8]) -> String {
    talk(TcpStream::connect(address).await.expect("the server accepts"), request).await
}

fn get(target: &str, token: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n")
        .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_makes_what_is_needed_and_the_next_one_keeps_it() {
    let dir = scratch_dir();
    let server = Server::start(config(dir.path())).await.expect("starts");
    let path = dir.path().join("admin.token");
    let secret = std::fs::read_to_string(&path).expect("was written");
    let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().expect("is there").permissions());
    assert_eq!(mode & 0o777, 0o600);
    let answer = ask(server.local_addr(), &get("/v1/zones/default", secret.trim())).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let second = Server::start(config(dir.path())).await.expect_err("the data directory is taken");
    assert!(second.to_string().contains("another server has"), "{second}");
    let issued = server.issue_admin_token("dev").await.expect("is issued");
    assert!(issued.starts_with("gmu_") && issued != secret.trim());
    assert!(server.issue_join_token("default").await.expect("is issued").starts_with("gmj_"));
    assert!(server.issue_join_token("moon").await.is_err());
    server.shutdown().await;

    let server = Server::start(config(dir.path())).await.expect("starts again");
    let answer = ask(server.local_addr(), &get("/v1/tokens", secret.trim())).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"dev\""), "{answer}");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_admin_token_is_replaced_when_its_file_is_removed_and_a_revoked_one_is_not() {
    let dir = scratch_dir();
    let path = dir.path().join("admin.token");
    let file = || std::fs::read_to_string(&path).map(|text| text.trim().to_owned());
    let answers = async |server: &Server, secret: &str| {
        ask(server.local_addr(), &get("/v1/audit", secret)).await.starts_with("HTTP/1.1 200")
    };
    let server = Server::start(config(dir.path())).await.expect("starts");
    let first = file().expect("was written");
    let list = ask(server.local_addr(), &get("/v1/tokens", &first)).await;
    let id = list.split('"').find(|text| text.starts_with("tok_")).expect("its id");
    let revoke = String::from_utf8(get(&format!("/v1/tokens/{id}"), &first)).expect("a text");
    let answer = ask(server.local_addr(), revoke.replacen("GET", "DELETE", 1).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    server.shutdown().await;

    let server = Server::start(config(dir.path())).await.expect("starts with a revoked one");
    assert_eq!(file().expect("is left alone"), first);
    assert!(!answers(&server, &first).await);
    server.shutdown().await;

    std::fs::remove_file(&path).expect("is removed");
    let server = Server::start(config(dir.path())).await.expect("starts without the file");
    let second = file().expect("was written anew");
    assert!(second != first && answers(&server, &second).await && !answers(&server, &first).await);
    let audit =
        ask(server.local_addr(), &get("/v1/audit?actor=server&operation=token_create", &second)).await;
    assert_eq!(audit.matches("\"token_create\"").count(), 2, "{audit}");
    server.shutdown().await;

    std::fs::write(&path, "").expect("is emptied");
    let server = Server::start(config(dir.path())).await.expect("starts with an empty file");
    assert_eq!(file().expect("is left alone"), "");
    assert!(answers(&server, &second).await);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_beyond_loopback_is_refused() {
    let dir = scratch_dir();
    let mut config = config(dir.path());
    config.listen = SocketAddr::from(([0, 0, 0, 0], 0));
    let refusal = Server::start(config.clone()).await.expect_err("is refused").to_string();
    assert!(refusal.contains("--tls-cert") && refusal.contains("--behind-proxy"), "{refusal}");
    config.behind_proxy = true;
    Server::start(config).await.expect("a proxy does TLS").shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_too_slow_with_its_head_is_cut_while_others_are_served() {
    let dir = scratch_dir();
    let mut config = config(dir.path());
    config.head_timeout = Duration::from_millis(300);
    let server = Server::start(config).await.expect("starts");
    let address = server.local_addr();
    let mut slow = TcpStream::connect(address).await.expect("the server accepts");
    slow.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n").await.expect("a part of a head");
    let answer = ask(address, &get("/livez", "")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut rest = Vec::new();
    let cut = tokio::time::timeout(Duration::from_secs(20), slow.read_to_end(&mut rest)).await;
    assert!(cut.is_ok(), "the slow connection was not cut");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_large_are_refused() {
    let dir = scratch_dir();
    let server = Server::start(config(dir.path())).await.expect("starts");
    let many = (0..200).map(|n| format!("h{n}: v\r\n")).collect::<Vec<_>>().concat();
    let long = format!("h: {}\r\n", "v".repeat(400 << 10));
    for headers in [many, long] {
        let request = format!("GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
        let answer = ask(server.local_addr(), request.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_may_have_64_kib_and_not_one_byte_more() {
    let dir = scratch_dir();
    let server = Server::start(config(dir.path())).await.expect("starts");
    for (length, status) in [(64 << 10, "HTTP/1.1 200"), ((64 << 10) + 1, "HTTP/1.1 431")] {
        let (start, end) = ("GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\nh: ", "\r\n\r\n");
        let request = format!("{start}{}{end}", "v".repeat(length - start.len() - end.len()));
        assert_eq!(request.len(), length);
        let answer = ask(server.local_addr(), request.as_bytes()).await;
        assert!(answer.starts_with(status), "{length}: {answer}");
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_1_needs_exactly_one_host() {
    let dir = scratch_dir();
    let server = Server::start(config(dir.path())).await.expect("starts");
    for (version, hosts, status) in [
        ("1.1", "", 400),
        ("1.1", "host: x\r\nhost: y\r\n", 400),
        ("1.1", "host: x\r\n", 200),
        ("1.0", "", 200),
    ] {
        let request = format!("GET /livez HTTP/{version}\r\nconnection: close\r\n{hosts}\r\n");
        let answer = ask(server.local_addr(), request.as_bytes()).await;
        assert!(answer.contains(&format!(" {status} ")), "{request}{answer}");
        assert_eq!(answer.contains("application/problem+json"), status == 400, "{answer}");
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_gets_its_answer_before_the_connection_ends() {
    let dir = scratch_dir();
    let server = Server::start(config(dir.path())).await.expect("starts");
    let token = server.issue_admin_token("test").await.expect("is issued");
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: 8388608\r\n\r\n"
    );
    let mut request = head.into_bytes();
    request.resize(request.len() + (8 << 20), b' ');
    let answer = ask(server.local_addr(), &request).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("body_too_large"), "{answer}");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_leaves_nothing_behind() {
    let dir = scratch_dir();
    let server = Server::start(config(dir.path())).await.expect("starts");
    let token = server.issue_admin_token("test").await.expect("is issued");
    let head = format!(
        "PUT /v1/blobs/{} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 1000000\r\n\r\n",
        digest(b"never")
    );
    let mut stream = TcpStream::connect(server.local_addr()).await.expect("the server accepts");
    stream.write_all(head.as_bytes()).await.expect("the head");
    stream.write_all(&[0; 10_000]).await.expect("a part of the body");
    let staging = dir.path().join("objects/staging");
    let staged = || std::fs::read_dir(&staging).expect("the staging directory is there").count();
    wait_until(|| staged() == 1).await;
    drop(stream);
    wait_until(|| staged() == 0).await;
    server.shutdown().await;
}

async fn wait_until(mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it did not come about within ten seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_long_polls_and_finishes_what_is_under_way() {
    let dir = scratch_dir();
    let server = Server::start(config(dir.path())).await.expect("starts");
    let token = server.issue_admin_token("test").await.expect("is issued");
    let address = server.local_addr();
    let body = b"slow but whole";
    let head = format!(
        "PUT /v1/blobs/{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\
         content-length: {}\r\n\r\n",
        digest(body),
        body.len()
    );
    let mut upload = TcpStream::connect(address).await.expect("the server accepts");
    upload.write_all(head.as_bytes()).await.expect("the head");
    let staging = dir.path().join("objects/staging");
    wait_until(|| std::fs::read_dir(&staging).expect("is there").count() == 1).await;
    let stopping = tokio_util::task::TaskTracker::new().spawn(server.shutdown());
    wait_until(|| std::net::TcpStream::connect(address).is_err()).await;
    let answer = talk(upload, body).await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    tokio::time::timeout(Duration::from_secs(10), stopping)
        .await
        .expect("the server stops in time")
        .expect("the server stops cleanly");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_certificate_the_server_speaks_tls_alone() {
    let dir = scratch_dir();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).expect("is written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("is written");
    let mut config = config(&dir.path().join("data"));
    config.listen = SocketAddr::from(([0, 0, 0, 0], 0));
    config.tls = Some(TlsFiles { cert, key: key.clone() });
    let server = Server::start(config.clone()).await.expect("starts");
    let address = SocketAddr::from(([127, 0, 0, 1], server.local_addr().port()));
    assert!(server.base_url().starts_with("https://127.0.0.1:"));

    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("is a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the versions are known")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(address).await.expect("the server accepts");
    let name = "localhost".try_into().expect("is a name");
    let stream = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, tcp).await.expect("TLS");
    let answer = talk(stream, &get("/livez", "")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let plain = ask(address, &get("/livez", "")).await;
    assert!(!plain.contains("HTTP/1.1 200"), "{plain}");
    server.shutdown().await;

    config.data_dir = dir.path().join("other");
    config.tls = Some(TlsFiles { cert: key.clone(), key });
    let refusal = format!("{:#}", Server::start(config).await.expect_err("this is no certificate"));
    assert!(!refusal.is_empty());
}
