//! The reproducible mode.

use std::fs;

use gristmill_protocol::module::ModuleWorld;

use crate::guest::{Guest, program};

/// Prints both clocks, random bytes, the metadata of two files and the root's listing.
const LOOK_AROUND: &str = "
    (call $check (call $clock (i32.const 0) (i64.const 1) (i32.const 4096)))
    (call $check (call $clock (i32.const 1) (i64.const 1) (i32.const 4104)))
    (call $check (call $random (i32.const 4112) (i32.const 64)))
    (call $check (call $open (i32.const 3) (i32.const 1000) (i32.const 1) (i32.const 1) (i64.const 66)))
    (call $check (call $fd_stat (i32.load (i32.const 16)) (i32.const 4176)))
    (call $check (call $fd_stat (i32.const 3) (i32.const 4240)))
    (call $check (call $readdir (i32.const 3) (i32.const 4304) (i32.const 1000) (i64.const 0) (i32.const 8)))
    (call $check (call $write (i32.const 1) (i32.const 1208)))";

fn look_around(reproducible: bool) -> (Vec<u8>, Option<u64>) {
    let mut guest = Guest::new(&program(LOOK_AROUND));
    guest.request.reproducible = reproducible;
    for name in ["z", "y", "x"] {
        fs::write(guest.root.join(name), name).expect("a file");
    }
    let ended = guest.run();
    ended.assert_success();
    assert_eq!(ended.stdout.len(), 1_208);
    (ended.stdout, ended.outcome.usage.fuel)
}

#[test]
fn the_guest_sees_the_same_in_every_run() {
    let first = look_around(true);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(first == look_around(true));
    let wall = u64::from_le_bytes(first.0[..8].try_into().expect("8 bytes"));
    assert_eq!(wall / 1_000_000_000, 946_684_800);
    assert!(first.0 != look_around(false).0, "otherwise it sees the world");
}

#[test]
fn nans_are_canonical() {
    // The sign and payload of 0/0 differ between machines.
    let text = program(
        "(f32.store (i32.const 4096) (f32.div (f32.load (i32.const 4096)) (f32.load (i32.const 4096))))
         (i32.store (i32.const 4100) (i32.reinterpret_f32 (f32.add (f32.reinterpret_i32 (i32.const 0x7fa12345)) (f32.const 1))))
         (call $check (call $write (i32.const 1) (i32.const 8)))",
    );
    let mut guest = Guest::new(&text);
    guest.request.reproducible = true;
    assert_eq!(guest.run().stdout, [0, 0, 0xc0, 0x7f, 0, 0, 0xc0, 0x7f]);
}

#[test]
fn a_sleep_passes_virtual_time() {
    let sleep = "(i32.store (i32.const 2016) (i32.const 1)) (i64.store (i32.const 2024) (i64.const 10000000))
        (call $check (call $clock (i32.const 1) (i64.const 1) (i32.const 4096)))
        (call $check (call $poll (i32.const 2000) (i32.const 3000) (i32.const 1) (i32.const 8)))
        (call $check (call $clock (i32.const 1) (i64.const 1) (i32.const 4104)))
        (i64.store (i32.const 4096) (i64.sub (i64.load (i32.const 4104)) (i64.load (i32.const 4096))))
        (call $check (call $write (i32.const 1) (i32.const 8)))";
    let mut guest = Guest::new(&program(sleep));
    guest.request.reproducible = true;
    let ended = guest.run();
    ended.assert_success();
    assert_eq!(u64::from_le_bytes(ended.stdout[..8].try_into().expect("8 bytes")), 10_001_000);
}

#[test]
fn of_several_timers_the_first_one_fires_and_nobody_waits_for_it() {
    // Two hours, one hour, and an hour at which standard output is asked for too.
    let text = program(
        "(i32.store (i32.const 2016) (i32.const 1)) (i64.store (i32.const 2024) (i64.const 7200000000000))
         (i64.store (i32.const 2048) (i64.const 77))
         (i32.store (i32.const 2064) (i32.const 1)) (i64.store (i32.const 2072) (i64.const 3600000000000))
         (i32.store8 (i32.const 2104) (i32.const 2)) (i32.store (i32.const 2112) (i32.const 1))
         (call $check (call $poll (i32.const 2000) (i32.const 3000) (i32.const 2) (i32.const 4096)))
         (i64.store (i32.const 4104) (i64.load (i32.const 3000)))
         (call $check (call $clock (i32.const 1) (i64.const 1) (i32.const 4112)))
         (call $check (call $poll (i32.const 2048) (i32.const 3000) (i32.const 2) (i32.const 4120)))
         (call $check (call $clock (i32.const 1) (i64.const 1) (i32.const 4128)))
         (call $check (call $write (i32.const 1) (i32.const 40)))",
    );
    let mut guest = Guest::new(&text);
    guest.request.reproducible = true;
    let start = std::time::Instant::now();
    let ended = guest.run();
    ended.assert_success();
    assert!(start.elapsed() < std::time::Duration::from_secs(15));
    let word = |at: usize| u64::from_le_bytes(ended.stdout[at..at + 8].try_into().expect("8 bytes"));
    let hour_ns = 3_600_000_000_000;
    assert_eq!((word(0), word(8), word(16)), (1, 77, hour_ns + 1_000), "one event, of the second timer");
    assert_eq!((word(24), word(32)), (1, hour_ns + 2_000), "then the stream is ready and no time passes");
}

#[test]
fn numbers_of_files_and_links_do_not_depend_on_the_node() {
    // Makes and removes a file, so that the host may use its number again; looks at both and an input.
    let open = "(call $check (call $open (i32.const 3) (i32.const 1000) (i32.const 1) (i32.const 1) (i64.const 66)))";
    let text = program(&format!(
        "{open} (call $check (call $fd_stat (i32.load (i32.const 16)) (i32.const 4096)))
         (call $check (call $fd_close (i32.load (i32.const 16))))
         (call $check (call $unlink (i32.const 3) (i32.const 1000) (i32.const 1)))
         {open} (call $check (call $fd_stat (i32.load (i32.const 16)) (i32.const 4160)))
         (call $check (call $path_stat (i32.const 4) (i32.const 0) (i32.const 1000) (i32.const 1) (i32.const 4224)))
         (call $check (call $write (i32.const 1) (i32.const 192)))"
    ));
    let run = |links: usize| {
        let mut guest = Guest::new(&text).read_only("/in", &[("a", "input")]);
        guest.request.reproducible = true;
        for link in 0..links {
            let input = guest.dir.path().join("ro1/a");
            fs::hard_link(input, guest.dir.path().join(format!("cached{link}"))).expect("a link");
        }
        let ended = guest.run();
        ended.assert_success();
        (ended.stdout, ended.outcome.usage.fuel)
    };
    let first = run(0);
    assert_eq!([first.0[8], first.0[72], first.0[136]], [1, 2, 3], "inode numbers count up");
    assert!(first == run(3), "other names in the node's cache are not seen");
}

#[test]
fn of_several_timers_of_a_component_the_first_one_fires() {
    let component = wat::parse_str(include_str!("timers.wat")).expect("well-formed text");
    for reproducible in [false, true] {
        let mut guest = Guest::of(component.clone(), ModuleWorld::WasiP2);
        guest.request.reproducible = reproducible;
        guest.run().assert_success();
    }
}
