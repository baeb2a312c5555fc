//! What scripts rely on: exit codes, streams byte for byte, one JSON document.

use std::{fs, time::Duration};

use gristmill_tests::{cli::Home, guests};

use super::text;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_failing_guest_ends_the_command_with_3_and_names_code_and_reason() {
    let home = Home::default();
    let module = text(&home.file("fails.wasm", guests::exits_with(200)));
    let ended = home.run(["run", &module]).expect_code(3);
    assert!(ended.stderr.contains("failed"), "{}", ended.stderr);
    assert!(ended.stderr.contains("exit_code") && ended.stderr.contains("200"), "{}", ended.stderr);
}

#[test]
fn a_declared_success_code_ends_the_command_with_0() {
    let home = Home::default();
    let module = text(&home.file("twenty.wasm", guests::exits_with(20)));
    home.run(["run", &module, "--success-exit", "10,20"]).expect_code(0);
    home.run(["run", &module, "--success-exit", "10"]).expect_code(3);
}

#[test]
fn ctrl_c_cancels_the_job_and_ends_the_command_with_4() {
    let home = Home::default();
    let module = text(&home.file("spins.wasm", guests::spins_for_ever()));
    let mut running = home.start(["run", &module]);
    running.wait_for_stdout("ready\n");
    running.interrupt();
    let ended = running.end(LIMIT);
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("cancelled"), "{}", ended.stderr);
    let jobs = home.run(["job", "list", "--output", "json"]).expect_code(0).text();
    assert!(jobs.contains("\"cancelled\"") && !jobs.contains("\"running\""), "{jobs}");
}

#[test]
fn a_wait_that_times_out_ends_the_command_with_5_and_leaves_the_job_alone() {
    let home = Home::default();
    let module = text(&home.file("spins.wasm", guests::spins_for_ever()));
    let ended = home.run(["run", &module, "--wait-timeout", "2s"]).expect_code(5);
    assert!(ended.text().is_empty() || ended.text() == "ready\n", "{}", ended.text());
    let jobs = home.run(["job", "list", "--output", "json"]).expect_code(0).text();
    assert!(!jobs.contains("\"cancelled\""), "{jobs}");
}

#[test]
fn what_has_no_command_of_its_own_is_refused_with_where_to_find_it() {
    let home = Home::default();
    for (word, told) in [("events", "hint: read them at GET /v1/events"), ("audit", "GET /v1/audit")] {
        let ended = home.run([word, "--output", "json"]).expect_code(2);
        assert!(ended.stderr.contains(told), "{}", ended.stderr);
        assert!(ended.json()["hint"].as_str().is_some_and(|hint| hint.contains("/v1/")), "{word}");
    }
    let ended = home.run(["event"]).expect_code(2);
    assert!(!ended.stderr.contains("hint: "), "{}", ended.stderr);
}

#[test]
fn a_wall_time_limit_ends_a_guest_that_spins() {
    let home = Home::default();
    let module = text(&home.file("spins.wasm", guests::spins_for_ever()));
    let ended = home.run(["run", &module, "--wall-time", "1s"]).expect_code(3);
    assert!(ended.stderr.contains("wall_time_exceeded"), "{}", ended.stderr);
    assert_eq!(ended.text(), "ready\n");
}

#[test]
fn a_fuel_limit_ends_a_guest_that_spins() {
    let home = Home::default();
    let module = text(&home.file("spins.wasm", guests::spins_for_ever()));
    let ended = home.run(["run", &module, "--fuel", "1000000"]).expect_code(3);
    assert!(ended.stderr.contains("fuel_exhausted"), "{}", ended.stderr);
}

#[test]
fn a_usage_error_ends_the_command_with_2_and_a_missing_file_with_1() {
    let home = Home::default();
    home.run(["run"]).expect_code(2);
    home.run(["run", "x.wasm", "--no-such-flag"]).expect_code(2);
    let ended = home.run(["run", "does-not-exist.wasm"]).expect_code(1);
    assert!(ended.stderr.contains("does-not-exist.wasm"), "{}", ended.stderr);
}

#[test]
fn every_byte_of_stdin_reaches_the_guest_and_comes_back_on_stdout() {
    let home = Home::default();
    let module = text(&home.file("cat.wasm", guests::cat()));
    let mut bytes: Vec<u8> = (0..=255).collect();
    bytes.extend(b"\r\n\x1b[31mred\x1b[0m \xff\xfe no newline at the end");
    let bytes: Vec<u8> = bytes.iter().copied().cycle().take(300_000).collect();
    let input = text(&home.file("input.bin", &bytes));
    let ended = home.run(["run", &module, "--stdin", &input]).expect_code(0);
    assert!(ended.stdout == bytes, "{} bytes came back, not {}", ended.stdout.len(), bytes.len());
}

#[test]
fn a_stream_that_was_cut_is_reported_and_ends_the_command_with_1() {
    let home = Home::default();
    let module = text(&home.file("cat.wasm", guests::cat()));
    let input = text(&home.file("input.txt", "0123456789\n".repeat(20_000)));
    let ended = home.run(["run", &module, "--stdin", &input, "--log-max", "64KiB"]).expect_code(1);
    assert!(ended.stdout.len() <= 64 << 10, "{} bytes", ended.stdout.len());
    assert!(!ended.stdout.is_empty());
    assert!(ended.stderr.contains("cut"), "{}", ended.stderr);
}

#[test]
fn with_output_json_stdout_is_one_document_and_the_guest_speaks_on_stderr() {
    let home = Home::default();
    let module = text(&home.file("cat.wasm", guests::cat()));
    let input = text(&home.file("input.txt", "said by the guest\n"));
    let ended = home.run(["run", &module, "--stdin", &input, "--output", "json"]).expect_code(0);
    let document = ended.json();
    assert!(document.is_object(), "{document}");
    assert!(ended.text().contains("\"succeeded\""), "{document}");
    assert!(ended.stderr.contains("said by the guest"), "{}", ended.stderr);
}

#[test]
fn dev_leaves_an_instance_running_with_the_command_line_logged_in() {
    let home = Home::default();
    let port = gristmill_tests::cluster::free_port();
    let data = text(&home.path().join("dev"));
    let dev = home.start(["dev", "--data", &data, "--listen", &format!("127.0.0.1:{port}")]);
    let give_up = std::time::Instant::now() + LIMIT;
    let listed = loop {
        let listed = home.run(["node", "list", "--output", "json"]);
        if listed.code == 0 && listed.text().contains("\"active\"") {
            break listed;
        }
        assert!(std::time::Instant::now() < give_up, "{}{}", listed.text(), listed.stderr);
        std::thread::sleep(Duration::from_millis(200));
    };
    assert!(listed.text().contains("default"), "{}", listed.text());

    let module = text(&home.file("cat.wasm", guests::cat()));
    home.run(["module", "publish", &module, "--name", "cat", "--version", "1.0.0"]).expect_code(0);
    home.run(["module", "publish", &module, "--name", "cat", "--version", "1.0.0"]).expect_code(0);
    let input = text(&home.file("input.txt", "hello\n"));
    let ended = home.run(["run", "cat@1.0.0", "--stdin", &input]).expect_code(0);
    assert_eq!(ended.text(), "hello\n");

    dev.interrupt();
    let ended = dev.end(LIMIT);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(fs::read_dir(&data).expect("the data stays").next().is_some());
}
