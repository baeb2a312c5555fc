//! How guests end by themselves: exit codes, traps, link errors, memory, fuel.

use gristmill_protocol::{Metering, Outcome, Reason, TrapKind, reason::OutcomeState};

use crate::guest::{Guest, program};

fn exit(code: i32) -> Guest {
    Guest::new(&program(&format!("(call $exit (i32.const {code}))")))
}

#[test]
fn every_exit_code_is_recorded() {
    for code in [0, 3, 75, 126, 255, -1, i32::MIN] {
        let outcome = exit(code).run().outcome;
        assert_eq!(outcome.exit_code, Some(code));
        let reason = match code {
            0 => None,
            75 => Some(Reason::RetryRequested),
            _ => Some(Reason::ExitCode),
        };
        assert_eq!(outcome.reason, reason, "{code}");
    }
}

#[test]
fn a_declared_code_is_success_and_so_is_returning() {
    let mut guest = exit(20);
    guest.request.success_exit_codes = vec![10, 20];
    let outcome = guest.run().outcome;
    assert_eq!((outcome.state, outcome.exit_code), (OutcomeState::Succeeded, Some(20)));
    Guest::new(&program("")).run().assert_success();
}

#[test]
fn traps_have_their_kinds() {
    let cases = [
        ("unreachable", TrapKind::Unreachable),
        ("(drop (i32.load (i32.const -4)))", TrapKind::OutOfBounds),
        ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", TrapKind::DivisionByZero),
        ("(drop (i32.trunc_f32_s (f32.const nan)))", TrapKind::DivisionByZero),
        (
            "(call $check (call $fd_write (i32.const 1) (i32.const -8) (i32.const 1) (i32.const 0)))",
            TrapKind::OutOfBounds,
        ),
    ];
    for (body, kind) in cases {
        Guest::new(&program(body)).run().assert_trap(kind);
    }
    let modules = [
        (
            "(module (memory (export \"memory\") 1) (func $f (export \"_start\") (call $f)))",
            TrapKind::StackOverflow,
        ),
        (
            "(module (table 1 funcref) (func (export \"_start\") (call_indirect (i32.const 0))))",
            TrapKind::IndirectCall,
        ),
        (
            "(module (table 1 funcref) (func (export \"_start\") (call_indirect (i32.const 7))))",
            TrapKind::OutOfBounds,
        ),
        ("(module (tag $t) (func (export \"_start\") (throw $t)))", TrapKind::UncaughtException),
        ("(module (func $s unreachable) (start $s) (func (export \"_start\")))", TrapKind::Unreachable),
    ];
    for (text, kind) in modules {
        Guest::new(text).run().assert_trap(kind);
    }
}

#[test]
fn a_trap_names_the_function() {
    let text = "(module (func $inner unreachable) (func $outer (export \"_start\") (call $inner)))";
    let message = Guest::new(text).run().outcome.message.expect("a message");
    assert!(message.contains("inner < outer"), "{message}");
}

#[test]
fn exceptions_that_are_caught_are_no_trap() {
    let text = "(module (tag $t (param i32)) (func (export \"_start\")
        (block $caught (result i32) (try_table (catch $t $caught) (throw $t (i32.const 5))) (i32.const 5))
        (if (i32.ne (i32.const 5)) (then unreachable))))";
    Guest::new(text).run().assert_success();
}

#[test]
fn a_link_error_names_the_import() {
    let text = "(module (import \"env\" \"exec\" (func)) (func (export \"_start\")))";
    let ended = Guest::new(text).run();
    ended.assert_reason(Reason::LinkError);
    assert!(ended.outcome.message.as_deref().is_some_and(|m| m.contains("env::exec")), "{:?}", ended.outcome);
    let text = "(module (import \"wasi_snapshot_preview1\" \"proc_exit\" (func (param i64))) (func (export \"_start\")))";
    Guest::new(text).run().assert_reason(Reason::LinkError);
    Guest::new("(module)").run().assert_reason(Reason::LinkError);
}

fn fuel_of(outcome: &Outcome) -> u64 {
    outcome.usage.fuel.expect("fuel is counted")
}

#[test]
fn fuel_runs_out_at_the_same_instruction_every_time() {
    let mut guest = Guest::new(&program("(loop (br 0))")).limits(|l| l.fuel = Some(1_000_000));
    let first = guest.run();
    first.assert_reason(Reason::FuelExhausted);
    let second = guest.run();
    assert_eq!(first.outcome.usage.fuel, second.outcome.usage.fuel);
    assert!(fuel_of(&first.outcome) >= 1_000_000);
    assert!(fuel_of(&exit(0).run().outcome) < 100);
}

#[test]
fn without_metering_no_fuel_is_counted() {
    let outcome = exit(0).limits(|l| l.metering = Some(Metering::None)).run().outcome;
    assert_eq!((outcome.usage.fuel, outcome.exit_code), (None, Some(0)));
    assert!(outcome.usage.wall_us.is_some() && outcome.usage.cpu_us.is_some());
}

#[test]
fn memory_is_limited_over_all_memories_and_tables() {
    let mib = |l: &mut gristmill_protocol::LimitsSpec| l.memory_bytes = Some(1 << 20);
    // Within the limit, and the peak is told.
    let ended = Guest::new("(module (memory 16) (func (export \"_start\")))").limits(mib).run();
    ended.assert_success();
    assert_eq!(ended.outcome.usage.memory_peak_bytes, Some(1 << 20));
    // Too much from the beginning.
    let two = "(module (memory 8) (memory 9) (func (export \"_start\")))";
    Guest::new(two).limits(mib).run().assert_reason(Reason::MemoryExceeded);
    let table = "(module (memory 8) (table 100000 funcref) (func (export \"_start\")))";
    Guest::new(table).limits(mib).run().assert_reason(Reason::MemoryExceeded);
    // Refused growth is the guest's to handle ...
    let handled = "(module (memory 8) (func (export \"_start\")
        (if (i32.ne (memory.grow (i32.const 9)) (i32.const -1)) (then unreachable))))";
    Guest::new(handled).limits(mib).run().assert_success();
    // ... and the reason if it then fails.
    let fails = "(module (memory 8) (func (export \"_start\")
        (if (i32.eq (memory.grow (i32.const 9)) (i32.const -1)) (then unreachable))))";
    Guest::new(fails).limits(mib).run().assert_reason(Reason::MemoryExceeded);
    let spread = "(module (memory $a 1) (memory $b 1) (func (export \"_start\")
        (loop (br_if 0 (i32.ne (memory.grow $a (i32.const 1)) (i32.const -1))))
        (if (i32.ne (memory.grow $b (i32.const 1)) (i32.const -1)) (then (loop (br 0))))
        unreachable))";
    Guest::new(spread).limits(mib).run().assert_reason(Reason::MemoryExceeded);
}

#[test]
fn a_memory64_guest_gets_all_of_its_slot_and_not_a_page_more() {
    let text = "(module (memory i64 1) (func (export \"_start\")
        (if (i64.eq (memory.grow (i64.const 131071)) (i64.const -1)) (then unreachable))
        (i32.store8 (i64.const 8589934591) (i32.const 1))
        (if (i64.ne (memory.grow (i64.const 1)) (i64.const -1)) (then unreachable))))";
    let ended = Guest::new(text).run();
    ended.assert_success();
    assert_eq!(ended.outcome.usage.memory_peak_bytes, Some(8 << 30));
}

#[test]
fn features_that_are_off_are_refused_by_the_compiler() {
    use gristmill_protocol::module::ModuleWorld;
    use gristmill_sandbox::{EngineClass, compile};
    let class = EngineClass { metering: Metering::Fuel, reproducible: false };
    let compile_text =
        |text: &str| compile(&wat::parse_str(text).expect("well-formed text"), ModuleWorld::WasiP1, class);
    for text in [
        "(module (memory 1 1 shared))",
        "(module (memory 1) (func (drop (i32.atomic.load (i32.const 0)))))",
        "(module (type (struct)))",
        "(module (func (param v128 v128 v128) (drop (f32x4.relaxed_madd (local.get 0) (local.get 1) (local.get 2)))))",
    ] {
        assert!(compile_text(text).is_err(), "{text}");
    }
    assert!(compile(b"\0asm\x01\0\0\0\xff", ModuleWorld::WasiP1, class).is_err());
    assert!(compile(b"\0asm\x01\0\0\0", ModuleWorld::WasiP2, class).is_err(), "a module is no component");
}

#[test]
fn compiled_code_of_another_class_is_refused_and_not_run() {
    let mut guest = exit(0);
    guest.run().assert_success();
    let compiled = std::fs::read(&guest.request.compiled).expect("a file");
    let class = gristmill_sandbox::EngineClass { metering: Metering::None, reproducible: false };
    let other = gristmill_sandbox::compile(
        &wat::parse_str("(module)").expect("well-formed text"),
        gristmill_protocol::module::ModuleWorld::WasiP1,
        class,
    );
    assert_ne!(Some(compiled), other.ok());
}

#[test]
fn a_wasm32_guest_gets_four_gibibytes_and_not_a_page_more() {
    let text = "(module (memory 1) (func (export \"_start\")
        (if (i32.eq (memory.grow (i32.const 65535)) (i32.const -1)) (then unreachable))
        (i32.store8 (i32.const -1) (i32.const 1))
        (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))))";
    let ended = Guest::new(text).run();
    ended.assert_reason(Reason::MemoryExceeded);
    assert_eq!(ended.outcome.usage.memory_peak_bytes, Some(4 << 30));
}

#[test]
fn growing_to_a_whole_slot_in_steps_copies_nothing() {
    // 128 steps of 64 MiB with a byte of each in use: a copy of what is there would take minutes.
    let text = "(module (memory i64 1) (func (export \"_start\") (local $at i64)
        (drop (memory.grow (i64.const 1023)))
        (loop
          (i64.store (local.get $at) (i64.const 1))
          (local.set $at (i64.add (local.get $at) (i64.const 67108864)))
          (br_if 0 (i64.ne (memory.grow (i64.const 1024)) (i64.const -1))))
        (if (i64.ne (memory.size) (i64.const 131072)) (then unreachable))))";
    let ended = Guest::new(text).run();
    ended.assert_success();
    let cpu_us = ended.outcome.usage.cpu_us.expect("is measured");
    assert!(cpu_us < 2_000_000, "{cpu_us} us");
}
