//! Guests that try to leave their directories or to change what is not theirs.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::guest::{CREAT, Guest, RW, TRUNC, program_with};

/// WASI's `nametoolong` and `nomem`.
const NAMETOOLONG: i32 = 37;
const NOMEM: i32 = 48;

/// A path as data at 8192, and its length.
fn path_data(path: &[u8]) -> (String, usize) {
    let mut escaped = String::new();
    for byte in path {
        let _ = write!(escaped, "\\{byte:02x}");
    }
    (format!("(data (i32.const 8192) \"{escaped}\")"), path.len())
}

/// Exits with the answer of a call on the path at 8192.
fn tries(path: &[u8], call: impl Fn(usize) -> String) -> String {
    let (data, len) = path_data(path);
    program_with(20, &data, &format!("(call $exit {})", call(len)))
}

/// A call on a path of so many bytes at 8192, as text.
type Call = fn(usize) -> String;

/// Everything that takes a path below descriptor 3, with a way to ask for harm.
fn calls() -> Vec<(&'static str, Call)> {
    vec![
        ("open", |len| {
            format!(
                "(call $open (i32.const 3) (i32.const 8192) (i32.const {len}) (i32.const 0) (i64.const 2))"
            )
        }),
        ("open for writing", |len| {
            format!(
                "(call $open (i32.const 3) (i32.const 8192) (i32.const {len}) (i32.const 0) (i64.const {RW}))"
            )
        }),
        ("create", |len| {
            format!(
                "(call $open (i32.const 3) (i32.const 8192) (i32.const {len}) (i32.const {}) (i64.const {RW}))",
                CREAT | TRUNC
            )
        }),
        ("open a directory", |len| {
            format!(
                "(call $open (i32.const 3) (i32.const 8192) (i32.const {len}) (i32.const 2) (i64.const 0))"
            )
        }),
        ("stat", |len| {
            format!(
                "(call $path_stat (i32.const 3) (i32.const 1) (i32.const 8192) (i32.const {len}) (i32.const 2000))"
            )
        }),
        ("mkdir", |len| format!("(call $mkdir (i32.const 3) (i32.const 8192) (i32.const {len}))")),
        ("rmdir", |len| format!("(call $rmdir (i32.const 3) (i32.const 8192) (i32.const {len}))")),
        ("unlink", |len| format!("(call $unlink (i32.const 3) (i32.const 8192) (i32.const {len}))")),
        ("link from", |len| {
            format!(
                "(call $link (i32.const 3) (i32.const 1) (i32.const 8192) (i32.const {len}) (i32.const 3) (i32.const 1010) (i32.const 1))"
            )
        }),
        ("link to", |len| {
            format!(
                "(call $link (i32.const 3) (i32.const 0) (i32.const 1000) (i32.const 1) (i32.const 3) (i32.const 8192) (i32.const {len}))"
            )
        }),
        ("rename from", |len| {
            format!(
                "(call $rename (i32.const 3) (i32.const 8192) (i32.const {len}) (i32.const 3) (i32.const 1010) (i32.const 1))"
            )
        }),
        ("rename to", |len| {
            format!(
                "(call $rename (i32.const 3) (i32.const 1000) (i32.const 1) (i32.const 3) (i32.const 8192) (i32.const {len}))"
            )
        }),
        ("symlink at", |len| {
            format!(
                "(call $symlink (i32.const 1000) (i32.const 1) (i32.const 3) (i32.const 8192) (i32.const {len}))"
            )
        }),
    ]
}

/// Insists that nothing outside of the guest's root changed.
fn assert_untouched(dir: &Path, what: &str) {
    assert_eq!(fs::read(dir.join("x")).expect("the secret"), b"secret", "{what}");
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("the directory")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    assert_eq!(names, ["compiled", "d", "root", "x"], "{what}");
    assert_eq!(fs::read_dir(dir.join("d")).expect("the directory").count(), 0, "{what}");
}

#[test]
fn h46_a_path_as_long_as_the_memory_is_refused_before_it_is_copied() {
    // Never touched pages of the guest; a copy of them would be the host's memory.
    let len = 100 << 20;
    for (name, call) in calls() {
        let mut guest = Guest::new(&program_with(1_700, "", &format!("(call $exit {})", call(len))));
        let ended = guest.run();
        let code = ended.outcome.exit_code.unwrap_or_else(|| panic!("{name}: {:?}", ended.outcome));
        assert!([NAMETOOLONG, NOMEM].contains(&code), "{name}: {code}");
        let peak = ended.outcome.usage.memory_peak_bytes.expect("known");
        assert!(ended.outcome.usage.cpu_us.is_some_and(|us| us < 50_000), "{name}: {:?}", ended.outcome);
        assert!(peak < (1_700 << 16) + (8 << 20), "{name}: {peak}");
    }
}

#[test]
fn h46_no_path_leads_out() {
    let long = [b"a/".repeat(3_000), b"x".to_vec()].concat();
    let long_name = b"n".repeat(5_000);
    let paths: [&[u8]; 22] = [
        b"../x",
        b"../d",
        b"../../etc/passwd",
        b"/etc/passwd",
        b"/proc/self/fd",
        b"/",
        b"..",
        b"../",
        b"sub/../../x",
        b"sub/../../d/",
        b"./.././x",
        b"up/x",
        b"up/d/new",
        b"up/",
        b"up/../x",
        b"etc/passwd",
        b"secret/",
        b"secret",
        b"a\0b",
        b"\xff\xfe",
        &long,
        &long_name,
    ];
    for path in paths {
        for (name, call) in calls() {
            let what = format!("{name} {:?}", String::from_utf8_lossy(&path[..path.len().min(40)]));
            let mut guest = Guest::new(&tries(path, call));
            fs::write(guest.dir.path().join("x"), "secret").expect("a file");
            fs::create_dir(guest.dir.path().join("d")).expect("a directory");
            fs::create_dir(guest.root.join("sub")).expect("a directory");
            fs::write(guest.root.join("a"), "own").expect("a file");
            symlink("..", guest.root.join("up")).expect("a link");
            symlink("/etc", guest.root.join("etc")).expect("a link");
            symlink("../x", guest.root.join("secret")).expect("a link");
            let outcome = guest.run().outcome;
            // Links are the guest's own and may be removed, moved, or replaced; nothing behind them may.
            let names_a_link =
                matches!(path, b"secret") && ["unlink", "rename from", "rename to"].contains(&name);
            assert!(names_a_link || outcome.exit_code.is_some_and(|code| code != 0), "{what}: {outcome:?}");
            assert!(outcome.trap_kind.is_none(), "{what}: {outcome:?}");
            assert_untouched(guest.dir.path(), &what);
        }
    }
}

#[test]
fn h47_links_renames_and_races_do_not_lead_out_or_change_an_input() {
    let refused = [
        "(call $link (i32.const 4) (i32.const 0) (i32.const 1000) (i32.const 1) (i32.const 3) (i32.const 1010) (i32.const 1))",
        "(call $link (i32.const 3) (i32.const 0) (i32.const 1000) (i32.const 1) (i32.const 4) (i32.const 1010) (i32.const 1))",
        "(call $rename (i32.const 3) (i32.const 1000) (i32.const 1) (i32.const 4) (i32.const 1000) (i32.const 1))",
        "(call $rename (i32.const 4) (i32.const 1000) (i32.const 1) (i32.const 3) (i32.const 1010) (i32.const 1))",
        "(call $symlink (i32.const 8192) (i32.const 4) (i32.const 4) (i32.const 1010) (i32.const 1))",
    ];
    for call in refused {
        let text = program_with(20, "(data (i32.const 8192) \"../x\")", &format!("(call $exit {call})"));
        let mut guest = Guest::new(&text).read_only("/in", &[("a", "input")]);
        fs::write(guest.root.join("a"), "own").expect("a file");
        let outcome = guest.run().outcome;
        assert!(outcome.exit_code.is_some_and(|code| code != 0), "{call}: {outcome:?}");
        assert_eq!(fs::read(guest.dir.path().join("ro1/a")).expect("the input"), b"input", "{call}");
        assert_eq!(fs::read_dir(guest.dir.path().join("ro1")).expect("the directory").count(), 1, "{call}");
    }
    // A link that the guest makes itself may point anywhere and leads nowhere.
    let text = program_with(
        20,
        "(data (i32.const 8192) \"../x\")",
        "(drop (call $symlink (i32.const 8192) (i32.const 4) (i32.const 3) (i32.const 1090) (i32.const 1)))
         (call $exit (call $open (i32.const 3) (i32.const 1090) (i32.const 1) (i32.const 0) (i64.const 2)))",
    );
    let mut guest = Guest::new(&text);
    fs::write(guest.dir.path().join("x"), "secret").expect("a file");
    assert!(guest.run().outcome.exit_code.is_some_and(|code| code != 0));
}

#[test]
fn h47_a_directory_that_turns_into_a_link_while_it_is_used_leads_nowhere() {
    // Opens `s/f` and prints it, for ever; meanwhile `s` is swapped with a link that leads out.
    let text = program_with(
        20,
        "(data (i32.const 8192) \"s/f\")",
        "(loop
           (if (i32.eqz (call $open (i32.const 3) (i32.const 8192) (i32.const 3) (i32.const 0) (i64.const 2))) (then
             (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const 100))
             (call $check (call $fd_read (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8)))
             (call $check (call $write (i32.const 1) (i32.load (i32.const 8))))
             (call $check (call $fd_close (i32.load (i32.const 16))))))
           (br 0))",
    );
    let mut guest = Guest::new(&text).limits(|l| l.wall_time_ms = Some(400));
    let (outside, root) = (guest.dir.path().join("outside"), guest.root.clone());
    fs::create_dir(&outside).expect("a directory");
    fs::write(outside.join("f"), "S").expect("a file");
    fs::create_dir(root.join("dir")).expect("a directory");
    fs::write(root.join("dir/f"), "o").expect("a file");
    symlink("../outside", root.join("link")).expect("a link");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let swaps = scope.spawn(|| {
            let mut swaps = 0;
            while !done.load(Ordering::Relaxed) {
                for name in ["dir", "link"] {
                    fs::rename(root.join(name), root.join("s")).expect("swapped in");
                    std::thread::yield_now();
                    fs::rename(root.join("s"), root.join(name)).expect("swapped out");
                    swaps += 1;
                }
            }
            swaps
        });
        // On a busy machine one run may never meet the directory: then it is run again.
        let mut printed = Vec::new();
        for _ in 0..50 {
            printed.extend(guest.run().stdout);
            if !printed.is_empty() {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(swaps.join().expect("swaps") > 100);
        assert!(!printed.contains(&b'S'), "the link was followed");
        assert!(printed.contains(&b'o'), "the race was run");
    });
}

#[test]
fn h48_a_read_only_file_cannot_be_cut() {
    let cuts = [
        format!("(call $open (i32.const 4) (i32.const 1000) (i32.const 1) (i32.const {TRUNC}) (i64.const 2))"),
        format!("(call $open (i32.const 4) (i32.const 1000) (i32.const 1) (i32.const {TRUNC}) (i64.const {RW}))"),
        format!("(call $open (i32.const 4) (i32.const 1000) (i32.const 1) (i32.const {}) (i64.const 0))", CREAT | TRUNC),
        "(i32.or (call $open (i32.const 4) (i32.const 1000) (i32.const 1) (i32.const 0) (i64.const 2)) (call $set_size (i32.load (i32.const 16)) (i64.const 0)))".to_owned(),
        "(i32.or (call $open (i32.const 4) (i32.const 1000) (i32.const 1) (i32.const 0) (i64.const 2)) (call $write (i32.load (i32.const 16)) (i32.const 1)))".to_owned(),
    ];
    for cut in cuts {
        let text = program_with(20, "", &format!("(call $exit {cut})"));
        let mut guest = Guest::new(&text).read_only("/in", &[("a", "input")]);
        let outcome = guest.run().outcome;
        assert!(outcome.exit_code.is_some_and(|code| code != 0), "{cut}: {outcome:?}");
        assert_eq!(fs::read(guest.dir.path().join("ro1/a")).expect("the input"), b"input", "{cut}");
    }
}
