//! What `run` does before, while and after its job waits, when things are not as they should be.

use std::{fs, path::PathBuf, time::Duration};

use gristmill_tests::{cli::Home, cluster::TestCluster, guests, process::send_signal};
use rustix::process::Signal;

use super::{run_at, text};

/// Covers the start of an instance, a lease's full time and a second attempt.
const RECOVERY: Duration = Duration::from_secs(120);

fn instance_file(home: &Home) -> PathBuf {
    home.path().join("data/gristmill/instance.json")
}

fn instance_pid(home: &Home) -> u32 {
    let text = fs::read(instance_file(home)).expect("the instance says where it is");
    let file: serde_json::Value = serde_json::from_slice(&text).expect("a document");
    file["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a process id")
}

#[test]
fn a_private_instance_that_is_killed_is_started_again_and_its_job_is_followed_on() {
    let home = Home::default();
    let module = text(&home.file("computes.wasm", guests::computes(2_000_000_000)));
    let out = text(&home.path().join("out"));
    let mut running = home.start(["run", &module, "--out", &out]);
    let first = running.wait_for_stdout("ready\n");
    let killed = instance_pid(&home);
    send_signal(killed, Signal::KILL);
    let ended = running.end(RECOVERY).expect_code(0);
    assert_eq!(first + &ended.text(), "ready\n", "what the second attempt repeats is not shown twice");
    assert!(ended.stderr.contains("starting it again"), "{}", ended.stderr);
    assert_eq!(fs::read(home.path().join("out/result")).expect("the output"), b"result");
    assert_ne!(instance_pid(&home), killed);
    let jobs = home.run(["job", "list", "--output", "json"]).expect_code(0).json();
    let jobs = jobs["items"].as_array().expect("a list");
    assert_eq!((jobs.len(), &jobs[0]["state"]), (1, &"succeeded".into()), "it is the same job");
}

#[test]
fn a_private_instance_that_cannot_be_started_again_leaves_a_job_that_can() {
    let home = Home::default();
    let module = text(&home.file("spins.wasm", guests::spins_for_ever()));
    let mut running = home.start(["run", &module]);
    running.wait_for_stdout("ready\n");
    // A directory in the place of the database keeps the next instance from starting.
    let database = home.path().join("data/gristmill/server/gristmill.db");
    assert!(database.is_file(), "the test knows where the database is");
    send_signal(instance_pid(&home), Signal::KILL);
    fs::remove_file(&database).expect("the home is writable");
    fs::create_dir(&database).expect("the home is writable");
    let ended = running.end(RECOVERY).expect_code(1);
    let hint = ended.stderr.lines().find(|line| line.starts_with("hint: ")).unwrap_or_default();
    assert!(hint.contains("gristmill job wait job_"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_says_why_once_also_without_a_terminal() {
    let cluster = TestCluster::start().await;
    let home = Home::default();
    let module = text(&home.file("noop.wasm", guests::noop()));
    let args = ["run", &module, "--wait-timeout", "9s"];
    let ended = run_at(&cluster, &home, &cluster.api.url, &args).expect_code(5);
    let why = "the job waits: zone default: the zone has no node yet";
    assert_eq!(ended.stderr.matches(why).count(), 1, "{}", ended.stderr);
}

#[test]
fn what_is_wrong_with_local_files_is_told_before_anything_is_started() {
    let home = Home::default();
    let module = text(&home.file("noop.wasm", guests::noop()));
    let file = text(&home.file("file", b"kept"));
    for (option, value, told) in [
        ("--out", file.as_str(), "--out"),
        ("--out", "/proc/nothing/here", "--out"),
        ("--in", "t=/dev/zero", "--in t=/dev/zero is a device"),
        ("--in", "t=/dev/null", "--in t=/dev/null is a device"),
        ("--stdin", "/dev/zero", "--stdin /dev/zero is a device"),
        ("--params", "/dev/zero", "--params /dev/zero is a device"),
    ] {
        for local in [&[][..], &["--local"]] {
            let ended = home.run([&["run", &module, option, value][..], local].concat()).expect_code(1);
            assert!(ended.stderr.contains(told), "{}", ended.stderr);
        }
    }
    assert_eq!(fs::read(&file).expect("the file"), b"kept");
    assert!(!home.path().join("data/gristmill/instance.lock").exists(), "an instance was started");
}

#[test]
fn an_out_directory_is_there_also_when_nothing_was_put_out() {
    let home = Home::default();
    let module = text(&home.file("noop.wasm", guests::noop()));
    let out = home.path().join("deep/out");
    home.run(["run", &module, "--out", &text(&out)]).expect_code(0);
    assert_eq!(fs::read_dir(&out).expect("the directory").count(), 0);
}

#[test]
fn options_out_of_range_or_out_of_place_are_usage_errors_in_words() {
    let home = Home::default();
    let module = text(&home.file("noop.wasm", guests::noop()));
    for (words, told) in [
        (&["--wall-time", "0"][..], "--wall-time must be from 1 ms to 30 days, not 0 ms"),
        (&["--local", "--fuel", "0"], "--fuel must be from 1 to"),
        (&["--retries", "101"], "--retries"),
        (&["--local", "--server", "http://127.0.0.1:1"], "--server needs a server; leave it or --local away"),
    ] {
        let ended = home.run([&["run", &module][..], words].concat()).expect_code(2);
        assert!(ended.stderr.contains(told) && !ended.stderr.contains('{'), "{}", ended.stderr);
    }
}

#[test]
fn a_list_of_jobs_of_a_module_that_is_not_there_says_so() {
    let home = Home::default();
    let module = text(&home.file("noop.wasm", guests::noop()));
    home.run(["run", &module]).expect_code(0);
    let listed = home.run(["job", "list", "--module", "nope", "--output", "json"]).expect_code(0);
    assert_eq!(listed.json()["items"], serde_json::json!([]));
    assert!(listed.stderr.contains("there is no module \"nope\""), "{}", listed.stderr);
    let known = home.run(["job", "list", "--module", "noop"]).expect_code(0);
    assert!(known.stderr.is_empty(), "{}", known.stderr);
}
