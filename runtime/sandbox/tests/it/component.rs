//! Components: the same limits through WASI 0.2.

use std::{
    fs,
    os::unix::fs::symlink,
    time::{Duration, Instant},
};

use gristmill_channel::StopReason;
use gristmill_protocol::{Reason, module::ModuleWorld};
use wit_component::ComponentEncoder;

use crate::guest::{CREAT, Guest, RW, TRUNC, program};

/// Makes a component of a preview 1 program.
fn component(body: &str) -> Guest {
    let module = wat::parse_str(program(body)).expect("well-formed text");
    let adapter = wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER;
    let component = ComponentEncoder::default()
        .module(&module)
        .and_then(|encoder| encoder.adapter("wasi_snapshot_preview1", adapter))
        .and_then(ComponentEncoder::encode)
        .expect("becomes a component");
    Guest::of(component, ModuleWorld::WasiP2)
}

const OPEN: &str =
    "(call $check (call $open (i32.const 3) (i32.const 1000) (i32.const 1) (i32.const 1) (i64.const 66)))";
const WRITE: &str = "(call $check (call $write (i32.load (i32.const 16)) (i32.const 60000)))";

#[test]
fn a_component_runs_and_its_streams_arrive() {
    let ended = component(
        "(call $check (call $write (i32.const 1) (i32.const 100000)))
         (call $check (call $write (i32.const 2) (i32.const 7)))",
    )
    .run();
    ended.assert_success();
    assert_eq!((ended.stdout.len(), ended.stderr.len()), (100_000, 7));
    assert!(ended.outcome.usage.fuel.is_some_and(|fuel| fuel > 0));
}

#[test]
fn a_component_that_fails_exits_with_one() {
    let ended = component("(call $exit (i32.const 42))").run();
    ended.assert_reason(Reason::ExitCode);
    assert_eq!(ended.outcome.exit_code, Some(1));
    component("(call $exit (i32.const 0))").run().assert_success();
    component("unreachable").run().assert_trap(gristmill_protocol::TrapKind::Unreachable);
}

#[test]
fn a_components_log_is_cut_at_the_limit() {
    let ended = component("(call $check (call $write (i32.const 1) (i32.const 100000)))")
        .limits(|l| l.log_bytes = Some(1_000))
        .run();
    ended.assert_success();
    assert_eq!((ended.stdout.len(), ended.truncated), (1_000, 1));
}

#[test]
fn a_components_disk_is_limited_and_comes_back() {
    let kib = |l: &mut gristmill_protocol::LimitsSpec| l.disk_bytes = Some(64 << 10);
    let ended = component(&[OPEN, WRITE].concat()).limits(kib).run();
    ended.assert_success();
    assert_eq!(ended.outcome.usage.disk_peak_bytes, Some(60_000));
    component(&[OPEN, WRITE, WRITE].concat()).limits(kib).run().assert_reason(Reason::DiskExceeded);
    let grow = "(drop (call $set_size (i32.load (i32.const 16)) (i64.const 65537)))";
    component(&[OPEN, grow].concat()).limits(kib).run().assert_reason(Reason::DiskExceeded);
    let close = "(call $check (call $fd_close (i32.load (i32.const 16))))";
    let unlink = "(call $check (call $unlink (i32.const 3) (i32.const 1000) (i32.const 1)))";
    let again = [OPEN, WRITE, close, unlink, OPEN, WRITE, close].concat();
    let cut = format!(
        "(call $check (call $open (i32.const 3) (i32.const 1000) (i32.const 1) (i32.const {}) (i64.const {RW})))",
        CREAT | TRUNC
    );
    let mut guest = component(&[again, cut, WRITE.to_owned()].concat()).limits(|l| {
        l.disk_bytes = Some(64 << 10);
        l.disk_files = Some(1);
    });
    guest.run().assert_success();
    let mkdir = "(call $check (call $mkdir (i32.const 3) (i32.const 1010) (i32.const 1)))";
    component(&[OPEN, mkdir].concat())
        .limits(|l| l.disk_files = Some(1))
        .run()
        .assert_reason(Reason::DiskExceeded);
}

#[test]
fn a_components_handles_are_limited() {
    component(&format!("(loop {OPEN} (br 0))"))
        .limits(|l| l.handles = Some(16))
        .run()
        .assert_reason(Reason::HandlesExceeded);
}

#[test]
fn a_component_cannot_leave_its_mounts_or_write_to_its_inputs() {
    let mut guest = component(
        "(if (i32.eqz (call $open (i32.const 3) (i32.const 1060) (i32.const 8) (i32.const 0) (i64.const 2))) (then unreachable))
         (if (i32.eqz (call $open (i32.const 3) (i32.const 1020) (i32.const 4) (i32.const 0) (i64.const 2))) (then unreachable))
         (if (i32.eqz (call $open (i32.const 4) (i32.const 1000) (i32.const 1) (i32.const 0) (i64.const 66))) (then unreachable))
         (if (i32.eqz (call $unlink (i32.const 4) (i32.const 1000) (i32.const 1))) (then unreachable))
         (call $check (call $open (i32.const 4) (i32.const 1000) (i32.const 1) (i32.const 0) (i64.const 2)))",
    )
    .read_only("/in", &[("a", "input")]);
    symlink("/etc", guest.root.join("l")).expect("a link");
    fs::write(guest.dir.path().join("x"), "secret").expect("a file");
    guest.run().assert_success();
}

#[test]
fn a_component_that_loops_or_sleeps_is_stopped() {
    let sleep =
        "(i32.store (i32.const 2016) (i32.const 1)) (i64.store (i32.const 2024) (i64.const 3600000000000))
        (drop (call $poll (i32.const 2000) (i32.const 3000) (i32.const 1) (i32.const 8)))";
    for body in ["(loop (br 0))", sleep] {
        let ended = component(body).limits(|l| l.wall_time_ms = Some(100)).run();
        ended.assert_reason(Reason::WallTimeExceeded);
        let (sender, stopped) = std::sync::mpsc::channel();
        let ended = component(body).run_with(move |control| {
            std::thread::sleep(Duration::from_millis(50));
            sender.send(Instant::now()).expect("the test waits");
            control.stop(StopReason::Cancelled);
        });
        ended.assert_reason(Reason::CancelledByUser);
        assert!(stopped.recv().expect("was stopped").elapsed() < Duration::from_millis(500));
    }
}

#[test]
fn a_component_sees_the_same_in_every_reproducible_run() {
    let look = "
        (call $check (call $clock (i32.const 0) (i64.const 1) (i32.const 4096)))
        (call $check (call $random (i32.const 4112) (i32.const 64)))
        (call $check (call $open (i32.const 3) (i32.const 1000) (i32.const 1) (i32.const 1) (i64.const 66)))
        (call $check (call $fd_stat (i32.load (i32.const 16)) (i32.const 4176)))
        (call $check (call $readdir (i32.const 3) (i32.const 4304) (i32.const 1000) (i64.const 0) (i32.const 8)))
        (call $check (call $write (i32.const 1) (i32.const 1208)))";
    let run = || {
        let mut guest = component(look);
        guest.request.reproducible = true;
        for name in ["z", "y", "x"] {
            fs::write(guest.root.join(name), name).expect("a file");
        }
        let ended = guest.run();
        ended.assert_success();
        (ended.stdout, ended.outcome.usage.fuel)
    };
    let first = run();
    std::thread::sleep(Duration::from_millis(20));
    assert!(first == run());
}

#[test]
fn a_component_that_sleeps_an_hour_in_the_reproducible_mode_passes_virtual_time() {
    let text = "(call $check (call $clock (i32.const 1) (i64.const 1) (i32.const 4096)))
        (i32.store (i32.const 2016) (i32.const 1)) (i64.store (i32.const 2024) (i64.const 3600000000000))
        (call $check (call $poll (i32.const 2000) (i32.const 3000) (i32.const 1) (i32.const 8)))
        (call $check (call $clock (i32.const 1) (i64.const 1) (i32.const 4104)))
        (i64.store (i32.const 4096) (i64.sub (i64.load (i32.const 4104)) (i64.load (i32.const 4096))))
        (call $check (call $write (i32.const 1) (i32.const 8)))";
    let mut guest = component(text);
    guest.request.reproducible = true;
    let ended = guest.run();
    ended.assert_success();
    let passed = u64::from_le_bytes(ended.stdout[..8].try_into().expect("8 bytes"));
    assert_eq!(passed / 1_000_000, 3_600_000);
}

#[test]
fn what_a_component_reads_and_writes_is_counted() {
    let mut guest = component(&format!(
        "{OPEN} {WRITE}
         (call $check (call $seek (i32.load (i32.const 16)) (i64.const 0) (i32.const 0) (i32.const 24)))
         (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const 1000))
         (call $check (call $fd_read (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8)))
         (call $check (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
         (call $check (call $write (i32.const 1) (i32.const 500)))"
    ));
    let path = guest.dir.path().join("stdin");
    fs::write(&path, [7; 300]).expect("a file");
    guest.request.stdin = Some(path);
    let ended = guest.run();
    ended.assert_success();
    assert_eq!(ended.outcome.usage.read_bytes, Some(1_300));
    assert_eq!(ended.outcome.usage.written_bytes, Some(60_500));
}
