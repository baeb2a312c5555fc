//! Modules that pass inspection and still try to exhaust or crash the compiler, which is a child with
//! limits. The numbers are those of the list in `tests/it/hostile` at the top of the repository.

use std::time::{Duration, Instant};

use gristmill_executor::compile;
use gristmill_protocol::Reason;

use crate::setup::{Workshop, no_stop};

/// A command with one function of this body.
fn command(locals: &str, body: &str) -> Vec<u8> {
    let text = format!("(module (func (export \"_start\") {locals} {body}))");
    wat::parse_str(text).expect("well-formed text")
}

#[tokio::test]
async fn h08_a_compilation_that_takes_too_much_memory_or_time_is_ended() {
    let workshop = Workshop::open().await;
    // As many blocks over as many locals as inspection lets pass.
    let ifs = command("(local i32)", &"(if (local.get 0) (then (local.set 0 (i32.const 1))))".repeat(95_000));
    let mut request = workshop.compile_request(&ifs);
    request.spec.memory_bytes = 150 << 20;
    let start = Instant::now();
    let outcome = compile(&workshop.confiner, request, no_stop()).await.expect_err("is ended").outcome;
    assert_eq!(outcome.reason, Some(Reason::CompileMemory), "{outcome:?}");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let loops = command("", &"(loop (br_if 0 (i32.const 0)))".repeat(60_000));
    let mut request = workshop.compile_request(&loops);
    request.spec.time_ms = 500;
    let outcome = compile(&workshop.confiner, request, no_stop()).await.expect_err("is ended").outcome;
    assert_eq!(outcome.reason, Some(Reason::CompileTimeout), "{outcome:?}");
}

#[tokio::test]
async fn h09_the_largest_straight_line_function_compiles_within_the_limits() {
    let workshop = Workshop::open().await;
    // Just under the four megabytes that a body may have.
    let steps =
        "(local.set 0 (i64.add (local.get 0) (i64.mul (local.get 0) (i64.const 99))))".repeat(380_000);
    let mut request = workshop.compile_request(&command("(local i64)", &steps));
    assert!(std::fs::metadata(workshop.path("wasm")).expect("the module").len() > 3 << 20);
    request.spec.time_ms = 120_000;
    request.spec.memory_bytes = 4 << 30;
    match compile(&workshop.confiner, request, no_stop()).await {
        Ok(_) => assert!(workshop.path("compiled").exists()),
        Err(failure) => assert_eq!(failure.outcome.reason, Some(Reason::CompileTimeout), "{failure:?}"),
    }
}

#[tokio::test]
async fn h13_a_compiler_that_crashes_costs_its_own_process_only() {
    let workshop = Workshop::with("aborts").await;
    let request = workshop.compile_request(&command("", ""));
    let outcome = compile(&workshop.confiner, request, no_stop()).await.expect_err("crashes").outcome;
    assert_eq!(outcome.reason, Some(Reason::CompileCrash), "{outcome:?}");
    let message = outcome.message.expect("a message");
    assert!(message.contains("signal 6") && !message.contains('/'), "{message}");
    let healthy = Workshop::open().await;
    compile(&healthy.confiner, healthy.compile_request(&command("", "")), no_stop())
        .await
        .expect("another compiler is not affected");
}
