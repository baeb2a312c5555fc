//! The life of the private instance: it begins with a command and ends by itself.

use std::time::{Duration, Instant};

use gristmill_tests::{
    cli::{Ended, Home},
    guests,
};

use super::text;

const LIMIT: Duration = Duration::from_secs(60);
/// How long the instance outlives its last use here; a minute when nothing is said.
const IDLE: &str = "2s";

fn run(home: &Home, args: &[&str]) -> Ended {
    let output = home.command(args).env("GRISTMILL_INSTANCE_IDLE", IDLE).output();
    Ended::from_output(output.expect("the binary starts"))
}

fn wait_for_end(home: &Home) {
    let give_up = Instant::now() + LIMIT;
    while !home.processes().is_empty() {
        assert!(Instant::now() < give_up, "the instance is still there: {:?}", home.processes());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn it_ends_when_idle_and_not_before_its_last_job_and_the_next_command_begins_another() {
    let home = Home::default();
    let data = home.path().join("data/gristmill");
    let module = text(&home.file("noop.wasm", guests::noop()));
    run(&home, &["run", &module]).expect_code(0);
    assert!(data.join("instance.json").exists() && !home.processes().is_empty(), "it stays for a while");
    wait_for_end(&home);
    assert!(!data.join("instance.json").exists(), "it takes its address away");
    let log = std::fs::read_to_string(data.join("instance.log")).expect("its log");
    assert!(log.contains("the private instance ends"), "{log}");

    // Nobody waits for this job, and the instance does.
    let spins = text(&home.file("spins.wasm", guests::spins_for_ever()));
    let id = run(&home, &["job", "submit", &spins, "--wall-time", "10s"]).expect_code(0).text();
    std::thread::sleep(Duration::from_secs(6));
    assert!(!home.processes().is_empty(), "it ended with a job that runs");
    wait_for_end(&home);
    let shown = run(&home, &["job", "get", id.trim(), "--output", "json"]).expect_code(0).json();
    assert_eq!(shown["reason"], "wall_time_exceeded", "{shown:#}");
    wait_for_end(&home);
}
