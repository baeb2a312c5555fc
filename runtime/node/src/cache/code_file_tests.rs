//! Code that is the node's own, and code that is not.

use std::{os::unix::fs::PermissionsExt, path::PathBuf};

use super::*;

const NAME: &str = "code";

struct Bench {
    temp: tempfile::TempDir,
    cache: Arc<Cache>,
    key: CodeKey,
}

impl Bench {
    fn new() -> Self {
        let temp = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(&temp.path().join("cache"), 1 << 20).expect("a cache");
        let key = CodeKey::load_or_make(&temp.path().join("code.key")).expect("a key");
        Self { temp, cache, key }
    }

    fn keep(&self, bytes: &[u8]) -> OpenCode {
        let made = self.cache.temp_path();
        fs::write(&made, bytes).expect("a file");
        self.cache.keep_code(&self.key, NAME, &made).expect("kept")
    }

    /// As after a start of the node.
    fn restart(self) -> Self {
        let cache = Cache::open(&self.temp.path().join("cache"), 1 << 20).expect("opened again");
        let key = CodeKey::load_or_make(&self.temp.path().join("code.key")).expect("the key again");
        Self { cache, key, ..self }
    }

    fn path(&self) -> PathBuf {
        self.temp.path().join("cache/code").join(NAME)
    }

    fn mark(&self) -> PathBuf {
        marks::mark(&self.cache.root, &(Kind::Code, NAME.to_owned()))
    }

    fn unchecked(&self) -> OpenCode {
        match self.cache.open_code(NAME) {
            Some(FoundCode::Unchecked(code)) => code,
            other => panic!("expected unchecked code, found {other:?}"),
        }
    }

    fn is_known(&self) -> bool {
        matches!(self.cache.open_code(NAME), Some(FoundCode::Known(_)))
    }

    /// Asserts that the code is refused once and is gone then.
    fn assert_refused(&self) {
        assert!(self.cache.check_code(&self.key, self.unchecked()).is_none());
        assert!(self.cache.open_code(NAME).is_none(), "it is to be compiled again");
        assert!(!self.path().exists() && !self.mark().exists());
    }
}

fn overwrite(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("changed");
    fs::write(path, bytes).expect("written");
}

fn text(code: &OpenCode) -> Vec<u8> {
    let mut bytes = Vec::new();
    (&*code.file).read_to_end(&mut bytes).expect("read");
    bytes
}

#[test]
fn code_is_checked_once_after_a_start_and_then_known() {
    let bench = Bench::new();
    assert_eq!(text(&bench.keep(b"machine code")), b"machine code");
    assert!(bench.is_known(), "it was just put there");
    let bench = bench.restart();
    let code = bench.cache.check_code(&bench.key, bench.unchecked()).expect("the node's own");
    assert_eq!(text(&code), b"machine code", "checking leaves the descriptor at its start");
    assert!(bench.is_known());
    let mode = fs::metadata(bench.path()).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o400);
}

#[test]
fn code_that_was_changed_in_place_is_refused_also_with_its_old_times() {
    let bench = Bench::new();
    drop(bench.keep(b"machine code"));
    let modified = fs::metadata(bench.path()).and_then(|meta| meta.modified()).expect("a time");
    overwrite(&bench.path(), b"evilish code");
    let file = File::options().write(true).open(bench.path()).expect("opened");
    file.set_modified(modified).expect("set back");
    bench.assert_refused();
}

#[test]
fn code_that_was_replaced_is_refused_at_once_and_after_a_restart() {
    for is_restarted in [false, true] {
        let mut bench = Bench::new();
        drop(bench.keep(b"machine code"));
        let other = bench.temp.path().join("other");
        fs::write(&other, b"evilish code").expect("a file");
        fs::rename(&other, bench.path()).expect("replaced");
        if is_restarted {
            bench = bench.restart();
        }
        bench.assert_refused();
    }
}

#[test]
fn a_proof_of_other_code_or_another_nodes_proof_does_not_count() {
    let bench = Bench::new();
    drop(bench.keep(b"machine code"));
    let made = bench.cache.temp_path();
    fs::write(&made, b"machine code").expect("a file");
    drop(bench.cache.keep_code(&bench.key, "other", &made).expect("kept"));
    let others = marks::mark(&bench.cache.root, &(Kind::Code, "other".to_owned()));
    fs::copy(others, bench.mark()).expect("copied");
    let bench = bench.restart();
    bench.assert_refused();

    drop(bench.keep(b"machine code"));
    fs::remove_file(bench.temp.path().join("code.key")).expect("removed");
    bench.restart().assert_refused();
}

#[test]
fn code_without_a_proof_is_removed_at_the_start_and_a_link_is_not_followed() {
    let bench = Bench::new();
    drop(bench.keep(b"machine code"));
    fs::remove_file(bench.mark()).expect("removed");
    let bench = bench.restart();
    assert!(bench.cache.open_code(NAME).is_none() && !bench.path().exists());

    drop(bench.keep(b"machine code"));
    let other = bench.temp.path().join("other");
    fs::rename(bench.path(), &other).expect("moved");
    std::os::unix::fs::symlink(&other, bench.path()).expect("linked");
    assert!(bench.cache.open_code(NAME).is_none());
    assert!(other.exists());
}

#[test]
fn a_key_that_others_could_read_or_that_is_cut_is_replaced() {
    let temp = tempfile::tempdir().expect("a directory");
    let path = temp.path().join("code.key");
    let mut seen = Vec::new();
    for damage in [None, Some(0o644), None] {
        CodeKey::load_or_make(&path).expect("a key");
        let metadata = fs::metadata(&path).expect("there");
        assert_eq!((metadata.mode() & 0o777, metadata.len()), (0o600, 32));
        seen.push(fs::read(&path).expect("read"));
        if let Some(mode) = damage {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("changed");
        }
    }
    assert_eq!(seen[0], seen[1]);
    assert_ne!(seen[1], seen[2], "it was no secret any more");
    fs::write(&path, "short").expect("written");
    CodeKey::load_or_make(&path).expect("a key");
    assert_eq!(fs::metadata(&path).expect("there").len(), 32);
}
