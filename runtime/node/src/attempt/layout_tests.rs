//! What a guest would see for each kind and place of input.

use std::{fs, os::unix::fs::MetadataExt};

use super::*;
use crate::attempt::scratch_dirs::make_skeleton;

struct Bench {
    temp: tempfile::TempDir,
    attempt: PathBuf,
}

impl Bench {
    fn start() -> Self {
        let temp = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(temp.path().join("cache/tree/sub")).expect("a tree");
        fs::write(temp.path().join("cache/tree/sub/file"), "tree").expect("a file");
        fs::write(temp.path().join("cache/blob"), "blob").expect("a blob");
        let attempt = temp.path().join("attempt");
        make_skeleton(&attempt).expect("a skeleton");
        Self { temp, attempt }
    }

    fn input(&self, guest_path: &str, kind: InputKind, mode: InputMode) -> StagedInput {
        let name = if kind == InputKind::Tree { "cache/tree" } else { "cache/blob" };
        StagedInput { guest_path: guest_path.into(), source: self.temp.path().join(name), kind, mode }
    }

    fn lay_out(&self, inputs: &[StagedInput]) -> Result<Vec<Mount>, LayoutError> {
        lay_out(&self.attempt, inputs, &AtomicBool::new(false))
    }
}

/// Where a guest path lies on the host, and whether the guest may write there.
fn see(mounts: &[Mount], guest: &str) -> (PathBuf, bool) {
    let guest = Path::new(guest);
    let deepest = mounts
        .iter()
        .filter(|mount| guest.starts_with(&mount.guest_path))
        .max_by_key(|mount| mount.guest_path.len())
        .expect("the root contains everything");
    let below = guest.strip_prefix(&deepest.guest_path).expect("checked by the filter");
    (deepest.host_dir.join(below), deepest.writable)
}

fn assert_sees(mounts: &[Mount], guest: &str, content: &str, writable: bool) {
    let (host, may_write) = see(mounts, guest);
    assert_eq!(fs::read_to_string(&host).ok().as_deref(), Some(content), "{guest} at {}", host.display());
    assert_eq!(may_write, writable, "{guest}");
}

use InputKind::{File, Tree};
use InputMode::{Ro, Rw};

#[test]
fn a_guest_without_inputs_has_a_writable_root_and_an_empty_in() {
    let bench = Bench::start();
    let mounts = bench.lay_out(&[]).expect("laid out");
    assert_eq!(mounts[0].guest_path, "/");
    assert!(see(&mounts, "/tmp").0.is_dir() && see(&mounts, "/out").1);
    let (host, writable) = see(&mounts, "/in");
    assert!(host.is_dir() && !writable);
}

#[test]
fn read_only_inputs_are_shared_with_the_cache() {
    let bench = Bench::start();
    let inputs =
        [bench.input("/in/a", File, Ro), bench.input("/in/t", Tree, Ro), bench.input("/share", Tree, Ro)];
    let mounts = bench.lay_out(&inputs).expect("laid out");
    assert_sees(&mounts, "/in/a", "blob", false);
    assert_sees(&mounts, "/in/t/sub/file", "tree", false);
    assert_sees(&mounts, "/share/sub/file", "tree", false);
    assert_eq!(see(&mounts, "/share").0, inputs[2].source);
    let inode = |path: &Path| fs::metadata(path).expect("metadata").ino();
    assert_eq!(inode(&see(&mounts, "/in/a").0), inode(&inputs[0].source));
    assert!(bench.attempt.join("ro/in/t").is_dir(), "a listing of /in shows the tree");
    assert!(bench.attempt.join("rw/root/share").is_dir(), "a listing of / shows the tree");
}

#[test]
fn writable_inputs_are_private_copies() {
    let bench = Bench::start();
    let inputs = [
        bench.input("/work", Tree, Rw),
        bench.input("/data/w", Tree, Rw),
        bench.input("/data/f", File, Rw),
        bench.input("/top", File, Rw),
        bench.input("/tmp/seed", File, Rw),
        bench.input("/work/f", File, Rw),
        bench.input("/in/other", File, Ro),
    ];
    let mounts = bench.lay_out(&inputs).expect("laid out");
    assert_sees(&mounts, "/in/other", "blob", false);
    for path in ["/work/sub/file", "/data/w/sub/file"] {
        assert_sees(&mounts, path, "tree", true);
        fs::write(see(&mounts, path).0, "changed").expect("writable");
    }
    for path in ["/data/f", "/top", "/tmp/seed", "/work/f"] {
        assert_sees(&mounts, path, "blob", true);
        fs::write(see(&mounts, path).0, "changed").expect("writable");
    }
    let original = |name: &str| fs::read_to_string(bench.temp.path().join(name)).expect("read");
    assert_eq!((original("cache/tree/sub/file"), original("cache/blob")), ("tree".into(), "blob".into()));
}

#[test]
fn read_only_files_at_absolute_paths_lie_in_read_only_directories() {
    let bench = Bench::start();
    let inputs = [
        bench.input("/etc/app/a.conf", File, Ro),
        bench.input("/etc/app/b.conf", File, Ro),
        bench.input("/tmp/seed/a", File, Ro),
    ];
    let mounts = bench.lay_out(&inputs).expect("laid out");
    assert_sees(&mounts, "/etc/app/a.conf", "blob", false);
    assert_sees(&mounts, "/etc/app/b.conf", "blob", false);
    assert_sees(&mounts, "/tmp/seed/a", "blob", false);
    assert!(see(&mounts, "/tmp").1 && see(&mounts, "/etc").1, "the directories around them are not");
    assert_eq!(mounts.iter().filter(|mount| mount.guest_path == "/etc/app").count(), 1);
}

fn refusal(bench: &Bench, inputs: &[StagedInput]) -> String {
    match bench.lay_out(inputs) {
        Err(LayoutError::Path(text)) => text,
        other => panic!("{inputs:?} gave {other:?}"),
    }
}

#[test]
fn inputs_that_could_not_keep_their_mode_are_refused() {
    for (path, kind, mode, says) in [
        ("/top", File, Ro, "writable"),
        ("/tmp/seed", File, Ro, "writable"),
        ("/in/f", File, Rw, "outside /in"),
        ("/in/t", Tree, Rw, "outside /in"),
        ("/in/d/f", File, Rw, "outside /in"),
        ("/out/f", File, Ro, "below /out"),
    ] {
        let bench = Bench::start();
        let text = refusal(&bench, &[bench.input(path, kind, mode)]);
        assert!(text.contains(path) && text.contains(says), "{text}");
    }
    for (first, second, named) in [
        (("/a/x", File, Ro), ("/a/y", File, Rw), "/a/y"),
        (("/a/x", File, Ro), ("/a/b/y", File, Rw), "/a/b/y"),
        (("/share", Tree, Ro), ("/share/y", File, Rw), "/share/y"),
        (("/work", Tree, Rw), ("/work/x", File, Ro), "/work/x"),
    ] {
        let bench = Bench::start();
        let inputs = [first, second].map(|(path, kind, mode)| bench.input(path, kind, mode));
        let text = refusal(&bench, &inputs);
        assert!(text.contains(named) && text.contains("directory of its own"), "{text}");
    }
}

#[test]
fn inputs_that_claim_the_same_path_are_named() {
    for (first, second) in [
        (("/in/a", File), ("/in/a/b", File)),
        (("/in/a", File), ("/in/a/b", Tree)),
        (("/data/a", File), ("/data/a/b/c", File)),
        (("/share", Tree), ("/share/sub/file/x", File)),
        (("/share", Tree), ("/share/sub/file", Tree)),
        (("/share", Tree), ("/share/sub", File)),
    ] {
        let bench = Bench::start();
        let inputs = [first, second].map(|(path, kind)| bench.input(path, kind, Ro));
        let text = refusal(&bench, &inputs);
        assert_eq!(text, format!("the inputs {} and {} claim the same path", first.0, second.0));
    }
}

#[test]
fn inputs_may_lie_inside_a_tree_without_changing_the_cache() {
    let bench = Bench::start();
    let inputs = [
        bench.input("/share", Tree, Ro),
        bench.input("/share/sub/file", File, Ro),
        bench.input("/share/more", Tree, Ro),
    ];
    let mounts = bench.lay_out(&inputs).expect("laid out");
    assert_sees(&mounts, "/share/sub/file", "blob", false);
    assert_sees(&mounts, "/share/more/sub/file", "tree", false);
    assert_eq!(fs::read_to_string(bench.temp.path().join("cache/tree/sub/file")).expect("read"), "tree");
}

#[test]
fn paths_that_hide_or_leave_the_guests_own_directories_are_refused() {
    for bad in [
        "/",
        "/in",
        "/out",
        "/tmp",
        "in/a",
        "/in/../x",
        "/a//b",
        "/a/./b",
        "/a/",
        "/a\0b",
        "",
        &format!("/a/{}", "x".repeat(256)),
    ] {
        let bench = Bench::start();
        let result = bench.lay_out(&[bench.input(bad, File, Ro)]);
        assert!(matches!(result, Err(LayoutError::Path(_))), "{bad:?}");
    }
    let bench = Bench::start();
    let twice = [bench.input("/in/a", File, Ro), bench.input("/in/a", Tree, Ro)];
    assert!(matches!(bench.lay_out(&twice), Err(LayoutError::Path(_))));
}
