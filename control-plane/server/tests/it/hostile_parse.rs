//! Uploads that mean harm, each refused when it is published, with its code. The numbers are those
//! of the list in `tests/it/hostile` at the top of the repository.

use std::fmt::Write as _;

use base64::{Engine, engine::general_purpose::STANDARD};
use gristmill_inspect::inspect;
use gristmill_protocol::tenancy::Scope;
use sha2::{Digest as _, Sha256};

use crate::http_api::{ADMIN, Answer, Api, call, command, digest};

fn wasm(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("well-formed text")
}

fn leb(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// A section as bytes: id, length, content.
fn section(id: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![id];
    leb(&mut bytes, content.len() as u64);
    [bytes, content.to_vec()].concat()
}

fn custom(name: &str, content: &[u8]) -> Vec<u8> {
    section(0, &[&[name.len() as u8], name.as_bytes(), content].concat())
}

fn module(sections: &[Vec<u8>]) -> Vec<u8> {
    [b"\0asm\x01\0\0\0".to_vec(), sections.concat()].concat()
}

/// A command whose functions `[] -> []` have these bodies.
fn of_bodies(bodies: &[Vec<u8>]) -> Vec<u8> {
    let (mut functions, mut code) = (Vec::new(), Vec::new());
    leb(&mut functions, bodies.len() as u64);
    leb(&mut code, bodies.len() as u64);
    functions.extend(std::iter::repeat_n(0, bodies.len()));
    for body in bodies {
        leb(&mut code, body.len() as u64);
        code.extend_from_slice(body);
    }
    let exports = [&[1u8, 6][..], b"_start", &[0, 0]].concat();
    module(&[section(1, &[1, 0x60, 0, 0]), section(3, &functions), section(7, &exports), section(10, &code)])
}

/// A body of this many `i32` locals, and operators.
fn body(locals: u64, operators: &[u8]) -> Vec<u8> {
    let mut bytes = if locals == 0 { vec![0] } else { vec![1] };
    if locals > 0 {
        leb(&mut bytes, locals);
        bytes.push(0x7f);
    }
    [&bytes[..], operators, &[0x0b]].concat()
}

async fn publish(api: &Api, bytes: impl Into<bytes::Bytes>) -> Answer {
    api.admin(call("PUT", "/v1/modules/evil/versions/1.0.0").bytes(bytes)).await
}

/// Insists on a refusal with one of these codes, a hint, and nothing of the host in its text.
#[track_caller]
fn assert_refused(what: &str, answer: &Answer, codes: &[&str]) {
    let (status, code) = (answer.status.as_u16(), answer.code());
    assert!(status == 422 && codes.contains(&code.as_str()), "{what}: {status} {:?}", answer.json());
    let text = answer.json().to_string();
    assert!(answer.json()["hint"].is_string(), "{what} has no hint: {text}");
    for secret in ["/tmp", "/dev/shm", "/home", "panicked", "src/", ADMIN] {
        assert!(!text.contains(secret), "{what} tells of {secret}: {text}");
    }
}

async fn refused(what: &str, bytes: Vec<u8>, codes: &[&str]) {
    let api = Api::start().await;
    assert_refused(what, &publish(&api, bytes).await, codes);
    assert_eq!(api.admin(call("GET", "/v1/modules/evil")).await.status, 404, "{what} is not there");
}

#[tokio::test]
async fn h01_an_empty_file_is_invalid() {
    refused("empty", Vec::new(), &["module_invalid"]).await;
}

#[tokio::test]
async fn h02_what_is_no_wasm_is_invalid() {
    let elf = [&b"\x7fELF\x02\x01\x01\0"[..], &[0; 200]].concat();
    // What the engine itself writes begins as an ELF file too; it must never be loaded.
    let compiled = [&b"\x7fELF\x02\x01\x01\xc8"[..], b"wasmtime 48.0.8", &[0; 200]].concat();
    for (what, bytes) in [
        ("ELF", elf),
        ("compiled code", compiled),
        ("version 2", b"\0asm\x02\0\0\0".to_vec()),
        ("layer 7", b"\0asm\x0d\0\x07\0".to_vec()),
        ("reversed", b"msa\0\x01\0\0\0".to_vec()),
        ("script", b"#!/bin/sh\nexit\n".to_vec()),
    ] {
        refused(what, bytes, &["module_invalid"]).await;
    }
}

#[tokio::test]
async fn h03_text_is_invalid() {
    refused("WAT", b"(module (func (export \"_start\")))".to_vec(), &["module_invalid"]).await;
    refused("WAT with a comment", b" ;; x\n(module)".to_vec(), &["module_invalid"]).await;
}

/// Where sections begin.
fn section_boundaries(module: &[u8]) -> Vec<usize> {
    let (mut at, mut found) = (8, Vec::new());
    while at < module.len() {
        found.push(at);
        let (mut length, mut shift) = (0, 0);
        loop {
            at += 1;
            length |= usize::from(module[at] & 0x7f) << shift;
            shift += 7;
            if module[at] & 0x80 == 0 {
                break;
            }
        }
        at += 1 + length;
    }
    found
}

#[tokio::test]
async fn h04_a_module_cut_or_flipped_at_any_byte_is_refused_or_still_a_module() {
    let whole = wasm(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32))) (memory 1) (table 2 funcref)
             (global (mut i32) (i32.const 1)) (data (i32.const 0) "abc") (elem (i32.const 0) func 1)
             (func (export "_start") (local i64) (loop (br_if 0 (i32.const 0))) (call 0 (i32.const 0))))"#,
    );
    let component = wasm(
        r#"(component (core module $m (func (export "run") (result i32) i32.const 0)) (core instance $i (instantiate $m))
             (func $run (result (result)) (canon lift (core func $i "run"))) (instance $api (export "run" (func $run)))
             (export "wasi:cli/run@0.2.0" (instance $api)))"#,
    );
    for whole in [whole, component] {
        inspect(&whole).expect("is a command");
        let boundaries = section_boundaries(&whole);
        for end in 0..whole.len() {
            let code = match inspect(&whole[..end]) {
                Err(error) => error.code.to_string(),
                // Whole sections may be missing, such as the data.
                Ok(_) if boundaries.contains(&end) => continue,
                Ok(_) => panic!("cut at {end}, it is still accepted"),
            };
            assert!(["module_invalid", "module_no_entry"].contains(&code.as_str()), "cut at {end}: {code}");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                // It may be a module still; it must only not bring anything down.
                if let Err(error) = inspect(&flipped) {
                    assert_eq!(error.code.status(), 422, "flipped at {at}: {error}");
                }
            }
        }
    }
}

#[tokio::test]
async fn h05_one_byte_above_the_size_limit_is_too_large_and_leaves_nothing() {
    let api = Api::start().await;
    let mut bytes = command();
    bytes.resize((256 << 20) + 1, 0);
    let answer = publish(&api, bytes).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (413, "module_too_large"));
    api.token("gmu_monitor", "default", &[Scope::Metrics]).await;
    let metrics = api.send(call("GET", "/metrics").token("gmu_monitor")).await;
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(metrics.contains("gristmill_blobs 0"), "{metrics}");
    assert_eq!(api.files_left().await, 0, "the part that was staged is removed");
}

#[tokio::test]
async fn h06_counts_that_overflow_are_invalid_without_room_for_them() {
    let huge = [0xff, 0xff, 0xff, 0xff, 0x0f];
    for id in [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13] {
        let bytes = module(&[section(1, &[1, 0x60, 0, 0]), section(id, &huge)]);
        refused(&format!("2^32 of section {id}"), bytes, &["module_invalid"]).await;
        let overlong = module(&[section(id, &[0x80; 11])]);
        refused(&format!("overlong count of section {id}"), overlong, &["module_invalid"]).await;
    }
    refused("overlong section", module(&[[&[1u8][..], &[0xff; 10]].concat()]), &["module_invalid"]).await;
}

#[tokio::test]
async fn h07_a_million_of_anything_is_too_complex() {
    let repeat = |id: u8, count: u64, item: &[u8]| {
        let mut content = Vec::new();
        leb(&mut content, count);
        section(id, &[content, item.repeat(count as usize)].concat())
    };
    let types = section(1, &[1, 0x60, 0, 0]);
    let import = [&[1u8][..], b"a", &[1], b"b", &[0, 0]].concat();
    for (what, bytes) in [
        ("functions", module(&[types.clone(), repeat(3, 1_000_000, &[0])])),
        ("types", module(&[repeat(1, 1_000_000, &[0x60, 0, 0])])),
        ("imports", module(&[types.clone(), repeat(2, 100_000, &import)])),
        ("globals", module(&[repeat(6, 1_000_000, &[0x7f, 0, 0x41, 0, 0x0b])])),
        ("table elements", of_elements(3_000_000)),
    ] {
        refused(what, bytes, &["module_too_complex"]).await;
    }
    let mut exports = String::new();
    for number in 0..100_000 {
        let _ = write!(exports, "(export \"e{number}\" (func 0))");
    }
    refused(
        "exports",
        wasm(&format!("(module (func (export \"_start\")) {exports})")),
        &["module_too_complex"],
    )
    .await;
}

/// A module whose one element segment lists a function so many times.
fn of_elements(count: u64) -> Vec<u8> {
    let mut segment = vec![1, 0, 0x41, 0, 0x0b];
    leb(&mut segment, count);
    segment.extend(std::iter::repeat_n(0, count as usize));
    module(&[
        section(1, &[1, 0x60, 0, 0]),
        section(3, &[1, 0]),
        section(4, &[1, 0x70, 0, 1]),
        section(9, &segment),
        section(10, &[1, 2, 0, 0x0b]),
    ])
}

#[tokio::test]
async fn h08_modules_that_exhaust_register_allocation_are_too_complex() {
    let many_locals = of_bodies(&vec![body(50_000, &[]); 1_000]);
    assert!(many_locals.len() < 10_000, "a bomb of {} bytes", many_locals.len());
    refused("50,000 locals x 1,000 functions", many_locals, &["module_too_complex"]).await;
    let ifs = body(64, &[0x41, 0, 0x04, 0x40, 0x0b].repeat(150_000));
    refused("150,000 ifs over 64 locals", of_bodies(&[ifs]), &["module_too_complex"]).await;
    let loops = body(2_000, &[0x03, 0x40, 0x0b].repeat(20_000));
    refused("20,000 loops over 2,000 locals", of_bodies(&[loops]), &["module_too_complex"]).await;
}

#[tokio::test]
async fn h09_a_huge_straight_line_function_is_too_complex() {
    let additions = [&[0x41, 0][..], &[0x41, 1, 0x6a].repeat(2_530_000), &[0x1a]].concat();
    refused("7.6 MB without a branch", of_bodies(&[body(0, &additions)]), &["module_too_complex"]).await;
}

#[tokio::test]
async fn h10_fifty_thousand_nested_blocks_overflow_no_stack() {
    let nested = [[0x02, 0x40].repeat(50_000), vec![0x0b; 50_000]].concat();
    refused("blocks", of_bodies(&[body(0, &nested)]), &["module_too_complex", "module_invalid"]).await;
    let tries = [[0x06, 0x40].repeat(50_000), vec![0x0b; 50_000]].concat();
    refused("tries", of_bodies(&[body(0, &tries)]), &["module_too_complex", "module_invalid"]).await;
}

#[tokio::test]
async fn h11_branch_tables_without_end_are_too_complex() {
    let mut table = vec![0x41, 0, 0x0e];
    leb(&mut table, 65_000);
    table.extend(std::iter::repeat_n(0, 65_001));
    refused("65,000 targets x 30", of_bodies(&vec![body(0, &table); 30]), &["module_too_complex"]).await;
}

#[tokio::test]
async fn h12_deeply_nested_component_types_are_invalid() {
    let mut types = String::from("(type $t0 (list u8))");
    for depth in 1..2_000 {
        let _ = write!(types, "(type $t{depth} (list $t{}))", depth - 1);
    }
    let entry = "(instance $i) (export \"wasi:cli/run@0.2.0\" (instance $i))";
    refused("lists of lists", wasm(&format!("(component {types} {entry})")), &["module_invalid"]).await;
    // A type in a type in a type; the text format has no such depth.
    for depth in [200, 100_000] {
        let types = [&[1u8][..], &[0x41, 1, 1].repeat(depth), &[0x41, 0]].concat();
        let bytes = [&b"\0asm\x0d\0\x01\0"[..], &section(7, &types)].concat();
        refused("component types in component types", bytes, &["module_invalid"]).await;
    }
    // Components themselves may stand in each other, but not as deep.
    let mut nested = String::from("(component)");
    for _ in 0..60 {
        nested = format!("(component {nested})");
    }
    refused("components in components", wasm(&nested), &["module_too_complex"]).await;
}

#[tokio::test]
async fn h14_sections_out_of_order_or_twice_and_names_that_are_no_text_are_invalid() {
    let (types, functions) = (section(1, &[1, 0x60, 0, 0]), section(3, &[1, 0]));
    let (exports, code) = (section(7, &[1, 1, b'x', 0, 0]), section(10, &[1, 2, 0, 0x0b]));
    let bad_export = section(7, &[1, 2, 0xff, 0xfe, 0, 0]);
    for (what, sections) in [
        ("twice", vec![types.clone(), types.clone(), functions.clone(), code.clone()]),
        ("unsorted", vec![functions.clone(), types.clone(), code.clone()]),
        ("code before exports", vec![types.clone(), functions.clone(), code.clone(), exports.clone()]),
        ("no text", vec![types.clone(), functions.clone(), bad_export, code.clone()]),
        (
            "the same name twice",
            vec![
                types.clone(),
                functions.clone(),
                section(7, &[2, 1, b'x', 0, 0, 1, b'x', 0, 0]),
                code.clone(),
            ],
        ),
        ("an unknown section", vec![types.clone(), section(99, &[0])]),
        ("code without functions", vec![types, code]),
    ] {
        refused(what, module(&sections), &["module_invalid"]).await;
    }
}

#[tokio::test]
async fn h15_a_data_segment_of_a_gigabyte_in_a_small_file_is_invalid() {
    let mut data = vec![1, 0, 0x41, 0, 0x0b];
    leb(&mut data, 1 << 30);
    let short = module(&[section(5, &[1, 0, 1]), section(11, &data)]);
    refused("declared in the segment", short, &["module_invalid"]).await;
    let mut lying = vec![11];
    leb(&mut lying, 1 << 30);
    refused("declared in the section", module(&[section(5, &[1, 0, 1]), lying]), &["module_invalid"]).await;
}

#[tokio::test]
async fn h16_custom_sections_are_opaque_however_large_and_broken() {
    let api = Api::start().await;
    let junk = vec![0xa5; 60 << 20];
    // A name section that claims 2^32 functions, and one of sub-sections that lie.
    let bytes = [
        command(),
        custom("junk", &junk),
        custom("name", &[1, 5, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        custom("name", &vec![0xff; 100_000]),
        custom(".debug_info", &vec![0xff; 100_000]),
        custom("producers", &[0xff; 1_000]),
    ]
    .concat();
    let answer = publish(&api, bytes).await;
    assert_eq!(answer.status, 201, "{:?}", answer.json());
}

#[tokio::test]
async fn h17_features_that_are_off_are_named() {
    let command = |more: &str| wasm(&format!("(module {more} (func (export \"_start\")))"));
    for (text, name) in [
        ("(memory 1 1 shared)", "threads"),
        ("(memory 1) (func (drop (i32.atomic.rmw.add (i32.const 0) (i32.const 1))))", "threads"),
        ("(type (struct (field i32)))", "gc"),
        ("(type (array i8))", "gc"),
        (
            "(func (param v128 v128 v128) (drop (f32x4.relaxed_madd (local.get 0) (local.get 1) (local.get 2))))",
            "relaxed_simd",
        ),
        ("(memory 1 (pagesize 1))", "custom_page_sizes"),
        ("(type $f (func)) (type $c (cont $f))", "stack_switching"),
    ] {
        let api = Api::start().await;
        let answer = publish(&api, command(text)).await;
        assert_refused(text, &answer, &["unsupported_feature"]);
        assert!(answer.json()["detail"].as_str().is_some_and(|detail| detail.contains(name)), "{text}");
    }
}

#[tokio::test]
async fn h18_imports_that_nothing_provides_are_named() {
    for (import, name) in [
        ("(import \"env\" \"exec\" (func))", "env.exec"),
        ("(import \"wasi_snapshot_preview1\" \"sock_open\" (func))", "sock_open"),
        ("(import \"wasi_snapshot_preview1\" \"sock_connect\" (func))", "sock_connect"),
        ("(import \"wasi\" \"thread-spawn\" (func))", "thread-spawn"),
        ("(import \"env\" \"memory\" (memory 1))", "env.memory"),
    ] {
        let api = Api::start().await;
        let answer = publish(&api, wasm(&format!("(module {import} (func (export \"_start\")))"))).await;
        assert_refused(import, &answer, &["import_not_allowed"]);
        assert!(answer.json()["detail"].as_str().is_some_and(|detail| detail.contains(name)), "{import}");
    }
    let run = "(core module $m (func (export \"run\") (result i32) i32.const 0)) (core instance $i (instantiate $m))
        (func $run (result (result)) (canon lift (core func $i \"run\")))
        (instance $api (export \"run\" (func $run))) (export \"wasi:cli/run@0.2.0\" (instance $api))";
    for interface in ["wasi:http/outgoing-handler@0.2.0", "evil:host/exec@1.0.0"] {
        let api = Api::start().await;
        let import = format!("(import \"{interface}\" (instance (export \"f\" (func))))");
        let answer = publish(&api, wasm(&format!("(component {import} {run})"))).await;
        assert_refused(interface, &answer, &["import_not_allowed"]);
        assert!(
            answer.json()["detail"].as_str().is_some_and(|detail| detail.contains(interface)),
            "{interface}"
        );
    }
}

#[tokio::test]
async fn h20_a_module_without_an_entry_is_told_so() {
    for text in [
        "(module)",
        "(module (func (export \"main\")))",
        "(module (func (export \"_initialize\")))",
        "(module (memory (export \"_start\") 1))",
        "(module (func (export \"_start\") (result i32) (i32.const 0)))",
        "(component)",
    ] {
        refused(text, wasm(text), &["module_no_entry"]).await;
    }
}

#[tokio::test]
async fn h22_bytes_that_do_not_have_the_declared_digest_are_refused() {
    let api = Api::start().await;
    let declared = digest(b"something else");
    let answer = api.admin(call("PUT", format!("/v1/blobs/{declared}")).bytes(command())).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (422, "digest_mismatch"));
    assert_eq!(api.admin(call("GET", format!("/v1/blobs/{declared}"))).await.status, 404);
    assert_eq!(api.files_left().await, 0);
    let published = async |bytes: &[u8]| {
        let field = format!("sha-512=:AA==:, sha-256=:{}:", STANDARD.encode(Sha256::digest(bytes)));
        let target = "/v1/modules/evil/versions/1.0.0";
        api.admin(call("PUT", target).header("repr-digest", field).bytes(command())).await
    };
    assert_refused("another module's digest", &published(b"something else").await, &["digest_mismatch"]);
    assert_eq!(api.admin(call("GET", "/v1/modules/evil")).await.status, 404);
    assert_eq!(api.files_left().await, 0);
    assert_eq!(published(&command()).await.status, 201, "its own digest");
}

#[tokio::test]
async fn h24_a_module_that_is_also_a_page_or_an_archive_is_only_ever_downloaded() {
    let api = Api::start().await;
    let page = b"<!doctype html><script>alert(document.cookie)</script>PK\x05\x06";
    let bytes = [custom("page", page), b"PK\x05\x06\0\0\0\0".to_vec()].concat();
    let polyglot = [command(), bytes].concat();
    // A second module or an archive behind the end is not part of a module.
    assert_refused("trailing bytes", &publish(&api, polyglot).await, &["module_invalid"]);
    let polyglot = [command(), custom("page", page)].concat();
    assert_eq!(publish(&api, polyglot.clone()).await.status, 201);
    for target in
        ["/v1/modules/evil/versions/1.0.0/wasm".to_owned(), format!("/v1/blobs/{}", digest(&polyglot))]
    {
        let answer = api.admin(call("GET", &target)).await;
        assert_eq!(answer.body, polyglot, "{target} is opaque bytes");
        let kind = answer.header("content-type").unwrap_or_default();
        assert!(["application/wasm", "application/octet-stream"].contains(&kind), "{target}: {kind}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        let disposition = answer.header("content-disposition").unwrap_or_default();
        assert!(disposition.starts_with("attachment"), "{target}: {disposition}");
        assert!(
            answer
                .header("content-security-policy")
                .is_some_and(|policy| policy.contains("default-src 'none'"))
        );
    }
}
