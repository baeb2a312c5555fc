//! The example of the README, with the private instance.

use std::fs;

use gristmill_tests::{cli::Home, repository};

use super::{rebuilt, text};

fn summary_args(module: &str, out: &str) -> Vec<String> {
    let data = text(&repository().join("examples/simulations.csv"));
    ["run", module, "--in", &format!("data.csv={data}"), "--out", out].map(str::to_owned).to_vec()
}

#[test]
fn the_example_of_the_readme_prints_its_summary_and_writes_its_output() {
    let home = Home::default();
    let module = text(&repository().join("examples/csv-summary.wasm"));
    let ended = home.run(summary_args(&module, "summary")).expect_code(0);

    let summary = ended.text();
    assert!(summary.starts_with("400 records\n"), "{summary}");
    assert!(summary.contains("cycles           number"), "{summary}");
    assert!(ended.stderr.contains("read 400 records of 11 columns"), "{}", ended.stderr);
    assert!(ended.stderr.contains("succeeded"), "no closing line: {}", ended.stderr);
    let csv = fs::read_to_string(home.path().join("summary/summary.csv")).expect("the output was written");
    assert_eq!(csv.lines().count(), 12, "a header and one line for each column: {csv}");
    assert!(csv.lines().any(|line| line.starts_with("status,text,0,failed,passed")), "{csv}");
}

#[test]
fn a_second_run_attaches_to_the_living_instance_and_uploads_nothing_new() {
    let home = Home::default();
    let module = text(&repository().join("examples/csv-summary.wasm"));
    home.run(summary_args(&module, "first")).expect_code(0);
    let before = home.processes();
    home.run(summary_args(&module, "second")).expect_code(0);
    let after = home.processes();

    assert_eq!(before.first(), after.first(), "the instance is the same process");
    let read = |name: &str| fs::read(home.path().join(name).join("summary.csv")).expect("an output");
    assert_eq!(read("first"), read("second"));
    let jobs = home.run(["job", "list", "--output", "json"]).expect_code(0).json();
    let jobs = jobs["items"].as_array().cloned().expect("a list of jobs");
    assert_eq!(jobs.len(), 2, "{jobs:#?}");
    assert_eq!(jobs[0]["module"]["digest"], jobs[1]["module"]["digest"]);
}

#[test]
fn a_private_instance_that_was_killed_is_replaced_and_forgets_no_job() {
    let home = Home::default();
    let module = text(&repository().join("examples/csv-summary.wasm"));
    home.run(summary_args(&module, "first")).expect_code(0);
    assert!(home.kill(), "it dies");
    home.run(summary_args(&module, "second")).expect_code(0);
    let jobs = home.run(["job", "list", "--output", "json"]).expect_code(0).json();
    let jobs = jobs["items"].as_array().cloned().expect("a list of jobs");
    assert_eq!(jobs.len(), 2, "{jobs:#?}");
}

#[test]
fn a_local_run_gives_the_same_output_without_a_server() {
    let home = Home::default();
    let module = text(&repository().join("examples/csv-summary.wasm"));
    let served = home.run(summary_args(&module, "served")).expect_code(0);
    let alone = Home::default();
    let mut args = summary_args(&module, "local");
    args.insert(1, "--local".to_owned());
    let local = alone.run(args).expect_code(0);

    assert_eq!(served.text(), local.text());
    let csv =
        |home: &Home, dir: &str| fs::read(home.path().join(dir).join("summary.csv")).expect("an output");
    assert_eq!(csv(&home, "served"), csv(&alone, "local"));
    assert_eq!(alone.processes(), Vec::<u32>::new(), "a local run leaves no process behind");
}

#[test]
fn the_committed_module_and_a_rebuilt_one_give_the_same_output() {
    let Some(rebuilt) = rebuilt("csv-summary", "REBUILD") else { return };
    let home = Home::default();
    let committed = text(&repository().join("examples/csv-summary.wasm"));
    let first = home.run(summary_args(&committed, "committed")).expect_code(0);
    let second = home.run(summary_args(&text(&rebuilt), "rebuilt")).expect_code(0);
    assert_eq!(first.text(), second.text());
    let csv = |dir: &str| fs::read(home.path().join(dir).join("summary.csv")).expect("an output");
    assert_eq!(csv("committed"), csv("rebuilt"));
}
