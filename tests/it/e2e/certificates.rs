//! What command line, doctor and node say of a server's certificate, and of TLS at one end alone.

use std::{path::Path, time::Duration};

use gristmill_tests::{
    cli::{Home, Started},
    cluster::{TestCluster, free_port},
    process::Process,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

use super::text;

const LIMIT: Duration = Duration::from_secs(60);

/// A certificate that signs itself, and its key, as files of the home.
fn certificate(home: &Home, name: &str, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    change(&mut params);
    let key = KeyPair::generate().expect("a key");
    let cert = params.self_signed(&key).expect("a certificate");
    let files = (home.file(&format!("{name}.pem"), cert.pem()), key.serialize_pem());
    (text(&files.0), text(&home.file(&format!("{name}.key"), files.1)))
}

/// A server with this certificate that is ready, and its port.
fn served(home: &Home, name: &str, files: &(String, String)) -> (Started, u16) {
    let (data, port) = (text(&home.path().join(name)), free_port());
    let listen = format!("127.0.0.1:{port}");
    let mut server = home.start([
        "server",
        "run",
        "--data",
        &data,
        "--listen",
        &listen,
        "--tls-cert",
        &files.0,
        "--tls-key",
        &files.1,
    ]);
    server.wait_for_stdout("admin.token");
    (server, port)
}

/// Insists that command line, doctor and an enrolling node end at once, with the same words and hint.
fn expect_told(home: &Home, server: &str, trust: &[&str], words: &str, hint: &str) {
    let at = [&["--server", server][..], trust].concat();
    let listed = home.run([&["job", "list", "--log-level", "debug"][..], &at].concat()).expect_code(1);
    let said = &listed.stderr;
    assert!(said.contains(words) && said.contains("code: tls") && said.contains(hint), "{said}");
    assert!(!said.contains("is tried again") && !said.contains("failed to verify"), "{said}");

    let doctor = home.run([&["doctor", "--quick"][..], &at].concat()).expect_code(1).text();
    let verdict = doctor.lines().skip_while(|line| !line.starts_with("failed   tls"));
    let verdict: Vec<_> = verdict.take(2).collect();
    assert!(verdict.len() == 2 && verdict[0].contains(words) && verdict[1].contains(hint), "{doctor}");

    let join = text(&home.file("any.token", "gmj_any"));
    let state = text(&home.path().join("node"));
    let node = ["node", "run", "--state", &state, "--join-token-file", &join, "--allow-weak-isolation"];
    let mut node = Process::start(home.path(), "node-process", &[&node[..], &at].concat());
    assert_eq!(node.wait(LIMIT).code(), Some(1), "{}", node.log());
    let log = node.log();
    assert!(log.contains(words) && log.contains("code: tls") && log.contains(hint), "{log}");
    assert!(!log.contains("/.cargo/") && !log.contains("asking again"), "{log}");
    std::fs::remove_file(Path::new(home.path()).join("node-process.log")).expect("its own log");
}

#[test]
fn a_certificate_that_is_not_accepted_is_named_with_what_to_do() {
    let home = Home::default();
    let good = certificate(&home, "good", |_| {});
    let (_server, port) = served(&home, "good-data", &good);
    let url = format!("https://localhost:{port}");
    expect_told(&home, &url, &[], "signed by nobody that is trusted", "--ca-file");
    let other = certificate(&home, "other", |_| {});
    expect_told(&home, &url, &["--ca-file", &other.0], "signed by nobody that is trusted", "--ca-file");
    let number = format!("https://127.0.0.1:{port}");
    let words = "its certificate is for localhost, not for 127.0.0.1";
    expect_told(&home, &number, &["--ca-file", &good.0], words, "subjectAltName");
    let token = text(&home.path().join("good-data/admin.token"));
    let at = ["--server", &url, "--ca-file", &good.0, "--token-file", &token];
    let doctor = home.run([&["doctor", "--quick"][..], &at].concat()).text();
    assert!(doctor.contains("ok       tls") && doctor.contains("ok       server"), "{doctor}");

    let authority = certificate(&home, "authority", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    let (_server, port) = served(&home, "authority-data", &authority);
    let url = format!("https://localhost:{port}");
    expect_told(&home, &url, &["--ca-file", &authority.0], "(CA:TRUE)", "CA:FALSE");

    let old = certificate(&home, "old", |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let (_server, port) = served(&home, "old-data", &old);
    let url = format!("https://localhost:{port}");
    expect_told(&home, &url, &["--ca-file", &old.0], "has expired", "clock");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_to_a_port_with_tls_and_https_to_one_without_are_told_apart() {
    let home = Home::default();
    let good = certificate(&home, "good", |_| {});
    let (_server, port) = served(&home, "good-data", &good);
    let plain = format!("http://localhost:{port}");
    tokio::task::block_in_place(|| {
        expect_told(&home, &plain, &[], "what it answers is no HTTP", "write https://");
    });
    let cluster = TestCluster::start().await;
    let secure = cluster.api.url.replace("http:", "https:");
    tokio::task::block_in_place(|| {
        let trust = ["--ca-file", &good.0];
        expect_told(&home, &secure, &trust, "what it answers is no TLS", "write http://");
    });
}
