//! What a child holds is given back when it is gone, whichever way it ends.

use std::{
    path::Path,
    sync::{Arc, OnceLock, mpsc},
    time::Duration,
};

use gristmill_executor::{
    Executor, compile,
    request::{Held, StopReason},
};
use gristmill_protocol::Reason;
use tokio::sync::watch;

use crate::setup::{Workshop, child, living_child};

const PATIENCE: Duration = Duration::from_secs(60);

/// Says, when it is dropped, whether a process is gone.
struct Witness {
    pid: Arc<OnceLock<u32>>,
    seen: mpsc::Sender<bool>,
}

/// What can be heard of a witness.
struct Testimony {
    pid: Arc<OnceLock<u32>>,
    seen: mpsc::Receiver<bool>,
}

impl Drop for Witness {
    fn drop(&mut self) {
        let is_gone = self.pid.get().is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        // Nobody may ask.
        _ = self.seen.send(is_gone);
    }
}

impl Testimony {
    fn begin() -> (Held, Self) {
        let (sender, seen) = mpsc::channel();
        let pid = Arc::new(OnceLock::new());
        (Box::new(Witness { pid: Arc::clone(&pid), seen: sender }), Self { pid, seen })
    }

    fn is_about(&self, pid: u32) {
        self.pid.set(pid).expect("one process");
    }

    /// What the witness said, if it has.
    fn so_far(&self) -> Option<bool> {
        self.seen.try_recv().ok()
    }

    /// Whether the process was gone when the witness was dropped.
    async fn was_gone(self) -> bool {
        let waiting = tokio::task::spawn_blocking(move || self.seen.recv_timeout(PATIENCE));
        waiting.await.expect("no panic").expect("it is given back")
    }
}

#[tokio::test]
async fn what_a_compiler_holds_is_given_back_when_it_is_gone() {
    for way in ["given-up", "stopped", "too-slow"] {
        let name = format!("compiler-{way}");
        let workshop = Workshop::named("idles", &name).await;
        let (held, testimony) = Testimony::begin();
        let mut request = workshop.compile_request(b"");
        request.held = held;
        request.spec.time_ms = if way == "too-slow" { 3_000 } else { 600_000 };
        let (stop, watched) = watch::channel(None);
        let mut compiling = Box::pin(compile(&workshop.confiner, request, watched));
        let pid = tokio::select! {
            end = &mut compiling => panic!("{way}: {end:?}"),
            pid = living_child(&name, "compile") => pid,
        };
        testimony.is_about(pid);
        assert_eq!(testimony.so_far(), None, "{way}");
        match way {
            "given-up" => {
                drop(compiling);
                assert_eq!(testimony.so_far(), None, "nobody has seen its end yet");
            }
            "stopped" => {
                stop.send(Some(StopReason::Cancelled)).expect("is watched");
                compiling.await.expect_err("is stopped");
            }
            _ => {
                let failure = compiling.await.expect_err("never ends");
                assert_eq!(failure.outcome.reason, Some(Reason::CompileTimeout), "{failure:?}");
                assert!(failure.was_starved, "it used no core: {failure:?}");
            }
        }
        assert!(testimony.was_gone().await, "{way}");
        assert!(!workshop.path("compiled").exists(), "{way}");
    }
}

#[tokio::test]
async fn what_an_executor_holds_is_given_back_when_it_is_gone() {
    let workshop = Workshop::named("-", "executor-dropped").await;
    let (held, testimony) = Testimony::begin();
    let executor = Executor::spawn(&workshop.confiner, &[], held).await.expect("starts");
    testimony.is_about(executor.pid().expect("lives"));
    let slot = executor.slot().writable();
    drop(executor);
    assert_eq!(testimony.so_far(), None, "nobody has seen its end yet");
    assert!(testimony.was_gone().await);
    workshop.confiner.all_gone().await;
    let next = workshop.executor().await;
    assert_eq!(next.slot().writable(), slot, "and its slot is free again");

    let (held, testimony) = Testimony::begin();
    let mut executor = workshop.executor().await;
    testimony.is_about(executor.pid().expect("lives"));
    executor.hold(Some(held));
    executor.kill().await;
    assert_eq!(testimony.so_far(), Some(true), "it was waited for");
}

#[tokio::test]
async fn a_child_whose_start_nobody_awaits_is_killed_and_reaped() {
    let workshop = Workshop::named("-", "executor-unclaimed").await;
    let (held, testimony) = Testimony::begin();
    let starting = Executor::spawn(&workshop.confiner, &[], held);
    // Begun, and given up at once; on a busy machine it may have come to its end by then.
    drop(tokio::time::timeout(Duration::ZERO, starting).await);
    workshop.confiner.all_gone().await;
    assert!(testimony.so_far().is_some(), "nothing holds it any more");
    assert_eq!(child("executor-unclaimed", "executor"), None);
}
