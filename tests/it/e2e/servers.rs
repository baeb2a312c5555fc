//! How a server may be started, and how it is spoken to over TLS.

use std::{fs, time::Duration};

use gristmill_tests::{
    cli::Home,
    cluster::{TestCluster, free_port},
    eventually, guests,
    process::Process,
};
use rustix::process::Signal;

use super::text;

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_data_is_refused() {
    let mut cluster = TestCluster::start().await;
    let (data, listen) = (text(&cluster.data_dir()), format!("127.0.0.1:{}", free_port()));
    let args = ["server", "run", "--data", &data, "--listen", &listen];
    let mut second = Process::start(cluster.dir.path(), "second", &args);
    let status = tokio::task::block_in_place(|| second.wait(LIMIT));
    assert!(!status.success());
    assert!(second.log().contains("error"), "{}", second.log());
    assert!(cluster.server.is_alive() && cluster.api.is_ready().await);
}

#[test]
fn plain_http_beyond_loopback_is_refused_unless_a_proxy_stands_before_it() {
    let home = Home::default();
    let data = text(&home.path().join("data-dir"));
    let listen = format!("0.0.0.0:{}", free_port());
    let ended = home.run(["server", "run", "--data", &data, "--listen", &listen]).expect_code(1);
    assert!(ended.stderr.contains("tls-cert") && ended.stderr.contains("behind-proxy"), "{}", ended.stderr);
    assert!(ended.stderr.contains("hint: one `openssl` command makes a certificate"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_a_server_in_order() {
    let mut cluster = TestCluster::start().await;
    cluster.server.signal(Signal::TERM);
    let status = tokio::task::block_in_place(|| cluster.server.wait(LIMIT));
    assert!(status.success(), "{status}\n{}", cluster.server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn node_and_command_line_reach_a_server_with_a_private_certificate() {
    let home = Home::default();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let cert = text(&home.file("cert.pem", certified.cert.pem()));
    let key = text(&home.file("key.pem", certified.signing_key.serialize_pem()));
    let data = home.path().join("tls-server");
    let port = free_port();
    let (data_text, listen) = (text(&data), format!("127.0.0.1:{port}"));
    let tls = ["--tls-cert", &cert, "--tls-key", &key];
    let args = [&["server", "run", "--data", &data_text, "--listen", &listen][..], &tls[..]].concat();
    let _server = Process::start(home.path(), "tls-server-process", &args);
    let token = data.join("admin.token");
    eventually("the administrator's token", LIMIT, || async { token.exists().then_some(()) }).await;

    let (url, token) = (format!("https://localhost:{port}"), text(&token));
    let at = ["--server", &url, "--token-file", &token, "--ca-file", &cert];
    let made = eventually("the server to answer", LIMIT, || async {
        let made = home
            .run([&["join-token", "create", "--zone", "default", "--output", "json"][..], &at[..]].concat());
        (made.code == 0).then_some(made)
    })
    .await;
    let join = text(&home.file("join.token", made.json()["secret"].as_str().expect("a secret")));
    let state = text(&home.path().join("tls-node"));
    let node =
        ["node", "run", "--server", &url, "--ca-file", &cert, "--join-token-file", &join, "--state", &state];
    let _node = Process::start(home.path(), "tls-node-process", &node);

    let module = text(&home.file("cat.wasm", guests::cat()));
    let input = text(&home.file("input.txt", "through TLS\n"));
    let job =
        ["run", &module, "--stdin", &input, "--memory", "64MiB", "--cpus", "0.5", "--wait-timeout", "60s"];
    let ended = home.run([&job[..], &at[..]].concat()).expect_code(0);
    assert_eq!(ended.text(), "through TLS\n");

    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    fs::write(&cert, other.cert.pem()).expect("the home is writable");
    home.run([&["job", "list"][..], &at[..]].concat()).expect_code(1);
}
