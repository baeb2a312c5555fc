//! How files look.

use std::fs;

use gristmill_tests::repository;

use super::{expect_none, shown, sources};

const FILE_LINES_MAX: usize = 500;
const ARCHITECTURE_LINES_MAX: usize = 200;

#[test]
fn every_file_says_in_its_first_line_what_it_is_for() {
    let broken: Vec<_> = sources(".", ".rs")
        .iter()
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(path, _)| shown(path))
        .collect();
    expect_none("the first line of a file is a `//!` sentence", &broken);
}

#[test]
fn no_file_is_longer_than_five_hundred_lines() {
    let broken: Vec<_> = sources(".", ".rs")
        .iter()
        .filter(|(_, text)| text.lines().count() > FILE_LINES_MAX)
        .map(|(path, text)| format!("{}: {} lines", shown(path), text.lines().count()))
        .collect();
    expect_none("a file has at most 500 lines", &broken);
}

#[test]
fn no_file_is_named_after_nothing() {
    let nothing = ["manager", "helper", "helpers", "util", "utils", "common", "imp", "misc"];
    let broken: Vec<_> = sources(".", ".rs")
        .iter()
        .filter(|(path, _)| path.file_stem().is_some_and(|stem| nothing.iter().any(|name| stem == *name)))
        .map(|(path, _)| shown(path))
        .collect();
    expect_none("a file is named after what it holds", &broken);
}

#[test]
fn nothing_is_left_for_later_in_the_code() {
    // Put together here, so that this file does not find itself.
    let markers = ["TO", "FIX", "XX", "HA"].iter().zip(["DO", "ME", "X", "CK"]);
    let markers: Vec<String> = markers.map(|(start, end)| format!("{start}{end}")).collect();
    let mut broken = Vec::new();
    for (path, text) in sources(".", ".rs").into_iter().chain(sources(".", ".sql")) {
        for (number, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            if markers.iter().any(|marker| words.contains(&marker.as_str())) {
                broken.push(format!("{}:{}: {}", shown(&path), number + 1, line.trim()));
            }
        }
    }
    expect_none("an unfinished thing is an issue, not a comment", &broken);
}

#[test]
fn every_column_of_the_database_says_what_it_holds() {
    let kinds = [" TEXT", " BIGINT", " INTEGER", " BLOB", " REAL"];
    let mut broken = Vec::new();
    for (path, text) in sources("control-plane/server/migrations", ".sql") {
        // A column may go on over several lines; its comment stands on any of them.
        let mut column: Option<String> = None;
        let mut in_table = false;
        for line in text.lines() {
            let starts_a_column = line.starts_with("    ")
                && line[4..].starts_with(|c: char| c.is_ascii_lowercase())
                && kinds.iter().any(|kind| line.contains(kind));
            if starts_a_column || line.starts_with(')') {
                broken.extend(column.take().filter(|text| in_table && !text.contains("--")));
            }
            in_table = (in_table || line.starts_with("CREATE TABLE")) && !line.starts_with(')');
            match &mut column {
                Some(text) => text.push_str(line),
                None if starts_a_column => column = Some(format!("{}: {}", shown(&path), line.trim())),
                None => {}
            }
        }
    }
    expect_none("a column has a comment", &broken);
}

#[test]
fn the_documents_are_there_and_the_architecture_is_short() {
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"] {
        assert!(repository().join(name).is_file(), "{name} is missing");
    }
    let architecture = fs::read_to_string(repository().join("ARCHITECTURE.md")).expect("it is there");
    let lines = architecture.lines().count();
    assert!(lines <= ARCHITECTURE_LINES_MAX, "ARCHITECTURE.md has {lines} lines");
}

#[test]
fn every_path_that_a_document_names_exists() {
    let mut broken = Vec::new();
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        let text = fs::read_to_string(repository().join(name)).expect("it is there");
        for quoted in text.split('`').skip(1).step_by(2) {
            let tops = ["sdk/", "runtime/", "control-plane/", "examples/", "tests/", ".ci/"];
            let is_path = tops.iter().any(|top| quoted.starts_with(top))
                && !quoted.contains(|c: char| c.is_whitespace() || "*{…<".contains(c));
            if is_path && !repository().join(quoted.trim_end_matches('/')).exists() {
                broken.push(format!("{name}: {quoted}"));
            }
        }
    }
    expect_none("a path in a document exists", &broken);
}
