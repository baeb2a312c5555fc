//! Compilation in a child process.

use std::{
    fs,
    time::{Duration, Instant},
};

use gristmill_executor::{
    compile,
    request::{CompileRequest, StopReason},
};
use gristmill_protocol::{Outcome, Reason};
use tokio::sync::watch;

use crate::setup::{Workshop, living_child, no_stop};

/// One function of many loops: quadratic work for the compiler.
fn bomb(loops: usize) -> Vec<u8> {
    let text =
        format!("(module (func (export \"_start\") {}))", "(loop (br_if 0 (i32.const 0)))".repeat(loops));
    wat::parse_str(text).expect("well-formed text")
}

/// Nothing of a failed compilation is left.
fn assert_clean(workshop: &Workshop) {
    let names: Vec<_> = fs::read_dir(workshop.dir.path())
        .expect("the directory")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    assert!(!names.iter().any(|name| name == "compiled"), "{names:?}");
}

async fn failure(workshop: &Workshop, request: CompileRequest) -> Outcome {
    compile(&workshop.confiner, request, no_stop()).await.expect_err("does not compile").outcome
}

#[tokio::test]
async fn compiled_code_appears_whole() {
    let workshop = Workshop::open().await;
    let us = workshop.compile("(module (func (export \"_start\")))").await.expect("compiles");
    assert!(us > 0);
    assert!(fs::metadata(workshop.path("compiled")).expect("the file").len() > 0);
}

#[tokio::test]
async fn an_invalid_module_is_refused_with_the_engines_words() {
    let workshop = Workshop::open().await;
    let outcome = failure(&workshop, workshop.compile_request(b"\0asm\x01\0\0\0\xff\0")).await;
    assert_eq!(outcome.reason, Some(Reason::LinkError), "{outcome:?}");
    assert!(outcome.usage.compile_us.is_some());
    assert_clean(&workshop);
}

#[tokio::test]
async fn a_bomb_is_ended_at_the_time_limit() {
    let workshop = Workshop::open().await;
    let mut request = workshop.compile_request(&bomb(200_000));
    request.spec.time_ms = 700;
    let start = Instant::now();
    let outcome = failure(&workshop, request).await;
    assert_eq!(outcome.reason, Some(Reason::CompileTimeout), "{outcome:?}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_clean(&workshop);
}

#[tokio::test]
async fn memory_beyond_the_limit_is_noticed() {
    let workshop = Workshop::with("hungers").await;
    let mut request = workshop.compile_request(b"");
    request.spec.memory_bytes = 100 << 20;
    let outcome = failure(&workshop, request).await;
    assert_eq!(outcome.reason, Some(Reason::CompileMemory), "{outcome:?}");
    let workshop = Workshop::with("runs-out-of-memory").await;
    let outcome = failure(&workshop, workshop.compile_request(b"")).await;
    assert_eq!(outcome.reason, Some(Reason::CompileMemory), "{outcome:?}");
}

#[tokio::test]
async fn a_compiler_that_dies_is_an_outcome() {
    let workshop = Workshop::with("aborts").await;
    let outcome = failure(&workshop, workshop.compile_request(b"")).await;
    assert_eq!(outcome.reason, Some(Reason::CompileCrash), "{outcome:?}");
    assert!(outcome.message.as_deref().is_some_and(|m| m.contains("signal 6")), "{outcome:?}");
    assert_clean(&workshop);
}

#[tokio::test]
async fn code_that_cannot_be_written_is_the_hosts_fault() {
    let workshop = Workshop::open().await;
    let mut request = workshop.compile_request(b"");
    request.output = workshop.path("nowhere/compiled");
    let outcome = failure(&workshop, request).await;
    assert_eq!(outcome.reason, Some(Reason::ExecutorCrashed), "{outcome:?}");
}

#[tokio::test]
async fn a_stop_ends_a_compilation() {
    let workshop = Workshop::open().await;
    let request = workshop.compile_request(&bomb(200_000));
    let (stop, watched) = watch::channel(None);
    let start = Instant::now();
    let cancel = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stop.send(Some(StopReason::Cancelled)).expect("is watched");
    };
    let (result, ()) = tokio::join!(compile(&workshop.confiner, request, watched), cancel);
    assert_eq!(result.expect_err("was stopped").outcome.reason, Some(Reason::CancelledByUser));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_clean(&workshop);
}

/// The 19th field of `/proc/PID/stat`; the second, a name in parentheses, can hold spaces.
fn niceness(pid: u32) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(16)?.parse().ok()
}

#[tokio::test]
async fn a_compiler_gives_way_to_guests() {
    let workshop = Workshop::named("-", "compiler-nice").await;
    let mut compiling =
        Box::pin(compile(&workshop.confiner, workshop.compile_request(&bomb(200_000)), no_stop()));
    // As far as there is a step left to this test itself.
    let expected = niceness(std::process::id()).map(|own| (own + 3).min(19));
    let gives_way = async {
        let pid = living_child("compiler-nice", "compile").await;
        while niceness(pid) != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let patient = tokio::time::timeout(Duration::from_secs(20), gives_way);
    tokio::select! {
        end = &mut compiling => panic!("{end:?}"),
        found = patient => found.expect("it has the same weight as a guest"),
    }
}
