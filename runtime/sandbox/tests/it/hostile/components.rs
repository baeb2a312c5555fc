//! Components that call their host with nonsense, or have it call them back.

use std::time::Duration;

use gristmill_protocol::{Reason, module::ModuleWorld};

use super::cancel_after;
use crate::guest::Guest;

/// What these components import: timers, arguments, and a few functions of the file system.
const IMPORTS: &str = r#"
  (import "wasi:io/poll@0.2.0" (instance $poll (export "pollable" (type (sub resource)))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clocks
    (alias outer 1 $pollable (type $p)) (export "pollable" (type $p2 (eq $p)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $p2))))))
  (import "wasi:cli/environment@0.2.0" (instance $env
    (export "get-arguments" (func (result (list string))))))
  (import "wasi:filesystem/types@0.2.0" (instance $fs
    (export "descriptor" (type $d (sub resource)))
    (type $ec (enum "access" "would-block" "already" "bad-descriptor" "busy" "deadlock" "quota" "exist"
      "file-too-large" "illegal-byte-sequence" "in-progress" "interrupted" "invalid" "io" "is-directory"
      "loop" "too-many-links" "message-size" "name-too-long" "no-device" "no-entry" "no-lock"
      "insufficient-memory" "insufficient-space" "not-directory" "not-empty" "not-recoverable"
      "unsupported" "no-tty" "no-such-device" "overflow" "not-permitted" "pipe" "read-only"
      "invalid-seek" "text-file-busy" "cross-device"))
    (export "error-code" (type $error (eq $ec)))
    (type $ad (enum "normal" "sequential" "random" "will-need" "dont-need" "no-reuse"))
    (export "advice" (type $advice (eq $ad)))
    (export "[method]descriptor.advise" (func (param "self" (borrow $d)) (param "offset" u64)
      (param "length" u64) (param "advice" $advice) (result (result (error $error)))))
    (export "[method]descriptor.create-directory-at" (func (param "self" (borrow $d))
      (param "path" string) (result (result (error $error)))))
    (type $at (record (field "seconds" u64) (field "nanoseconds" u32))) (export "datetime" (type $datetime (eq $at)))
    (type $nt (variant (case "no-change") (case "now") (case "timestamp" $datetime)))
    (export "new-timestamp" (type $time (eq $nt)))
    (export "[method]descriptor.set-times" (func (param "self" (borrow $d))
      (param "data-access-timestamp" $time) (param "data-modification-timestamp" $time)
      (result (result (error $error)))))
    (type $pf (flags "symlink-follow")) (export "path-flags" (type $path-flags (eq $pf)))
    (type $of (flags "create" "directory" "exclusive" "truncate")) (export "open-flags" (type $open-flags (eq $of)))
    (type $df (flags "read" "write" "file-integrity-sync" "data-integrity-sync" "requested-write-sync"
      "mutate-directory"))
    (export "descriptor-flags" (type $flags (eq $df)))
    (export "[method]descriptor.open-at" (func (param "self" (borrow $d)) (param "path-flags" $path-flags)
      (param "path" string) (param "open-flags" $open-flags) (param "flags" $flags)
      (result (result (own $d) (error $error)))))
    (export "[method]descriptor.write" (func (param "self" (borrow $d)) (param "buffer" (list u8))
      (param "offset" u64) (result (result u64 (error $error)))))))
  (alias export $fs "descriptor" (type $descriptor))
  (import "wasi:filesystem/preopens@0.2.0" (instance $preopens
    (alias outer 1 $descriptor (type $d)) (export "descriptor" (type $d2 (eq $d)))
    (export "get-directories" (func (result (list (tuple (own $d2) string)))))))"#;

/// A component around a core module that may use the file system, timers and arguments. `$main` gets
/// them under `host`; `body` is its `run`, which returns 0. The memory's first free byte is 4096; the
/// handle of the first directory is in the global `$dir`. `encoding` is that of strings, and
/// `reallocated` what `realloc` does before it answers.
fn component(encoding: &str, pages: u32, reallocated: &str, body: &str) -> Guest {
    let text = format!(
        r#"(component
  {IMPORTS}

  (core module $libc
    (memory (export "memory") {pages})
    (table (export "table") 1 funcref)
    (type $call (func (param i32)))
    (global $next (mut i32) (i32.const 4096))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      {reallocated}
      (global.set $next (i32.add (global.get $next) (i32.and (i32.add (local.get 3) (i32.const 15)) (i32.const -16))))
      (i32.sub (global.get $next) (i32.and (i32.add (local.get 3) (i32.const 15)) (i32.const -16)))))
  (core instance $libc (instantiate $libc))
  (alias core export $libc "memory" (core memory $mem))
  (alias core export $libc "realloc" (core func $realloc))
  (core func $sleep (canon lower (func $clocks "subscribe-duration")))
  (core func $args (canon lower (func $env "get-arguments") (memory $mem) (realloc $realloc)))
  (core func $dirs (canon lower (func $preopens "get-directories") (memory $mem) (realloc $realloc)))
  (core func $advise (canon lower (func $fs "[method]descriptor.advise") (memory $mem)))
  (core func $mkdir (canon lower (func $fs "[method]descriptor.create-directory-at") (memory $mem) string-encoding={encoding}))
  (core func $times (canon lower (func $fs "[method]descriptor.set-times") (memory $mem)))
  (core func $open (canon lower (func $fs "[method]descriptor.open-at") (memory $mem) string-encoding={encoding}))
  (core func $write (canon lower (func $fs "[method]descriptor.write") (memory $mem)))

  (core module $main
    (import "libc" "memory" (memory 0))
    (import "libc" "table" (table 1 funcref))
    (import "host" "sleep" (func $sleep (param i64) (result i32)))
    (import "host" "args" (func $args (param i32)))
    (import "host" "dirs" (func $dirs (param i32)))
    (import "host" "advise" (func $advise (param i32 i64 i64 i32 i32)))
    (import "host" "mkdir" (func $mkdir (param i32 i32 i32 i32)))
    (import "host" "write" (func $write (param i32 i32 i32 i64 i32)))
    (import "host" "times" (func $times (param i32 i32 i64 i32 i32 i64 i32 i32)))
    (import "host" "open" (func $open (param i32 i32 i32 i32 i32 i32 i32)))
    (elem (i32.const 0) func $args)
    (global $dir (mut i32) (i32.const 0))
    (func (export "run") (result i32)
      {body}
      (i32.const 0)))
  (core instance $main (instantiate $main
    (with "libc" (instance $libc))
    (with "host" (instance (export "sleep" (func $sleep)) (export "args" (func $args))
      (export "dirs" (func $dirs)) (export "advise" (func $advise)) (export "mkdir" (func $mkdir))
      (export "write" (func $write)) (export "times" (func $times)) (export "open" (func $open))))))
  (func $run (result (result)) (canon lift (core func $main "run")))
  (instance $api (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $api)))"#
    );
    Guest::of(wat::parse_str(text).expect("well-formed text"), ModuleWorld::WasiP2)
}

/// Gets the first directory.
const DIR: &str = "(call $dirs (i32.const 64)) (global.set $dir (i32.load (i32.load (i32.const 64))))";

/// A `realloc` that begins again before it runs out of memory.
const REUSES_ROOM: &str =
    "(if (i32.gt_u (global.get $next) (i32.const 32768)) (then (global.set $next (i32.const 16384))))";

#[test]
fn a_well_behaved_component_of_this_kind_succeeds() {
    let body = format!(
        "{DIR} (i32.store8 (i32.const 256) (i32.const 110))
         (call $mkdir (global.get $dir) (i32.const 256) (i32.const 1) (i32.const 128))
         (call $advise (global.get $dir) (i64.const 0) (i64.const 0) (i32.const 1) (i32.const 128))
         (call $times (global.get $dir) (i32.const 2) (i64.const 9) (i32.const 0) (i32.const 1) (i64.const 0) (i32.const 0)
           (i32.const 128))
         (call $open (global.get $dir) (i32.const 0) (i32.const 256) (i32.const 1) (i32.const 2) (i32.const 1) (i32.const 128))
         (if (i32.load8_u (i32.const 128)) (then unreachable))
         (call $args (i32.const 96))"
    );
    let mut guest = component("utf8", 1, "", &body);
    guest.run().assert_success();
    assert!(guest.root.join("n").is_dir());
}

#[test]
fn h29_a_host_call_that_calls_the_guest_that_calls_the_host_is_a_trap() {
    // The host asks the guest for room for its arguments, and the guest asks for its arguments.
    let again = "(call_indirect (type $call) (i32.const 128) (i32.const 0))";
    component("utf8", 1, again, "(call $args (i32.const 96))").run().assert_reason(Reason::Trap);
    // Or goes on for ever there: the same limits hold.
    let ended = component("utf8", 1, "(loop (br 0))", "(call $args (i32.const 96))")
        .limits(|l| l.wall_time_ms = Some(100))
        .run();
    assert_eq!(ended.stuck.first().unwrap_or(&ended.outcome).reason, Some(Reason::WallTimeExceeded));
}

#[test]
fn h77_resources_that_are_never_dropped_are_handles_exceeded() {
    let ended = component("utf8", 1, "", "(loop (drop (call $sleep (i64.const 1))) (br 0))").run();
    ended.assert_reason(Reason::HandlesExceeded);
    let ended = component("utf8", 1, REUSES_ROOM, &format!("(loop {DIR} (br 0))")).run();
    ended.assert_reason(Reason::HandlesExceeded);
}

#[test]
fn h78_strings_that_are_none_are_traps() {
    // Odd places, lone surrogates, lengths at and beyond the end of memory, the tag of UTF-16 in Latin-1.
    let places = [
        (257, 3),
        (65_535, 1),
        (65_536, 0),
        (65_537, 0),
        (65_530, 4),
        (0, 0x7fff_ffff),
        (256, -1),
        (256, 0x8000_0002_u32.cast_signed()),
    ];
    for encoding in ["utf8", "utf16", "latin1+utf16"] {
        for content in [0xd800_dc00_u32, 0xdc00_d800, 0xffff_ffff, 0x0041_0041, 0x8080_8080] {
            for (at, len) in places {
                let body = format!(
                    "{DIR}
                     (memory.fill (i32.const 256) (i32.const {}) (i32.const 64))
                     (i32.store (i32.const 256) (i32.const {content}))
                     (call $mkdir (global.get $dir) (i32.const {at}) (i32.const {len}) (i32.const 128))",
                    content & 0xff
                );
                let outcome = component(encoding, 1, "", &body).run().outcome;
                assert!(
                    matches!(outcome.reason, None | Some(Reason::Trap)),
                    "{encoding} {content:x} {at}+{len}: {outcome:?}"
                );
            }
        }
    }
}

#[test]
fn h79_cases_that_an_enum_or_a_variant_lacks_and_handles_that_are_none_are_traps() {
    // Nothing that is imported takes a character.
    let times = |first: i32, second: i32| {
        format!(
            "(call $times (global.get $dir) (i32.const {first}) (i64.const 1) (i32.const 1)
               (i32.const {second}) (i64.const 1) (i32.const 1) (i32.const 128))"
        )
    };
    for (first, second) in [(3, 0), (0, 3), (-1, 1), (1, i32::MIN), (256, 2)] {
        component("utf8", 1, "", &format!("{DIR} {}", times(first, second)))
            .run()
            .assert_reason(Reason::Trap);
    }
    for call in [
        "(call $advise (global.get $dir) (i64.const 0) (i64.const 0) (i32.const 6) (i32.const 128))",
        "(call $advise (global.get $dir) (i64.const 0) (i64.const 0) (i32.const -1) (i32.const 128))",
        "(call $advise (i32.const 77) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 128))",
        "(call $advise (i32.const -1) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 128))",
        "(call $advise (call $sleep (i64.const 1)) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 128))",
        "(call $advise (global.get $dir) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 65535))",
    ] {
        component("utf8", 1, "", &format!("{DIR} {call}")).run().assert_reason(Reason::Trap);
    }
}

#[test]
fn h79_flags_that_do_not_exist_and_times_beyond_all_clocks_bring_nothing_down() {
    let open = |path_flags: i32, open_flags: i32, flags: i32| {
        format!(
            "(call $open (global.get $dir) (i32.const {path_flags}) (i32.const 256) (i32.const 1)
               (i32.const {open_flags}) (i32.const {flags}) (i32.const 128))"
        )
    };
    let late = "(call $times (global.get $dir) (i32.const 2) (i64.const -1) (i32.const -1)
        (i32.const 2) (i64.const 0x7fffffffffffffff) (i32.const 0x7fffffff) (i32.const 128))";
    let calls = [open(-1, -1, -1), open(2, 16, 64), open(1, i32::MIN, 1), open(0, 1, -2), late.to_owned()];
    for call in calls {
        let body = format!("{DIR} (i32.store8 (i32.const 256) (i32.const 110)) {call}");
        let mut guest = component("utf8", 1, "", &body);
        let outcome = guest.run().outcome;
        assert!(matches!(outcome.reason, None | Some(Reason::Trap)), "{call}: {outcome:?}");
        let outside = std::fs::read_dir(guest.dir.path()).expect("the directory").count();
        assert_eq!(outside, 2, "nothing beside the root and the code: {call}");
    }
}

#[test]
fn h80_a_list_of_a_quarter_of_a_gigabyte_to_the_host_is_a_trap() {
    let write = |len: u32| {
        format!(
            "{DIR} (call $write (global.get $dir) (i32.const 0) (i32.const {len}) (i64.const 0) (i32.const 128))"
        )
    };
    let ended = component("utf8", 4_200, "", &write(1 << 28)).run();
    ended.assert_reason(Reason::Trap);
    // What is small enough reaches the call, which a directory answers with an error.
    component("utf8", 4_200, "", &write(1 << 21)).run().assert_success();
}

#[test]
fn h81_a_component_that_is_cut_off_anywhere_does_no_harm() {
    let body = format!(
        "(local $i i32) {DIR}
         (loop
           (call $mkdir (global.get $dir) (i32.const 256) (i32.const 1) (i32.const 128))
           (call $args (i32.const 96))
           (local.set $i (i32.const 0))
           (loop (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 10000))))
           (br 0))"
    );
    let mut guest = component("utf8", 1, REUSES_ROOM, &body);
    for micros in (0..20).map(|step| step * 731) {
        let (ended, elapsed) = cancel_after(&mut guest, Duration::from_micros(micros));
        let outcome = ended.stuck.first().unwrap_or(&ended.outcome);
        assert_eq!(outcome.reason, Some(Reason::CancelledByUser), "{outcome:?}");
        assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
    }
}
