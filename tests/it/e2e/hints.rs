//! What to do about errors that come up in the first hour, and where `dev` says that things are.

use std::{fs, net::TcpListener};

use gristmill_tests::{
    cli::{Ended, Home},
    cluster::TestCluster,
};

use super::{run_at, text};

#[track_caller]
fn expect_hint(ended: Ended, code: &str, hint: &str) {
    let said = ended.expect_code(1).stderr;
    let told = said.lines().find_map(|line| line.strip_prefix("hint: ")).unwrap_or_default();
    assert!(told.contains(hint) && said.contains(&format!("code: {code}")), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_files_ports_and_tokens_say_what_to_do_about_them() {
    let cluster = TestCluster::start().await;
    let home = Home::default();
    let empty = text(&home.path().join("empty"));
    fs::create_dir(&empty).expect("made");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    expect_hint(home.run(["server", "run", "--data", "new", "--listen", &address]), "local", "--listen");
    expect_hint(home.run(["backup", "--data", &empty, "--out", "b"]), "local", "print it as `data`");
    expect_hint(home.run(["migrate", "--data", &empty]), "local", "print it as `data`");
    expect_hint(home.run(["backup", "--verify", &empty]), "local", "`gristmill backup --out` made");
    expect_hint(home.run(["restore", "--from", &empty, "--data", "restored"]), "local", "backup --out` made");

    let data = text(&cluster.data_dir());
    home.run(["backup", "--data", &data, "--out", "good"]).expect_code(0);
    expect_hint(home.run(["backup", "--data", &data, "--out", "good"]), "local", "not there yet");
    let filled = home.run(["restore", "--from", "good", "--data", &data]);
    expect_hint(filled, "local", "an empty directory, or one that is not there yet");
    fs::write(home.path().join("good/SHA256SUMS"), "other").expect("the backup is the test's own");
    expect_hint(home.run(["backup", "--verify", "good"]), "local", "take another backup");

    let mut stranger = cluster.api.token.clone();
    stranger.replace_range(4..8, "none");
    let known = home.file("stranger.token", &stranger);
    let list = ["job", "list", "--token-file", &text(&known)];
    let ended = run_at(&cluster, &home, &cluster.api.url, &list);
    assert!(!ended.stderr.contains("Authorization"), "{}", ended.stderr);
    expect_hint(ended, "unauthenticated", "--token-file or GRISTMILL_TOKEN");
}

#[test]
fn dev_says_where_its_token_and_the_pages_of_the_api_are_and_its_directory_can_be_backed_up() {
    let home = Home::default();
    let mut dev = home.start(["dev", "--listen", "127.0.0.1:0"]);
    let said = dev.wait_for_stdout("Ctrl-C");
    let value = |name: &str| {
        let line = said.lines().find(|line| line.split_whitespace().next() == Some(name));
        let mut words = line.expect(name).split_whitespace().skip(1).filter(|word| *word != "in");
        words.next().expect(name).to_owned()
    };
    assert_eq!(value("docs"), format!("{}/docs", value("server")));
    let token = value("token").trim_end_matches(',').to_owned();
    let list = ["zone", "list", "--server", &value("server"), "--token-file", &token];
    home.run(list).expect_code(0);

    home.run(["backup", "--data", &value("data"), "--out", "saved"]).expect_code(0);
    home.run(["backup", "--verify", "saved"]).expect_code(0);
    let restored = home.run(["restore", "--from", "saved", "--data", "restored"]).expect_code(0).text();
    // Where the second word of each line begins.
    let column = |line: &str| {
        let blank = line.find(' ')?;
        line[blank..].find(|c| c != ' ').map(|further| blank + further)
    };
    let columns: std::collections::BTreeSet<_> = restored.lines().map(column).collect();
    assert!(columns.len() == 1 && restored.lines().count() > 5, "{restored}");
    home.run(["migrate", "--check", "--data", &value("data")]).expect_code(0);
}
