//! Rules that no compiler checks: who may name what, how large a file is, that documents are true.

mod boundaries;
mod shape;

use std::{
    fs,
    path::{Path, PathBuf},
};

use gristmill_tests::repository;

/// Folders that hold no source of this project.
const SKIPPED: [&str; 5] = ["target", ".git", ".cache", "node_modules", ".work"];

/// All files below a folder of the repository whose name ends with `suffix`, with their text.
pub(crate) fn sources(below: &str, suffix: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    collect(&repository().join(below), suffix, &mut found);
    found.sort();
    assert!(!found.is_empty(), "there is no {suffix} below {below}");
    found
}

fn collect(dir: &Path, suffix: &str, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() && !SKIPPED.contains(&name.as_str()) {
            collect(&path, suffix, found);
        } else if path.is_file() && name.ends_with(suffix) {
            let text = fs::read_to_string(&path).unwrap_or_default();
            found.push((path, text));
        }
    }
}

/// A path as it is written in messages: from the top of the repository.
pub(crate) fn shown(path: &Path) -> String {
    path.strip_prefix(repository()).unwrap_or(path).display().to_string()
}

/// Code only: without line comments, and without the items that are for unit tests alone. Relies on the
/// format of `cargo fmt`: an item ends with the first line that is indented like its beginning and has the
/// end of one.
pub(crate) fn code(text: &str) -> String {
    let mut kept = Vec::new();
    let mut lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    while let Some(line) = lines.next() {
        if line.trim_start() != "#[cfg(test)]" {
            kept.push(line);
            continue;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let closes = |line: &str| {
            line.strip_prefix(indent)
                .is_some_and(|rest| !rest.starts_with([' ', '#']) && rest.ends_with([';', ',', '}']))
        };
        let _ = lines.find(|line| closes(line));
    }
    kept.join("\n")
}

#[test]
fn only_what_is_for_tests_is_left_out_of_the_code() {
    let text = "\
use a::b;
#[cfg(test)]
use c::d;
#[cfg(test)]
#[path = \"x_tests.rs\"]
mod tests;
// a comment
struct S {
    #[cfg(test)]
    hidden: u8,
    shown: u8,
}
#[cfg(test)]
mod more {
    fn f() {
        inside();
    }
}
#[cfg(test)]
fn g(
    long: u8,
) -> u8 {
    inside();
}
fn last() {}
";
    let shown = ["use a::b;", "struct S {", "    shown: u8,", "}", "fn last() {}"];
    assert_eq!(code(text), shown.join("\n"));
}

#[track_caller]
pub(crate) fn expect_none(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}
