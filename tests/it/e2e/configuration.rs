//! Settings from files, variables and options; `doctor`, completions and the manual.

use std::{fs, process::Command, time::Duration};

use gristmill_tests::{
    cli::Home,
    cluster::{TestCluster, free_port},
    repository, skip,
};
use serde_json::Value;

use super::{run_at, text};

const LIMIT: Duration = Duration::from_secs(60);

/// The origin of a setting as `config show --origin --output json` tells it, and its value.
fn shown(document: &Value, key: &str) -> (String, Value) {
    let items = document["items"].as_array().expect("a list");
    let item = items.iter().find(|item| item["key"] == key).expect("every setting is shown");
    (item["origin"].as_str().unwrap_or_default().to_owned(), item["value"].clone())
}

#[test]
fn a_file_is_checked_with_line_key_and_the_nearest_known_one() {
    let home = Home::default();
    let file = text(&home.file("wrong.toml", "[server]\ndata = \"d\"\nlisten = 7070\nlease_tll = \"1m\"\n"));
    let ended = home.run(["config", "check", &file]).expect_code(1);
    let listen = format!("{file}:3: server.listen: a text in quotes should stand here, not a number");
    let lease = format!("{file}:4: server.lease_tll: is no known key; did you mean lease_ttl?");
    assert!(ended.stderr.contains(&listen) && ended.stderr.contains(&lease), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("code: configuration") && ended.stderr.contains("hint: "),
        "{}",
        ended.stderr
    );
    let document = home.run(["config", "check", &file, "--output", "json"]).expect_code(1).json();
    assert_eq!(document["problems"][1]["line"], 4, "{document}");
    // What is wrong stops every command that would use it, and says the same.
    let refused = home.run(["server", "run", "--config", &file]).expect_code(1);
    assert!(refused.stderr.contains(&lease), "{}", refused.stderr);
    for example in ["server.toml", "node.toml"] {
        let path = text(&repository().join("examples/config").join(example));
        home.run(["config", "check", &path]).expect_code(0);
    }
}

#[test]
fn every_setting_is_shown_with_where_it_comes_from_and_secrets_are_not_shown() {
    let home = Home::default();
    let file = text(&home.file("all.toml", "[server]\nlease_ttl = \"1m\"\nsweep_period = \"2s\"\n"));
    let output = home
        .command(["config", "show", "--origin", "--output", "json", "--ca-file", "ca.pem"])
        .env("GRISTMILL_CONFIG", &file)
        .env("GRISTMILL_SERVER_SWEEP_PERIOD", "3s")
        .env("GRISTMILL_TOKEN", "gmu_not_to_be_seen")
        .output()
        .expect("the binary starts");
    let shown_text = String::from_utf8_lossy(&output.stdout);
    assert!(!shown_text.contains("not_to_be_seen"), "{shown_text}");
    let document: Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!(shown(&document, "server.lease_ttl"), (format!("{file}:2"), "1m".into()));
    let variable = "environment GRISTMILL_SERVER_SWEEP_PERIOD".to_owned();
    assert_eq!(shown(&document, "server.sweep_period"), (variable, "3s".into()));
    assert_eq!(shown(&document, "client.ca_file"), ("option --ca-file".into(), "ca.pem".into()));
    assert_eq!(shown(&document, "server.lease_renew"), ("default".into(), "10s".into()));
    assert_eq!(shown(&document, "client.token").0, "environment GRISTMILL_TOKEN");
}

#[test]
fn a_server_and_a_node_start_from_files_alone() {
    let home = Home::default();
    let port = free_port();
    let server = format!("[server]\ndata = \"data\"\nlisten = \"127.0.0.1:{port}\"\n");
    let server_file = text(&home.file("server.toml", server));
    let mut running = home.start(["server", "run", "--config", &server_file]);
    running.wait_for_stdout("admin.token");
    let token = text(&home.path().join("data/admin.token"));
    let url = format!("http://127.0.0.1:{port}");
    let credentials = ["--server", &url, "--token-file", &token];
    let create = ["join-token", "create", "--zone", "default", "--secret-file", "join.token"];
    home.run(credentials.iter().chain(&create)).expect_code(0);
    let node = format!(
        "[node]\nserver = \"{url}\"\nstate = \"node\"\njoin_token_file = \"join.token\"\nname = \"from-a-file\"\n\
         cpus = 1\nmemory = \"1GiB\"\nlabels = {{ disk = \"fast\" }}\n"
    );
    let node_file = text(&home.file("node.toml", node));
    let mut node = home.start(["node", "run", "--config", &node_file, "--output", "json"]);
    node.wait_for_stdout("\"isolation\"");
    let client = format!("[client]\nserver = \"{url}\"\ntoken_file = \"data/admin.token\"\n");
    let client_file = text(&home.file("client.toml", client));
    let listed =
        home.run(["node", "list", "--config", &client_file, "--output", "json"]).expect_code(0).json();
    let item = &listed["items"][0];
    assert_eq!((&item["name"], &item["labels"]["disk"]), (&"from-a-file".into(), &"fast".into()), "{listed}");
    node.interrupt();
    node.end(LIMIT).expect_code(0);
    running.interrupt();
    running.end(LIMIT).expect_code(0);
}

#[test]
fn what_a_service_cannot_do_without_is_named_with_every_way_to_set_it() {
    let home = Home::default();
    let ended = home.run(["server", "run"]).expect_code(2);
    assert!(ended.stderr.contains("server.data is needed"), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("--data") && ended.stderr.contains("GRISTMILL_SERVER_DATA"),
        "{}",
        ended.stderr
    );
    let ended = home.run(["server", "run", "--data", "d", "--lease-ttl", "5s"]).expect_code(2);
    assert!(ended.stderr.contains("server.lease_ttl"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_checks_machine_network_and_server_and_fails_when_one_of_them_does() {
    let cluster = TestCluster::start().await;
    let home = Home::default();
    let ended = run_at(&cluster, &home, &cluster.api.url, &["doctor", "--output", "json"]);
    let document = ended.expect_code(0).json();
    let checks = document["checks"].as_array().expect("a list").clone();
    let find = |name: &str| checks.iter().find(|check| check["name"] == name).cloned().unwrap_or_default();
    for name in ["settings", "proxy", "server", "token", "clock", "directory", "engine"] {
        assert_eq!(find(name)["verdict"], "ok", "{name}: {document}");
    }
    for name in
        ["authorities", "disk space", "disk speed", "file system", "open files", "isolation", "fuel rate"]
    {
        assert!(find(name)["detail"].is_string(), "{name}: {document}");
    }
    assert!(find("fuel rate")["detail"].as_str().unwrap_or_default().contains("core-seconds"), "{document}");

    let nobody = format!("http://127.0.0.1:{}", free_port());
    let ended = run_at(&cluster, &home, &nobody, &["doctor", "--quick"]).expect_code(1);
    let shown = ended.text();
    assert!(shown.contains("failed   server") && shown.contains("do: check the address"), "{shown}");
    let ended =
        run_at(&cluster, &home, &cluster.api.url, &["doctor", "--quick", "--ca-file", "/missing.pem"]);
    assert!(ended.expect_code(1).text().contains("failed   authorities"));
    let wrong = text(&home.file("wrong.toml", "[sever]\n"));
    let ended = home.run(["doctor", "--quick", "--config", &wrong]).expect_code(1);
    assert!(ended.text().contains("failed   settings"), "{}", ended.text());
}

#[test]
fn completions_are_scripts_that_their_shell_accepts() {
    let home = Home::default();
    let script = text(&home.file("bash", home.run(["completions", "bash"]).expect_code(0).stdout));
    let checked = Command::new("bash").args(["-n", &script]).output().expect("there is a bash");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    // The words that bash offers after `gristmill job `.
    let ask = format!(
        "source {script}; COMP_WORDS=(gristmill job ''); COMP_CWORD=2; _gristmill gristmill '' job; echo \"${{COMPREPLY[*]}}\""
    );
    let offered = Command::new("bash").args(["-c", &ask]).output().expect("there is a bash");
    let offered = String::from_utf8_lossy(&offered.stdout).into_owned();
    assert!(offered.contains("submit") && offered.contains("explain"), "{offered}");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let script = home.run(["completions", shell]).expect_code(0).text();
        assert!(script.contains("run-once"), "{shell}");
    }
    home.run(["completions", "tcsh"]).expect_code(2);
}

#[test]
fn the_manual_has_a_page_for_every_command_and_one_for_the_settings() {
    let home = Home::default();
    let out = text(&home.path().join("man"));
    home.run(["completions", "man", "--out", &out]).expect_code(0);
    let pages = home.path().join("man/man1");
    for page in ["gristmill", "gristmill-run", "gristmill-job-submit", "gristmill-node-run-once"] {
        assert!(pages.join(format!("{page}.1")).is_file(), "{page}");
    }
    assert!(!pages.join("gristmill-executor.1").exists(), "hidden commands have none");
    let settings = fs::read_to_string(home.path().join("man/man5/gristmill.toml.5")).expect("a page");
    for key in ["lease_ttl", "join_token_file", "GRISTMILL_SERVER_DATA"] {
        let escaped = key.replace('-', "\\-");
        assert!(settings.contains(&escaped), "{key}");
    }
    let all = fs::read_dir(&pages).expect("listed").map(|entry| entry.expect("an entry").path());
    for page in all.chain([home.path().join("man/man5/gristmill.toml.5")]) {
        lint(&page);
    }
}

/// Lets groff read a page; it must have nothing to say.
fn lint(page: &std::path::Path) {
    let started = Command::new("groff").args(["-Kutf8", "-man", "-ww", "-z", "-Tutf8"]).arg(page).output();
    let read = match started {
        Ok(read) => read,
        Err(error) => {
            return skip::without("GROFF", format_args!("groff (Debian): {error}"));
        }
    };
    let said = String::from_utf8_lossy(&read.stderr).into_owned();
    assert!(read.status.success() && said.is_empty(), "{}: {said}", page.display());
}
