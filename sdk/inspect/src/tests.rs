//! What is accepted and what is refused, with which code.

use std::fmt::Write;

use gristmill_protocol::{ErrorCode, module::ModuleWorld};

use super::*;

fn wasm(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("the test's own text is valid")
}

fn accepted(text: &str) -> ModuleMetadata {
    inspect(&wasm(text)).expect("is accepted")
}

fn refused(bytes: &[u8]) -> (ErrorCode, String) {
    let error = inspect(bytes).expect_err("is refused");
    assert!(!error.hint.is_empty(), "a hint belongs to every refusal: {error}");
    (error.code, error.detail)
}

fn refused_text(text: &str) -> (ErrorCode, String) {
    refused(&wasm(text))
}

/// A command with more in it.
fn command(more: &str) -> String {
    format!("(module {more} (func (export \"_start\")))")
}

/// A section as bytes: id, length, content.
fn section(id: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![id];
    leb(&mut bytes, content.len() as u64);
    bytes.extend_from_slice(content);
    bytes
}

fn leb(bytes: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

fn custom(name: &str, content: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    leb(&mut body, name.len() as u64);
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(content);
    section(0, &body)
}

/// A core module of one function type `[] -> []` and these sections after it.
fn module_of(sections: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = b"\0asm\x01\0\0\0".to_vec();
    bytes.extend(section(1, &[1, 0x60, 0, 0]));
    for section in sections {
        bytes.extend_from_slice(section);
    }
    bytes
}

/// A command whose functions have the given bodies.
fn module_of_bodies(bodies: &[Vec<u8>]) -> Vec<u8> {
    let mut functions = Vec::new();
    leb(&mut functions, bodies.len() as u64);
    functions.extend(std::iter::repeat_n(0, bodies.len()));
    let mut code = Vec::new();
    leb(&mut code, bodies.len() as u64);
    for body in bodies {
        leb(&mut code, body.len() as u64);
        code.extend_from_slice(body);
    }
    let exports = [&[1u8, 6][..], b"_start", &[0, 0]].concat();
    module_of(&[section(3, &functions), section(7, &exports), section(10, &code)])
}

#[test]
fn a_preview_1_command_is_accepted_and_described() {
    let bytes = [
        wasm(
            r#"(module
                (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
                (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
                (memory (export "memory") i64 1) (memory 1)
                (func (export "_start") (return_call 2)))"#,
        ),
        custom("description", "grinds grain\n".as_bytes()),
        custom("licenses", b"Apache-2.0"),
        custom("source", b"https://example.org/mill"),
        custom(PARAMS_SECTION, br#"{"type":"object"}"#),
        custom("name", &[0xff; 64]),
        custom(".debug_info", &[0xff; 64]),
    ]
    .concat();
    let metadata = inspect(&bytes).expect("is accepted");
    assert_eq!(metadata.world, ModuleWorld::WasiP1);
    assert_eq!(metadata.description.as_deref(), Some("grinds grain"));
    assert_eq!(metadata.licenses.as_deref(), Some("Apache-2.0"));
    assert_eq!(metadata.source.as_deref(), Some("https://example.org/mill"));
    assert_eq!(metadata.params_schema, Some(serde_json::json!({"type": "object"})));
    assert_eq!(metadata.exports, ["_start", "memory"]);
    assert_eq!(metadata.imports, ["wasi_snapshot_preview1.fd_write", "wasi_snapshot_preview1.proc_exit"]);
    assert_eq!(metadata.features, ["memory64", "multi_memory", "tail_call"]);
}

#[test]
fn both_kinds_of_exceptions_are_accepted_and_named() {
    let new = accepted(&command("(tag $t) (func (block $h (try_table (catch_all $h) (throw $t))))"));
    assert_eq!(new.features, ["exceptions"]);
    let old = module_of_bodies(&[vec![0, 0x06, 0x40, 0x19, 0x0b, 0x0b]]);
    let old = inspect(&old).expect("is accepted");
    assert_eq!(old.features, ["legacy_exceptions"]);
}

#[test]
fn a_component_command_is_accepted_with_the_imports_of_its_world() {
    let metadata = accepted(
        r#"(component
            (import "wasi:cli/environment@0.2.0" (instance))
            (import "wasi:sockets/tcp@0.2.6" (instance))
            (component $run (core module $m (func (export "run") (result i32) i32.const 0))
                (core instance $i (instantiate $m))
                (func $run (result (result)) (canon lift (core func $i "run")))
                (instance $api (export "run" (func $run)))
                (export "wasi:cli/run@0.2.0" (instance $api)))
            (instance $c (instantiate $run))
            (export "wasi:cli/run@0.2.0" (instance $c "wasi:cli/run@0.2.0")))"#,
    );
    assert_eq!(metadata.world, ModuleWorld::WasiP2);
    assert_eq!(metadata.imports, ["wasi:cli/environment@0.2.0", "wasi:sockets/tcp@0.2.6"]);
    assert_eq!(metadata.exports, ["wasi:cli/run@0.2.0"]);
}

#[test]
fn what_is_no_module_is_invalid() {
    for bytes in [
        &b""[..],
        b"\x7fELF\x02\x01\x01",
        b"(module)",
        b"  ;; text",
        b"hello",
        b"\0asm",
        b"\0asm\x01\0\0\0\x01",
        b"\0asm\x02\0\0\0",
    ] {
        assert_eq!(refused(bytes).0, ErrorCode::ModuleInvalid, "{bytes:?}");
    }
}

#[test]
fn a_module_cut_anywhere_is_refused_and_never_panics() {
    let whole = wasm(&command(
        r#"(import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
           (memory 1) (table 2 funcref) (global i32 (i32.const 1))"#,
    ));
    for end in 0..whole.len() {
        let code = inspect(&whole[..end]).err().map(|error| error.code);
        let is_whole_before_end = matches!(code, Some(ErrorCode::ModuleInvalid | ErrorCode::ModuleNoEntry));
        assert!(is_whole_before_end, "cut at {end}: {code:?}");
    }
}

#[test]
fn counts_that_do_not_fit_are_invalid_without_memory_for_them() {
    let functions = section(3, &[0xff, 0xff, 0xff, 0xff, 0x0f]);
    let (code, detail) = refused(&module_of(&[functions]));
    assert_eq!(code, ErrorCode::ModuleInvalid);
    assert!(detail.contains("4294967295"), "{detail}");
    let overlong = section(3, &[0x80; 11]);
    assert_eq!(refused(&module_of(&[overlong])).0, ErrorCode::ModuleInvalid);
    let data_of_a_gigabyte = [0x0b, 0x80, 0x80, 0x80, 0x80, 0x04, 1].to_vec();
    assert_eq!(refused(&module_of(&[data_of_a_gigabyte])).0, ErrorCode::ModuleInvalid);
}

#[test]
fn modules_that_would_exhaust_a_compiler_are_too_complex() {
    let empty: Vec<u8> = vec![0, 0x0b];
    let locals = |count: u64| {
        let mut body = vec![1];
        leb(&mut body, count);
        body.extend([0x7f, 0x0b]);
        body
    };
    let nested = |depth: usize| {
        let mut body = vec![0];
        body.extend([0x02, 0x40].repeat(depth));
        body.extend(std::iter::repeat_n(0x0b, depth + 1));
        body
    };
    let in_a_row = |count: usize, count_of_locals: u64, opcode: u8| {
        let mut body = vec![1];
        leb(&mut body, count_of_locals);
        body.push(0x7f);
        for _ in 0..count {
            if opcode == 0x04 {
                body.extend([0x41, 0]);
            }
            body.extend([opcode, 0x40, 0x0b]);
        }
        body.push(0x0b);
        body
    };
    let branches = |targets: u64| {
        let mut body = vec![0, 0x41, 0, 0x0e];
        leb(&mut body, targets);
        body.extend(std::iter::repeat_n(0, targets as usize + 1));
        body.push(0x0b);
        body
    };
    let additions = {
        let mut body = vec![0, 0x41, 0];
        body.extend([0x41, 1, 0x6a].repeat(1_700_000));
        body.extend([0x1a, 0x0b]);
        body
    };
    for (what, bodies) in [
        ("900,000 empty functions", vec![empty; 900_000]),
        ("1,000 functions of 50,000 locals", vec![locals(50_000); 1_000]),
        ("50,000 nested blocks", vec![nested(50_000)]),
        ("20,000 loops over 2,000 locals", vec![in_a_row(20_000, 2_000, 0x03)]),
        ("150,000 ifs over 64 locals", vec![in_a_row(150_000, 64, 0x04)]),
        ("65,000 branch targets, 30 times", vec![branches(65_000); 30]),
        ("1.7 million additions in one function", vec![additions]),
    ] {
        assert_eq!(refused(&module_of_bodies(&bodies)).0, ErrorCode::ModuleTooComplex, "{what}");
    }
    let many = |text: &str, count: usize| {
        let mut more = String::new();
        for number in 0..count {
            let _ = write!(more, "{}", text.replace('#', &number.to_string()));
        }
        refused_text(&command(&more)).0
    };
    let import = "(import \"wasi_snapshot_preview1\" \"fd_sync\" (func (param i32) (result i32)))";
    assert_eq!(many(import, 20_000), ErrorCode::ModuleTooComplex);
    assert_eq!(many("(type (struct))", 60_000), ErrorCode::ModuleTooComplex);
    assert_eq!(many("(export \"e#\" (func 0))", 60_000), ErrorCode::ModuleTooComplex);
    assert_eq!(refused_text(&command("(table 10000001 funcref)")).0, ErrorCode::ModuleTooComplex);
    // 8 GiB is the most that any job has.
    assert_eq!(refused_text(&command("(memory i64 0x20001)")).0, ErrorCode::ModuleTooComplex);
    accepted(&command("(memory i64 0x20000)"));
}

#[test]
fn sections_out_of_order_or_there_twice_and_names_that_are_no_text_are_invalid() {
    let functions = section(3, &[1, 0]);
    let code = section(10, &[1, 2, 0, 0x0b]);
    let bad_name = section(7, &[1, 2, 0xff, 0xfe, 0, 0]);
    for sections in [
        vec![functions.clone(), functions.clone(), code.clone()],
        vec![code.clone(), functions.clone()],
        vec![functions, bad_name, code],
    ] {
        assert_eq!(refused(&module_of(&sections)).0, ErrorCode::ModuleInvalid, "{sections:?}");
    }
}

#[test]
fn sections_for_people_and_debuggers_cost_nothing_whatever_is_in_them() {
    let junk = vec![0xff; 60 << 20];
    let bytes =
        [wasm(&command("")), custom("name", &junk[..16 << 20]), custom(".debug_line", &junk)].concat();
    inspect(&bytes).expect("only the size of a module limits them");
}

#[test]
fn components_within_components_have_an_end() {
    let mut text = String::from("(component)");
    for _ in 0..50 {
        text = format!("(component {text})");
    }
    assert_eq!(refused_text(&text).0, ErrorCode::ModuleTooComplex);
    let mut types = String::from("(type $t0 (list u8))");
    for depth in 1..500 {
        let _ = write!(types, "(type $t{depth} (list $t{}))", depth - 1);
    }
    assert_eq!(refused_text(&format!("(component {types})")).0, ErrorCode::ModuleInvalid);
}

/// A component command whose one module has so many functions, with more in front of its entry.
fn component_of(functions: usize, more: &str) -> String {
    let functions = "(func)".repeat(functions);
    format!(
        "(component (core module $m (func (export \"run\") (result i32) i32.const 0) {functions}) {more}
           (core instance $last (instantiate $m))
           (func $run (result (result)) (canon lift (core func $last \"run\")))
           (instance $api (export \"run\" (func $run))) (export \"wasi:cli/run@0.2.0\" (instance $api)))"
    )
}

#[test]
fn what_instances_take_of_their_host_is_bounded_however_they_come_about() {
    let again = |count: usize, text: &str| text.repeat(count);
    let one = "(core instance (instantiate $m))";
    accepted(&component_of(10_000, &again(100, one)));
    let ten = format!(
        "(component $c (alias outer 1 $m (core module $o)) {})",
        again(10, "(core instance (instantiate $o))")
    );
    accepted(&component_of(10_000, &format!("{ten} {}", again(10, "(instance (instantiate $c))"))));
    for (what, text) in [
        ("one after the other", again(200, one)),
        ("in components", format!("{ten} {}", again(20, "(instance (instantiate $c))"))),
        (
            "of a component further out",
            format!(
                "{ten} (component $d (alias outer 1 $c (component $o)) {}) (instance (instantiate $d))",
                again(20, "(instance (instantiate $o))")
            ),
        ),
        (
            "under the number of an export",
            format!("(export $e \"e\" (core module $m)) {}", again(200, "(core instance (instantiate $e))")),
        ),
    ] {
        let (code, detail) = refused_text(&component_of(10_000, &text));
        assert_eq!(code, ErrorCode::ModuleTooComplex, "{what}");
        assert!(detail.contains("of their host"), "{what}: {detail}");
    }
    // Each level instantiates the one below it many times.
    let mut levels = String::from("(component $c0)");
    for level in 1..12 {
        let eight = again(8, "(instance (instantiate $o))");
        let below = level - 1;
        let _ = write!(levels, "(component $c{level} (alias outer 1 $c{below} (component $o)) {eight})");
    }
    let (code, detail) = refused_text(&component_of(1, &levels));
    assert_eq!((code, detail.contains("of their host")), (ErrorCode::ModuleTooComplex, true), "{detail}");
    // One that is handed over cannot be counted.
    let handed = "(component $c (import \"m\" (core module $i)) (core instance (instantiate $i)))
        (instance (instantiate $c (with \"m\" (core module $m))))";
    let (code, detail) = refused_text(&component_of(1, handed));
    assert_eq!((code, detail.contains("handed")), (ErrorCode::ModuleTooComplex, true), "{detail}");
    // Segments are laid out in every instance.
    let segment = format!("(func $f) (elem func {})", "$f ".repeat(1_900_000));
    let of_elements = |instances: usize| {
        let text = format!(
            "(component (core module $m (func (export \"run\")) {segment}) {})",
            again(instances, one)
        );
        inspect(&wasm(&text)).expect_err("no command").code
    };
    assert_eq!(of_elements(2), ErrorCode::ModuleNoEntry);
    assert_eq!(of_elements(3), ErrorCode::ModuleTooComplex);
}

#[test]
fn a_feature_that_is_off_is_named() {
    for (text, name) in [
        ("(memory 1 1 shared)", "threads"),
        ("(memory 1) (func (drop (i32.atomic.load (i32.const 0))))", "threads"),
        ("(type (struct (field i32)))", "gc"),
        (
            "(func (param v128 v128 v128) (drop (f32x4.relaxed_madd (local.get 0) (local.get 1) (local.get 2))))",
            "relaxed_simd",
        ),
        ("(memory 1 (pagesize 1))", "custom_page_sizes"),
        ("(type $f (func)) (type $c (cont $f))", "stack_switching"),
        ("(func (param i64 i64) (i64.mul_wide_s (local.get 0) (local.get 1)) drop drop)", "wide_arithmetic"),
    ] {
        let (code, detail) = refused_text(&command(text));
        assert_eq!(code, ErrorCode::UnsupportedFeature, "{text}: {detail}");
        assert!(detail.contains(name), "{text}: {detail}");
    }
}

#[test]
fn a_module_without_an_entry_point_is_told_what_it_is() {
    for (text, why) in [
        ("(module)", "exports neither"),
        ("(module (func (export \"_initialize\")))", "library (reactor)"),
        ("(module (global (export \"_start\") i32 (i32.const 0)))", "exports neither"),
        ("(module (func (export \"_start\") (param i32)))", "takes parameters"),
        ("(component)", "exports neither"),
        ("(component (instance $i) (export \"wasi:http/incoming-handler@0.2.0\" (instance $i)))", "HTTP"),
        ("(component (instance $i) (export \"wasi:cli/run@0.3.0\" (instance $i)))", "not of WASI 0.2"),
    ] {
        let (code, detail) = refused_text(text);
        assert_eq!(code, ErrorCode::ModuleNoEntry, "{text}");
        assert!(detail.contains(why), "{text}: {detail}");
    }
}

#[test]
fn an_import_that_no_node_provides_is_named() {
    for (module, name) in [
        ("env", "exec"),
        ("wasi_unstable", "fd_write"),
        ("wasi_snapshot_preview1", "thread_spawn"),
        ("wasi", "thread-spawn"),
        ("gojs", "runtime.wasmExit"),
    ] {
        let (code, detail) = refused_text(&command(&format!("(import \"{module}\" \"{name}\" (func))")));
        assert_eq!(code, ErrorCode::ImportNotAllowed);
        assert!(detail.contains(&format!("{module}.{name}")), "{detail}");
    }
    let memory = command("(import \"wasi_snapshot_preview1\" \"fd_write\" (memory 1))");
    assert_eq!(refused_text(&memory).0, ErrorCode::ImportNotAllowed);
    for import in [
        "(import \"wasi:http/outgoing-handler@0.2.0\" (instance))",
        "(import \"wasi:cli/environment@0.3.0\" (instance))",
        "(import \"acme:db/query\" (instance))",
        "(import \"run\" (func))",
    ] {
        let text =
            format!("(component {import} (instance $i) (export \"wasi:cli/run@0.2.0\" (instance $i)))");
        assert_eq!(refused_text(&text).0, ErrorCode::ImportNotAllowed, "{import}");
    }
}

#[test]
fn a_params_schema_that_is_no_json_or_too_large_or_too_deep_is_refused() {
    let base = wasm(&command(""));
    for (schema, why) in [
        (&b"{"[..], "is not JSON"),
        (format!("{}{}", "[".repeat(1_000), "]".repeat(1_000)).as_bytes(), "is not JSON"),
        (format!("{}{}", "[".repeat(100), "]".repeat(100)).as_bytes(), "nested more than 64 deep"),
        (&vec![b' '; PARAMS_SCHEMA_BYTES_MAX + 1], "64 KiB"),
    ] {
        let (code, detail) = refused(&[base.clone(), custom(PARAMS_SECTION, schema)].concat());
        assert_eq!(code, ErrorCode::ModuleInvalid);
        assert!(detail.contains(why), "{detail}");
    }
}

#[test]
fn a_large_module_is_passed_in_small_steps() {
    const STEP_MAX: u64 = 1 << 20;
    // 16 MB of code in bodies of 64 kB, and as much data in segments of 1 kB.
    let body = [&[0u8][..], &[0x41, 0, 0x1a].repeat(21_000), &[0x0b]].concat();
    let mut bytes = module_of_bodies(&vec![body; 250]);
    let segment = [&[1u8, 0x80, 0x08][..], &[7; 1_024]].concat();
    let mut data = Vec::new();
    leb(&mut data, 16_000);
    data.extend(segment.repeat(16_000));
    bytes.extend(section(11, &data));
    let offsets = std::cell::RefCell::new(vec![0]);
    inspect_on_the_way(&bytes, &|offset| offsets.borrow_mut().push(offset)).expect("is accepted");
    let mut offsets = offsets.into_inner();
    offsets.push(bytes.len() as u64);
    assert!(offsets.is_sorted(), "one pass");
    assert!(offsets.windows(2).all(|pair| pair[1] - pair[0] <= STEP_MAX), "all is passed on the way");
}

#[test]
fn data_segments_are_validated_though_their_bytes_are_not_read() {
    let segment = |memory: u32, offset: &str, bytes: &str| {
        command(&format!("(memory 1) (memory 1) (data (memory {memory}) ({offset}) \"{bytes}\")"))
    };
    for memory in [0, 1] {
        accepted(&segment(memory, "i32.const 8", "some bytes"));
    }
    accepted(&command("(memory 1) (data \"passive\") (data (i32.add (i32.const 1) (i32.const 2)) \"\")"));
    for wrong in [segment(2, "i32.const 8", "bytes"), segment(0, "i64.const 8", "bytes")] {
        assert_eq!(refused_text(&wrong).0, ErrorCode::ModuleInvalid, "{wrong}");
    }
    // A segment that is longer than its section, and a section that is longer than its segments.
    for section_bytes in [&[1u8, 1, 5, b'x'][..], &[1, 1, 1, b'x', 0]] {
        let bytes = [wasm(&command("(memory 1)")), section(11, section_bytes)].concat();
        assert_eq!(refused(&bytes).0, ErrorCode::ModuleInvalid);
    }
}

#[test]
fn sections_that_are_read_whole_have_a_size_in_all() {
    let name = "n".repeat(90_000);
    let export = |number: u32| {
        let mut entry = Vec::new();
        let name = format!("{name}{number}");
        leb(&mut entry, name.len() as u64);
        entry.extend_from_slice(name.as_bytes());
        entry.extend([0, 0]);
        entry
    };
    let with = |count: u32| {
        let mut exports = Vec::new();
        leb(&mut exports, u64::from(count) + 1);
        exports.extend([&[6u8][..], b"_start", &[0, 0]].concat());
        exports.extend((0..count).flat_map(export));
        module_of(&[section(3, &[1, 0]), section(7, &exports), section(10, &[1, 2, 0, 0x0b])])
    };
    inspect(&with(100)).expect("nine megabytes are much, and allowed");
    let (code, detail) = refused(&with(200));
    assert_eq!(code, ErrorCode::ModuleTooComplex);
    assert!(detail.contains("sections beside code and data"), "{detail}");
}
