//! Modules and components, written as text.

const TEXTS: [(&str, &str); 9] = [
    (
        "command",
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1) (data (i32.const 8) "hello\n")
            (func (export "_start") (i32.store (i32.const 0) (i32.const 8))
                (drop (call 1 (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 4))) (call 0 (i32.const 3))))"#,
    ),
    (
        "control",
        r#"(module
            (table 3 funcref) (elem (i32.const 0) 0 1) (global $g (mut i64) (i64.const 7))
            (func (param i32) (result i32) (local i32 i64 f32 f64)
                (block (loop (br_if 1 (local.get 0)) (br_table 0 1 (local.get 1)) (br 0)))
                (if (result i32) (local.get 0) (then (i32.const 1)) (else (i32.const 2))))
            (func (export "_start") (drop (call_indirect (param i32) (result i32) (i32.const 1) (i32.const 0)))))"#,
    ),
    (
        "features",
        r#"(module
            (memory i64 1) (memory 1) (table i64 1 funcref) (tag $t (param i32))
            (func (result v128) (v128.const i32x4 1 2 3 4))
            (func (param i32) (block $h (result i32) (try_table (catch $t $h) (throw $t (local.get 0))) (i32.const 0)) drop)
            (func (export "_start") (memory.fill (i64.const 0) (i32.const 1) (i64.const 8)) (return_call 3)))"#,
    ),
    (
        "threads",
        r#"(module (memory 1 1 shared) (func (export "_start") (drop (i32.atomic.load (i32.const 0)))))"#,
    ),
    ("gc", r#"(module (type (struct (field i32))) (func (export "_start")))"#),
    ("library", r#"(module (func (export "_initialize")))"#),
    ("import", r#"(module (import "env" "exec" (func)) (func (export "_start")))"#),
    (
        "component",
        r#"(component
            (import "wasi:cli/environment@0.2.0" (instance (export "get" (func (result string)))))
            (component $run (core module $m (func (export "run") (result i32) i32.const 0))
                (core instance $i (instantiate $m))
                (func $run (result (result)) (canon lift (core func $i "run")))
                (instance $api (export "run" (func $run)))
                (export "wasi:cli/run@0.2.0" (instance $api)))
            (instance $c (instantiate $run))
            (export "wasi:cli/run@0.2.0" (instance $c "wasi:cli/run@0.2.0")))"#,
    ),
    (
        "types",
        r#"(component (type $a (list u8)) (type $b (record (field "x" $a) (field "y" (option $a))))
            (type (variant (case "one" $b) (case "two"))) (type (func (param "p" $b) (result string)))
            (type (instance (export "r" (type (sub resource))))))"#,
    ),
];

/// A custom section.
fn custom(name: &str, content: &[u8]) -> Vec<u8> {
    let length = (1 + name.len() + content.len()) as u8;
    assert!(length < 128, "longer lengths take two bytes");
    [&[0, length, name.len() as u8], name.as_bytes(), content].concat()
}

/// Names and bytes.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let parse = |text| wat::parse_str(text).expect("the text is valid");
    let mut seeds: Vec<_> = TEXTS.iter().map(|(name, text)| (*name, parse(text))).collect();
    let described = [
        seeds[0].1.clone(),
        custom("description", b"grinds grain"),
        custom("gristmill:params", br#"{"type":"object","properties":{"n":{"type":"integer"}}}"#),
        custom("name", &[0, 2, 1, 0x61]),
    ];
    seeds.push(("described", described.concat()));
    seeds
}
