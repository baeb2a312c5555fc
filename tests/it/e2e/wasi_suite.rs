//! `tests/wasi-suite`, with a tiny suite of our own in the format of the WASI test suite.

use std::{fs, path::Path, process::Output};

use gristmill_tests::{
    guests,
    process::{gristmill, isolated},
    repository,
};
use serde_json::{Value, json};

/// A suite in a directory of its own.
struct Suite(tempfile::TempDir);

impl Suite {
    fn of_version(version: &str) -> Self {
        let suite = Self(tempfile::tempdir().expect("a directory"));
        let manifest = json!({ "name": "tiny", "version": version });
        fs::write(suite.dir().join("manifest.json"), manifest.to_string()).expect("written");
        suite
    }

    fn dir(&self) -> &Path {
        self.0.path()
    }

    fn add(&self, name: &str, wasm: Vec<u8>, spec: &Value) {
        fs::write(self.dir().join(format!("{name}.wasm")), wasm).expect("written");
        fs::write(self.dir().join(format!("{name}.json")), spec.to_string()).expect("written");
    }

    fn run(&self) -> (i32, String) {
        let home = tempfile::tempdir().expect("a directory");
        let script = repository().join("tests/wasi-suite");
        let Output { status, stdout, stderr } = isolated(&script, home.path())
            .arg(self.dir())
            .arg("--binary")
            .arg(gristmill())
            .output()
            .expect("the runner starts");
        let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
        (status.code().unwrap_or(-1), said)
    }
}

#[test]
fn the_suite_runner_passes_tests_that_do_what_is_expected_and_names_those_that_do_not() {
    let suite = Suite::of_version("wasm32-wasip1");
    suite.add("exits", guests::exits_with(33), &json!({ "exit_code": 33 }));
    let called = json!({ "args": ["one", "the \"second\""], "env": {"A": "new\nline"}, "stdout": "hello" });
    suite.add("is-called", guests::counts_its_words(3, 1), &called);
    let root = suite.dir().join("root");
    fs::create_dir(&root).expect("made");
    fs::write(root.join("note"), "a note").expect("written");
    let operations = json!({ "operations": [
        { "type": "run", "root": "root" },
        { "type": "read", "id": "stdout", "payload": "a note" },
        { "type": "wait" },
    ]});
    suite.add("takes-a-note", guests::takes_a_note(), &operations);
    let (code, said) = suite.run();
    assert!(code == 0 && said.contains("3 of 3 passed, 0 failed"), "exit code {code}:\n{said}");
    assert_eq!(fs::read_to_string(root.join("note")).expect("read"), "a note", "a job works on a copy");

    suite.add("wrong-code", guests::exits_with(8), &json!({ "exit_code": 7 }));
    suite.add("wrong-words", guests::counts_its_words(1, 0), &json!({ "stdout": "goodbye" }));
    let (code, said) = suite.run();
    assert_eq!(code, 1, "{said}");
    for line in [
        "FAIL wrong-code.wasm",
        "exit code 8, expected 7",
        "FAIL wrong-words.wasm",
        "stdout b'hello', expected b'goodbye'",
        "ok   exits.wasm",
        "3 of 5 passed, 2 failed",
    ] {
        assert!(said.contains(line), "{line:?} is missing in:\n{said}");
    }
}

#[test]
fn a_suite_without_programs_for_preview_1_is_no_success() {
    let suite = Suite::of_version("wasm32-wasip3");
    suite.add("exits", guests::exits_with(0), &json!({}));
    let (code, said) = suite.run();
    assert!(code == 2 && said.contains("prod/testsuite-base"), "exit code {code}:\n{said}");
}
