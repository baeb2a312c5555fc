//! Guests: tiny ones written as text, and real programs by others.

use std::path::PathBuf;

/// Declarations that every tiny guest starts with: the imports it may call, one page of memory, and
/// `$open`, which opens a file below the preopened directory `dir`.
const PRELUDE: &str = r#"
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_dir_name" (func $dir_name (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 40)

  ;; The descriptor of the preopened directory whose name is the byte string at $name; or exit 90.
  (func $preopen (param $name i32) (param $length i32) (result i32)
    (local $fd i32) (local $i i32)
    (local.set $fd (i32.const 3))
    (loop $next
      (memory.fill (i32.const 2048) (i32.const 0) (i32.const 64))
      (if (i32.eq (call $dir_name (local.get $fd) (i32.const 2048) (local.get $length)) (i32.const 0))
        (then
          (local.set $i (i32.const 0))
          (block $differs
            (loop $compare
              (if (i32.eq (local.get $i) (local.get $length)) (then (return (local.get $fd))))
              (br_if $differs (i32.ne
                (i32.load8_u (i32.add (local.get $name) (local.get $i)))
                (i32.load8_u (i32.add (i32.const 2048) (local.get $i)))))
              (local.set $i (i32.add (local.get $i) (i32.const 1)))
              (br $compare)))))
      (local.set $fd (i32.add (local.get $fd) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $fd) (i32.const 64))))
    (call $proc_exit (i32.const 90))
    (unreachable))

  ;; Opens a path below a directory; $create makes the file and asks for write access. Exit 91 on failure.
  (func $open (param $dir i32) (param $path i32) (param $length i32) (param $create i32) (result i32)
    (if (i32.ne (i32.const 0) (call $path_open (local.get $dir) (i32.const 0) (local.get $path)
          (local.get $length)
          (select (i32.const 9) (i32.const 0) (local.get $create))
          (select (i64.const 64) (i64.const 2) (local.get $create))
          (i64.const 0) (i32.const 0) (i32.const 2112)))
      (then (call $proc_exit (i32.const 91))))
    (i32.load (i32.const 2112)))

  ;; Writes $length bytes at $from; exit 92 on failure.
  (func $write (param $fd i32) (param $from i32) (param $length i32)
    (loop $more
      (i32.store (i32.const 2120) (local.get $from))
      (i32.store (i32.const 2124) (local.get $length))
      (if (i32.ne (i32.const 0) (call $fd_write (local.get $fd) (i32.const 2120) (i32.const 1) (i32.const 2128)))
        (then (call $proc_exit (i32.const 92))))
      (local.set $from (i32.add (local.get $from) (i32.load (i32.const 2128))))
      (local.set $length (i32.sub (local.get $length) (i32.load (i32.const 2128))))
      (br_if $more (local.get $length))))
"#;

/// Steps of each function of a guest with many.
const STEPS: u32 = 400;

fn assemble(body: &str) -> Vec<u8> {
    wat::parse_str(format!("(module {PRELUDE} {body})")).expect("the guest's text is right")
}

/// Ends at once with success.
pub fn noop() -> Vec<u8> {
    wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "_start")))"#)
        .expect("the guest's text is right")
}

/// Exits with a code of its own.
pub fn exits_with(code: i32) -> Vec<u8> {
    assemble(&format!(r#"(func (export "_start") (call $proc_exit (i32.const {code})))"#))
}

/// Sleeps for so many seconds and exits with 0.
///
/// # Panics
/// Never: the text is fixed.
pub fn sleeps(seconds: u64) -> Vec<u8> {
    // A subscription to the monotonic clock: tag 0 at 8, clock 1 at 16, the relative time at 24.
    let text = format!(
        "(module
            (import \"wasi_snapshot_preview1\" \"poll_oneoff\"
                (func $poll (param i32 i32 i32 i32) (result i32)))
            (memory (export \"memory\") 1)
            (func (export \"_start\")
                (i32.store (i32.const 16) (i32.const 1))
                (i64.store (i32.const 24) (i64.const {}))
                (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))",
        seconds * 1_000_000_000
    );
    wat::parse_str(text).expect("the text is well-formed")
}

/// Says `ready` on stdout, then computes for ever.
pub fn spins_for_ever() -> Vec<u8> {
    assemble(
        r#"(data (i32.const 16) "ready\n")
        (func (export "_start")
          (call $write (i32.const 1) (i32.const 16) (i32.const 6))
          (loop $again (br $again)))"#,
    )
}

/// Says `ready` on stdout, then sleeps for an hour.
pub fn sleeps_once_ready() -> Vec<u8> {
    // A subscription to the monotonic clock: tag 0 at 40, clock 1 at 48, the relative time at 56.
    assemble(&format!(
        r#"(data (i32.const 16) "ready\n")
        (func (export "_start")
          (call $write (i32.const 1) (i32.const 16) (i32.const 6))
          (i32.store (i32.const 48) (i32.const 1))
          (i64.store (i32.const 56) (i64.const {}))
          (drop (call $poll (i32.const 32) (i32.const 96) (i32.const 1) (i32.const 160))))"#,
        3_600_000_000_000_u64
    ))
}

/// Writes so many lines of five bytes to stdout, as fast as they are taken.
pub fn writes_lines(lines: u32) -> Vec<u8> {
    assemble(&format!(
        r#"(data (i32.const 16) "line\n")
        (func (export "_start") (local $i i32)
          (loop $again
            (call $write (i32.const 1) (i32.const 16) (i32.const 5))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $i) (i32.const {lines})))))"#
    ))
}

/// Writes so many blocks of 64 KiB to stdout, each a line of zeros with a line feed at its end.
pub fn writes_blocks(blocks: u32) -> Vec<u8> {
    assemble(&format!(
        r#"(func (export "_start") (local $i i32)
          (memory.fill (i32.const 65536) (i32.const 48) (i32.const 65535))
          (i32.store8 (i32.const 131071) (i32.const 10))
          (loop $again
            (call $write (i32.const 1) (i32.const 65536) (i32.const 65536))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $i) (i32.const {blocks})))))"#
    ))
}

/// Says `ready` on stdout, computes for a while (about `rounds` x 2 ns), writes the text `result`
/// to `/out/result` and succeeds.
pub fn computes(rounds: u64) -> Vec<u8> {
    assemble(&format!(
        r#"(data (i32.const 16) "ready\n") (data (i32.const 32) "/") (data (i32.const 48) "out/result")
        (func (export "_start") (local $i i64)
          (call $write (i32.const 1) (i32.const 16) (i32.const 6))
          (loop $again
            (local.set $i (i64.add (local.get $i) (i64.const 1)))
            (br_if $again (i64.lt_u (local.get $i) (i64.const {rounds}))))
          (call $write
            (call $open (call $preopen (i32.const 32) (i32.const 1)) (i32.const 48) (i32.const 10) (i32.const 1))
            (i32.const 52) (i32.const 6)))"#
    ))
}

/// Says `out.` and `err.` in turn on both streams, so many times, and computes a little in between
/// (about `spins` x 1 ns).
pub fn speaks_on_both(times: u32, spins: u32) -> Vec<u8> {
    assemble(&format!(
        r#"(data (i32.const 16) "out.") (data (i32.const 32) "err.")
        (func (export "_start") (local $i i32) (local $j i32)
          (loop $again
            (call $write (i32.const 1) (i32.const 16) (i32.const 4))
            (call $write (i32.const 2) (i32.const 32) (i32.const 4))
            (local.set $j (i32.const 0))
            (loop $spin
              (local.set $j (i32.add (local.get $j) (i32.const 1)))
              (br_if $spin (i32.lt_u (local.get $j) (i32.const {spins}))))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $i) (i32.const {times})))))"#
    ))
}

/// Copies `/in/big` to `/out/big`, a mebibyte at a time.
pub fn copies() -> Vec<u8> {
    assemble(
        r#"(data (i32.const 16) "/in") (data (i32.const 32) "/") (data (i32.const 48) "out/big")
        (func (export "_start") (local $from i32) (local $to i32) (local $read i32)
          (local.set $from
            (call $open (call $preopen (i32.const 16) (i32.const 3)) (i32.const 52) (i32.const 3) (i32.const 0)))
          (local.set $to
            (call $open (call $preopen (i32.const 32) (i32.const 1)) (i32.const 48) (i32.const 7) (i32.const 1)))
          (loop $again
            (i32.store (i32.const 2120) (i32.const 65536))
            (i32.store (i32.const 2124) (i32.const 1048576))
            (if (i32.ne (i32.const 0)
                  (call $fd_read (local.get $from) (i32.const 2120) (i32.const 1) (i32.const 2128)))
              (then (call $proc_exit (i32.const 93))))
            (local.set $read (i32.load (i32.const 2128)))
            (if (local.get $read) (then
              (call $write (local.get $to) (i32.const 65536) (local.get $read))
              (br $again)))))"#,
    )
}

/// Copies `/in/params.json` to standard output. Exit 91 when it is not there.
pub fn prints_params() -> Vec<u8> {
    assemble(
        r#"(data (i32.const 16) "/in") (data (i32.const 48) "params.json")
        (func (export "_start")
          (i32.store (i32.const 2120) (i32.const 65536))
          (i32.store (i32.const 2124) (i32.const 65536))
          (if (i32.ne (i32.const 0) (call $fd_read
                (call $open (call $preopen (i32.const 16) (i32.const 3)) (i32.const 48) (i32.const 11) (i32.const 0))
                (i32.const 2120) (i32.const 1) (i32.const 2128)))
            (then (call $proc_exit (i32.const 93))))
          (call $write (i32.const 1) (i32.const 65536) (i32.load (i32.const 2128))))"#,
    )
}

/// Copies the file `/note` to standard output and empties it. Exit 91 when it may not.
pub fn takes_a_note() -> Vec<u8> {
    assemble(
        r#"(data (i32.const 32) "/") (data (i32.const 48) "note")
        (func (export "_start") (local $root i32)
          (local.set $root (call $preopen (i32.const 32) (i32.const 1)))
          (i32.store (i32.const 2120) (i32.const 65536))
          (i32.store (i32.const 2124) (i32.const 65536))
          (if (i32.ne (i32.const 0) (call $fd_read
                (call $open (local.get $root) (i32.const 48) (i32.const 4) (i32.const 0))
                (i32.const 2120) (i32.const 1) (i32.const 2128)))
            (then (call $proc_exit (i32.const 93))))
          (call $write (i32.const 1) (i32.const 65536) (i32.load (i32.const 2128)))
          (drop (call $open (local.get $root) (i32.const 48) (i32.const 4) (i32.const 1))))"#,
    )
}

/// Says `hello` if it was called with so many arguments (its name is one) and variables; else exit 94.
pub fn counts_its_words(args: u32, variables: u32) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "args_sizes_get" (func $args (param i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "environ_sizes_get" (func $variables (param i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
          (memory (export "memory") 1)
          (data (i32.const 16) "hello") (data (i32.const 32) "\10\00\00\00\05\00\00\00")
          (func (export "_start")
            (drop (call $args (i32.const 0) (i32.const 8)))
            (drop (call $variables (i32.const 4) (i32.const 8)))
            (if (i32.or
                  (i32.ne (i32.load (i32.const 0)) (i32.const {args}))
                  (i32.ne (i32.load (i32.const 4)) (i32.const {variables})))
              (then (call $proc_exit (i32.const 94))))
            (drop (call $fd_write (i32.const 1) (i32.const 32) (i32.const 1) (i32.const 8)))))"#
    ))
    .expect("the guest's text is right")
}

/// Prints its environment: `NAME=VALUE` with a zero byte after each.
pub fn prints_environment() -> Vec<u8> {
    wat::parse_str(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "environ_get" (func $get (param i32 i32) (result i32)))
          (memory (export "memory") 1)
          (func (export "_start")
            (drop (call $sizes (i32.const 0) (i32.const 4)))
            (drop (call $get (i32.const 1024) (i32.const 8192)))
            (i32.store (i32.const 16) (i32.const 8192))
            (i32.store (i32.const 20) (i32.load (i32.const 4)))
            (drop (call $fd_write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 8)))))"#,
    )
    .expect("the guest's text is right")
}

/// Copies standard input to standard output, byte for byte.
pub fn cat() -> Vec<u8> {
    assemble(
        r#"(func (export "_start") (local $read i32)
          (loop $again
            (i32.store (i32.const 2120) (i32.const 65536))
            (i32.store (i32.const 2124) (i32.const 65536))
            (if (i32.ne (i32.const 0)
                  (call $fd_read (i32.const 0) (i32.const 2120) (i32.const 1) (i32.const 2128)))
              (then (call $proc_exit (i32.const 93))))
            (local.set $read (i32.load (i32.const 2128)))
            (if (local.get $read) (then
              (call $write (i32.const 1) (i32.const 65536) (local.get $read))
              (br $again)))))"#,
    )
}

/// A module that takes a second or more to compile.
pub fn slow_to_compile() -> Vec<u8> {
    with_functions(400)
}

/// Functions of plain arithmetic, `$f0` and so on.
fn arithmetic(count: u32) -> String {
    use std::fmt::Write;
    let mut body = String::new();
    for function in 0..count {
        let _ = write!(body, "(func $f{function} (param $a i64) (result i64) ");
        for step in 0..STEPS {
            let _ = write!(
                body,
                "(local.set $a (i64.xor (i64.mul (local.get $a) (i64.const {})) (i64.const {step})))",
                function * 1000 + step + 3
            );
        }
        body.push_str("(local.get $a))");
    }
    body
}

/// A module with many functions of plain arithmetic: the more, the longer it takes to compile.
pub fn with_functions(count: u32) -> Vec<u8> {
    assemble(&(arithmetic(count) + r#"(func (export "_start") (drop (call $f0 (i64.const 1))))"#))
}

/// The least bytes of machine code of so many functions: a multiplication and an exclusive or take more than
/// eight together.
pub fn machine_code_of(functions: u32) -> u64 {
    u64::from(functions * STEPS * 8)
}

/// All that [`runs_much_code`] does, in a function of this head.
fn calls_all(functions: u32, head: &str) -> String {
    use std::fmt::Write;
    let mut calls = String::new();
    for function in 0..functions {
        let _ = write!(calls, "(local.set $a (call $f{function} (local.get $a)))");
    }
    format!(
        "{} (func {head} (local $a i64) (loop $again {calls} (br $again)) unreachable)",
        arithmetic(functions)
    )
}

/// Calls functions of plain arithmetic, one after the other and for ever.
pub fn runs_much_code(functions: u32) -> Vec<u8> {
    assemble(&calls_all(functions, r#"(export "_start")"#))
}

/// The same as a component.
///
/// # Panics
/// Never: the text is fixed.
pub fn component_that_runs_much_code(functions: u32) -> Vec<u8> {
    let text = format!(
        r#"(component
          (core module $m {})
          (core instance $i (instantiate $m))
          (func $run (result (result)) (canon lift (core func $i "run")))
          (instance $api (export "run" (func $run)))
          (export "wasi:cli/run@0.2.0" (instance $api)))"#,
        calls_all(functions, r#"(export "run") (result i32)"#)
    );
    wat::parse_str(text).expect("the text is well-formed")
}

/// A library without an entry: no command.
pub fn library() -> Vec<u8> {
    wat::parse_str(
        r#"(module (memory (export "memory") 1) (func (export "_initialize")) (func (export "add")))"#,
    )
    .expect("the guest's text is right")
}

/// A module that imports what no node provides.
pub fn imports_exec() -> Vec<u8> {
    wat::parse_str(
        r#"(module (import "env" "exec" (func)) (memory (export "memory") 1) (func (export "_start")))"#,
    )
    .expect("the guest's text is right")
}

/// The fetched guest programs, or `None` after saying so when the run is told to do without them
/// (`GRISTMILL_SKIP_GUESTS=1`, set by `tests/run` where they cannot be fetched).
///
/// # Panics
/// When they are not there and nobody said that this is all right.
pub fn fetched(path: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("GRISTMILL_GUEST_CACHE")
        .map_or_else(|| crate::repository().join(".cache/guests"), PathBuf::from);
    let found = cache.join(path);
    if found.exists() {
        return Some(found);
    }
    crate::skip::without("GUESTS", format_args!("{}, from tests/guests/fetch", found.display()));
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guest_is_a_module() {
        let all = [
            noop(),
            exits_with(3),
            spins_for_ever(),
            writes_lines(2),
            writes_blocks(2),
            computes(2),
            copies(),
            prints_params(),
            cat(),
            prints_environment(),
            slow_to_compile(),
            library(),
            imports_exec(),
        ];
        assert!(all.iter().all(|wasm| wasm.starts_with(b"\0asm\x01\0\0\0")));
    }
}
