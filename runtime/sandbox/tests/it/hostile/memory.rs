//! Guests that want more memory than they may have, or somebody else's.

use gristmill_protocol::{Metering, Reason, TrapKind, module::ModuleWorld};
use gristmill_sandbox::{EngineClass, Sandbox, compile};

use super::memory;
use crate::guest::{Guest, program_with};

const MIB: u64 = 1 << 20;

#[test]
fn h37_a_minimum_above_the_limit_is_memory_exceeded() {
    for text in [
        "(module (memory 17) (func (export \"_start\")))",
        "(module (memory i64 0x100000) (func (export \"_start\")))",
        "(module (memory 1) (table 200000 funcref) (func (export \"_start\")))",
    ] {
        let ended = Guest::new(text).limits(memory(MIB)).run();
        ended.assert_reason(Reason::MemoryExceeded);
        assert!(ended.outcome.usage.memory_peak_bytes.is_some_and(|peak| peak <= MIB), "{:?}", ended.outcome);
    }
}

#[test]
fn h38_growing_stops_at_the_limit_and_a_guest_that_then_fails_says_why() {
    let grow = "(loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))";
    for (end, reason) in [("", None), ("unreachable", Some(Reason::MemoryExceeded))] {
        let text = format!("(module (memory 1) (func (export \"_start\") {grow} {end}))");
        let ended = Guest::new(&text).limits(memory(3 * MIB)).run();
        assert_eq!(ended.outcome.reason, reason, "{:?}", ended.outcome);
        assert_eq!(ended.outcome.usage.memory_peak_bytes, Some(3 * MIB));
    }
    // What real programs do when `malloc` fails: exit with a code of their own.
    let text = program_with(1, "", &format!("{grow} (call $exit (i32.const 134))"));
    let ended = Guest::new(&text).limits(memory(MIB)).run();
    ended.assert_reason(Reason::MemoryExceeded);
    assert_eq!(ended.outcome.exit_code, Some(134), "which is kept");
    // What was refused is told; what was reached is the peak, and not the limit.
    let text = "(module (memory 1) (func (export \"_start\")
        (drop (memory.grow (i32.const 2))) (drop (memory.grow (i32.const 100))) unreachable))";
    let ended = Guest::new(text).limits(memory(MIB)).run();
    ended.assert_reason(Reason::MemoryExceeded);
    assert_eq!(ended.outcome.usage.memory_peak_bytes, Some(3 << 16));
    let message = ended.outcome.message.expect("a message");
    assert!(
        message.contains("it held 196608 bytes and asked for 6553600 more, and may have 1048576"),
        "{message}"
    );
}

#[test]
fn h39_touching_every_page_up_to_the_limit_works_and_the_next_one_is_refused() {
    let text = "(module (memory i64 0) (func (export \"_start\") (local $at i64)
        (loop $more
          (if (i64.ne (memory.grow (i64.const 16)) (i64.const -1)) (then
            (memory.fill (local.get $at) (i32.const 7) (i64.const 1048576))
            (local.set $at (i64.add (local.get $at) (i64.const 1048576)))
            (br $more))))
        unreachable))";
    let ended = Guest::new(text).limits(memory(256 * MIB)).run();
    ended.assert_reason(Reason::MemoryExceeded);
    assert_eq!(ended.outcome.usage.memory_peak_bytes, Some(256 * MIB));
}

#[test]
fn h40_tables_and_references_count_like_memory() {
    let grow = |kind: &str| {
        format!(
            "(module (table 0 {kind}ref) (func (export \"_start\")
               (loop (br_if 0 (i32.ne (table.grow (ref.null {kind}) (i32.const 10000000)) (i32.const -1)))) unreachable))"
        )
    };
    for kind in ["func", "extern", "exn"] {
        let ended = Guest::new(&grow(kind)).limits(memory(200 * MIB)).run();
        ended.assert_reason(Reason::MemoryExceeded);
        let peak = ended.outcome.usage.memory_peak_bytes.expect("is measured");
        assert!((80_000_000..=200 * MIB).contains(&peak), "{kind}: {peak}");
    }
    // Exceptions live in a heap of their own, which counts too.
    let thrown = "(module (tag $t (param i64 i64 i64 i64)) (table $kept 1 exnref)
        (func $keep (local $e exnref)
          (block $h (result i64 i64 i64 i64 exnref)
            (try_table (catch_ref $t $h)
              (throw $t (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4)))
            unreachable)
          (local.set $e) drop drop drop drop
          (table.set $kept (i32.sub (table.size $kept) (i32.const 1)) (local.get $e)))
        (func (export \"_start\")
          (loop
            (call $keep)
            (br_if 0 (i32.ne (table.grow $kept (ref.null exn) (i32.const 1)) (i32.const -1))))
          unreachable))";
    let ended = Guest::new(thrown).limits(memory(4 * MIB)).run();
    ended.assert_reason(Reason::MemoryExceeded);
    assert!(ended.outcome.usage.memory_peak_bytes.is_some_and(|peak| (MIB..=4 * MIB).contains(&peak)));
}

#[test]
fn h41_many_memories_and_instances_are_one_sum() {
    let memories = "(memory 1)".repeat(100);
    let text = format!("(module {memories} (func (export \"_start\")))");
    let ended = Guest::new(&text).limits(memory(100 << 16)).run();
    ended.assert_success();
    assert_eq!(ended.outcome.usage.memory_peak_bytes, Some(100 << 16));
    Guest::new(&text).limits(memory((100 << 16) - 1)).run().assert_reason(Reason::MemoryExceeded);
    let instances = |count: usize, pages: u32| {
        let text = format!(
            "(component (core module $m (memory {pages}) (func (export \"run\") (result i32) i32.const 0))
               {}
               (core instance $last (instantiate $m))
               (func $run (result (result)) (canon lift (core func $last \"run\")))
               (instance $api (export \"run\" (func $run))) (export \"wasi:cli/run@0.2.0\" (instance $api)))",
            "(core instance (instantiate $m))".repeat(count)
        );
        Guest::of(wat::parse_str(text).expect("well-formed text"), ModuleWorld::WasiP2)
    };
    instances(15, 1).limits(memory(MIB)).run().assert_success();
    instances(16, 1).limits(memory(MIB)).run().assert_reason(Reason::MemoryExceeded);
    // Without any memory of their own there is still an end to them.
    let inner = format!("(component $c (core module $m) {})", "(core instance (instantiate $m))".repeat(900));
    let text = format!(
        "(component {inner} (instance (instantiate $c)) (instance (instantiate $c))
           (core module $m (func (export \"run\") (result i32) i32.const 0)) (core instance $last (instantiate $m))
           (func $run (result (result)) (canon lift (core func $last \"run\")))
           (instance $api (export \"run\" (func $run))) (export \"wasi:cli/run@0.2.0\" (instance $api)))"
    );
    let wasm = wat::parse_str(text).expect("well-formed text");
    Guest::of(wasm, ModuleWorld::WasiP2).run().assert_reason(Reason::MemoryExceeded);
}

#[test]
fn h40_a_growth_whose_size_overflows_makes_no_earlier_one_free() {
    // The engine reports such a growth as failed without having asked for it.
    let text = "(module (table i64 0 funcref) (memory 0) (func (export \"_start\") (local $i i32)
        (loop $more
          (drop (memory.grow (i32.const 8)))
          (drop (table.grow (ref.null func) (i64.const 1)))
          (drop (table.grow (ref.null func) (i64.const -1)))
          (br_if $more (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 100))))
        (if (i32.gt_u (memory.size) (i32.const 16)) (then unreachable))))";
    let ended = Guest::new(text)
        .limits(|l| {
            l.memory_bytes = Some(MIB);
            // Fuel would end this first: such a growth costs as much as it asks for.
            l.metering = Some(Metering::None);
        })
        .run();
    ended.assert_success();
}

#[test]
fn h42_every_kind_of_fault_is_a_trap_with_its_kind() {
    let cases = [
        ("(drop (i32.load (i32.const 65533)))", TrapKind::OutOfBounds),
        ("(i64.store (i32.const -1) (i64.const 1))", TrapKind::OutOfBounds),
        ("(drop (i32.div_s (i32.const 1) (i32.const 0)))", TrapKind::DivisionByZero),
        ("(drop (i64.rem_u (i64.const 1) (i64.const 0)))", TrapKind::DivisionByZero),
        ("unreachable", TrapKind::Unreachable),
        ("(call_indirect (i32.const 0))", TrapKind::IndirectCall),
        ("(call_indirect (param i32) (i32.const 1) (i32.const 1))", TrapKind::IndirectCall),
        ("(call_indirect (i32.const 99))", TrapKind::OutOfBounds),
        ("(drop (table.get (i32.const 99)))", TrapKind::OutOfBounds),
        ("(table.copy (i32.const 1) (i32.const 0) (i32.const 2))", TrapKind::OutOfBounds),
        ("(throw $t)", TrapKind::UncaughtException),
    ];
    for (body, kind) in cases {
        let text = format!(
            "(module (memory 1) (tag $t) (table 2 funcref) (elem (i32.const 1) func $f) (func $f) (func (export \"_start\") {body}))"
        );
        Guest::new(&text).run().assert_trap(kind);
    }
    let atomics = "(module (memory 1) (func (export \"_start\") (drop (i32.atomic.rmw.add (i32.const 0) (i32.const 1)))))";
    let class = EngineClass { metering: Metering::Fuel, reproducible: false };
    let wasm = wat::parse_str(atomics).expect("well-formed text");
    assert!(compile(&wasm, ModuleWorld::WasiP1, class).is_err(), "threads are off");
}

#[test]
fn h43_the_edges_of_a_memory_are_exact() {
    for (text, traps) in [
        (
            "(memory 0) (func (export \"_start\") (memory.fill (i32.const 0) (i32.const 0) (i32.const 0)))",
            false,
        ),
        (
            "(memory 0) (func (export \"_start\") (memory.fill (i32.const 1) (i32.const 0) (i32.const 0)))",
            true,
        ),
        ("(memory 0) (func (export \"_start\") (drop (i32.load8_u (i32.const 0))))", true),
        ("(memory 1) (func (export \"_start\") (drop (i32.load8_u offset=4294967295 (i32.const 0))))", true),
        ("(memory 1) (func (export \"_start\") (drop (i32.load8_u offset=4294967295 (i32.const -1))))", true),
        ("(memory 1) (func (export \"_start\") (drop (i32.load (i32.const 65532))))", false),
        ("(memory 1) (func (export \"_start\") (drop (v128.load (i32.const 65521))))", true),
        (
            "(memory i64 1) (func (export \"_start\") (drop (i32.load8_u offset=0xffffffffffffffff (i64.const 0))))",
            true,
        ),
        ("(memory i64 1) (func (export \"_start\") (drop (i32.load8_u (i64.const 0x100000000))))", true),
        (
            "(memory i64 1) (func (export \"_start\") (memory.copy (i64.const -1) (i64.const 0) (i64.const 2)))",
            true,
        ),
    ] {
        let ended = Guest::new(&format!("(module {text})")).run();
        if traps {
            ended.assert_trap(TrapKind::OutOfBounds);
        } else {
            ended.assert_success();
        }
    }
}

/// Exits with 99 unless every byte of its fresh memory is zero.
fn looks_for_residue(pages: u32) -> String {
    format!(
        "(module (memory 1) (table 1000 funcref) (func (export \"_start\") (local $at i32)
           (drop (memory.grow (i32.const {pages})))
           (loop $next
             (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then unreachable))
             (local.set $at (i32.add (local.get $at) (i32.const 8)))
             (br_if $next (i32.lt_u (local.get $at) (i32.mul (memory.size) (i32.const 65536)))))
           (local.set $at (i32.const 0))
           (loop $next
             (if (i32.eqz (ref.is_null (table.get (local.get $at)))) (then unreachable))
             (local.set $at (i32.add (local.get $at) (i32.const 1)))
             (br_if $next (i32.lt_u (local.get $at) (i32.const 1000))))))"
    )
}

const LEAVES_RESIDUE: &str = "(module (memory 1) (table 1000 funcref) (elem declare func $f) (func $f)
    (func (export \"_start\")
      (drop (memory.grow (i32.const 511)))
      (memory.fill (i32.const 0) (i32.const 165) (i32.const 33554432))
      (table.fill (i32.const 0) (ref.func $f) (i32.const 1000))))";

#[test]
fn h44_a_guest_finds_only_zeros_where_another_one_was() {
    let sandbox = Sandbox::start().expect("starts");
    let mut leaves = Guest::new(LEAVES_RESIDUE);
    let mut looks = Guest::new(&looks_for_residue(511));
    for _ in 0..3 {
        leaves.run_in(&sandbox, |_| {}).assert_success();
        looks.run_in(&sandbox, |_| {}).assert_success();
    }
}

#[test]
fn h45_the_same_module_again_finds_only_zeros_and_its_own_data() {
    // An instance that is made again may keep pages of its image; what was written must be gone.
    let text = "(module (memory 4) (data (i32.const 100) \"fresh\") (global $g (mut i32) (i32.const 5))
        (func (export \"_start\")
          (if (i32.ne (i32.load8_u (i32.const 100)) (i32.const 102)) (then unreachable))
          (if (i64.ne (i64.load (i32.const 200000)) (i64.const 0)) (then unreachable))
          (if (i32.ne (memory.size) (i32.const 4)) (then unreachable))
          (if (i32.ne (global.get $g) (i32.const 5)) (then unreachable))
          (memory.fill (i32.const 0) (i32.const 165) (i32.const 262144))
          (drop (memory.grow (i32.const 4)))
          (global.set $g (i32.const 6))))";
    let sandbox = Sandbox::start().expect("starts");
    let mut guest = Guest::new(text);
    for _ in 0..5 {
        guest.run_in(&sandbox, |_| {}).assert_success();
    }
}
