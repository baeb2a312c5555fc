//! Guests that mean harm.

use std::fmt::Write as _;

/// Declarations of the imports, and `$say`, which writes `$length` bytes at `$from` to a descriptor.
const PRELUDE: &str = r#"
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 2)
  (func $say (param $fd i32) (param $from i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $from)) (i32.store (i32.const 4) (local.get $length))
    (if (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable)))"#;

fn assemble(items: &str, body: &str) -> Vec<u8> {
    wat::parse_str(format!("(module {PRELUDE} {items} (func (export \"_start\") {body}))"))
        .expect("the guest's text is right")
}

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| ["\\".to_owned(), hex::encode([*byte])]).collect()
}

/// Writes these bytes to stdout and stderr, and exits.
pub(crate) fn says(bytes: &[u8], code: i32) -> Vec<u8> {
    let data = format!("(data (i32.const 1024) \"{}\")", escaped(bytes));
    let say = |fd: u32| format!("(call $say (i32.const {fd}) (i32.const 1024) (i32.const {}))", bytes.len());
    assemble(&data, &format!("{} {} (call $exit (i32.const {code}))", say(1), say(2)))
}

/// Writes to both streams without end.
pub(crate) fn floods() -> Vec<u8> {
    assemble(
        "",
        "(loop
           (call $say (i32.const 1) (i32.const 1024) (i32.const 65536))
           (call $say (i32.const 2) (i32.const 1024) (i32.const 1))
           (br 0))",
    )
}

/// Makes outputs of these names, each with its name as content.
pub(crate) fn makes_outputs(names: &[&str]) -> Vec<u8> {
    let (mut data, mut body, mut at) = (String::new(), String::new(), 1024);
    for name in names {
        let path = format!("out/{name}");
        let _ = write!(data, "(data (i32.const {at}) \"{}\")", escaped(path.as_bytes()));
        let length = path.len();
        let _ = write!(
            body,
            "(if (call $path_open (i32.const 3) (i32.const 0) (i32.const {at}) (i32.const {length}) (i32.const 1)
                   (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 512)) (then (call $exit (i32.const 91))))
             (call $say (i32.load (i32.const 512)) (i32.const {}) (i32.const {}))",
            at + 4,
            length - 4
        );
        at += length;
    }
    assemble(&data, &body)
}

/// Fails in a function of this name.
pub(crate) fn traps_in(name: &str) -> Vec<u8> {
    let mut bytes = wat::parse_str("(module (func (export \"_start\") unreachable))").expect("text");
    // A name section: sub-section 1, one function, number 0.
    let mut names = vec![1, 0, name.len() as u8];
    names.extend_from_slice(name.as_bytes());
    let mut section = vec![4, b'n', b'a', b'm', b'e', 1, names.len() as u8];
    section.extend(names);
    bytes.extend([0, section.len() as u8]);
    bytes.extend(section);
    bytes
}

/// Grows a mebibyte at a time, touches all of it, and fails when there is no more.
pub(crate) fn touches_everything() -> Vec<u8> {
    wat::parse_str(
        "(module (memory i64 0) (func (export \"_start\") (local $at i64)
           (loop $more
             (if (i64.ne (memory.grow (i64.const 16)) (i64.const -1)) (then
               (memory.fill (local.get $at) (i32.const 7) (i64.const 1048576))
               (local.set $at (i64.add (local.get $at) (i64.const 1048576)))
               (br $more))))
           unreachable))",
    )
    .expect("the guest's text is right")
}

/// Looks at the clock without end, as a guest that times its neighbours would.
pub(crate) fn looks_at_the_clock() -> Vec<u8> {
    wat::parse_str(
        "(module (import \"wasi_snapshot_preview1\" \"clock_time_get\"
             (func $time (param i32 i64 i32) (result i32)))
           (memory (export \"memory\") 1)
           (func (export \"_start\")
             (loop $again
               (if (call $time (i32.const 1) (i64.const 1) (i32.const 0)) (then unreachable))
               (br $again))))",
    )
    .expect("the guest's text is right")
}

/// Imports a function that there is, with a type that it has not.
pub(crate) fn imports_another_type() -> Vec<u8> {
    wat::parse_str(
        "(module (import \"wasi_snapshot_preview1\" \"proc_exit\" (func (param i64))) (func (export \"_start\")))",
    )
    .expect("the guest's text is right")
}
