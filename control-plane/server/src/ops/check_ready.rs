//! Say whether the server can take work, and what keeps it from that.

use std::time::Duration;

use gristmill_protocol::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::app::App;

/// How long an answer stands for those that ask next: everybody may ask, and trying the disk costs a
/// write.
const FRESH: Duration = Duration::from_secs(2);
/// Longest time that a check may take.
const CHECK_MAX: Duration = Duration::from_secs(5);
/// Below this many free bytes nothing new should begin.
const DISK_FREE_MIN: u64 = 256 << 20;
/// How far the machine's clock may have moved from the server's, which does not follow its steps.
const DRIFT_MAX: Duration = Duration::from_secs(60);
/// How late the sweep may be at least.
const SWEEP_LATE: Duration = Duration::from_secs(30);

/// What became of one check. It holds nothing that a stranger should not see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Check {
    /// What was checked.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// How long the check took, in microseconds.
    pub elapsed_us: u64,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'static str>,
}

/// What became of all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Readiness {
    /// Whether the server can take work.
    pub ready: bool,
    /// Each check.
    pub checks: Vec<Check>,
}

/// Checks that the store and the disk can be written and have room, that the clock and the sweep go
/// on, and that the server is not stopping. The answer may be two seconds old.
pub async fn check_ready(app: &App) -> Readiness {
    let mut kept = app.readiness.lock().await;
    let now = app.clock.now();
    let stopping = check("running", async { !app.shutdown.is_cancelled() }, "the server is stopping").await;
    let fresh = kept.as_ref().filter(|(at, _)| now.duration_since(*at).unsigned_abs() < FRESH);
    let others = if let Some((_, checks)) = fresh {
        checks.clone()
    } else {
        let checks = try_out(app, now).await;
        *kept = Some((now, checks.clone()));
        checks
    };
    let checks: Vec<_> = std::iter::once(stopping).chain(others).collect();
    Readiness { ready: checks.iter().all(|check| check.ok), checks }
}

async fn try_out(app: &App, now: Timestamp) -> Vec<Check> {
    let store = async { noted("store", app.store.store_probe(now).await) };
    let blobs = async { noted("blobs", app.blobs.probe().await) };
    let room =
        async { noted("disk", app.blobs.free_bytes().await).is_some_and(|free| free >= DISK_FREE_MIN) };
    let late = SWEEP_LATE.max(app.settings.sweep_period * 10);
    let sweep = async { now.duration_since(app.swept_at()).unsigned_abs() <= late };
    vec![
        check("store", async { store.await.is_some() }, "the database cannot be written").await,
        check("blobs", async { blobs.await.is_some() }, "blobs cannot be written").await,
        check("disk", room, "there is hardly any free space left").await,
        check(
            "clock",
            async { app.clock.drift() <= DRIFT_MAX },
            "the machine's clock was set; restart the server",
        )
        .await,
        check("sweep", sweep, "the sweep of leases and timeouts does not go on").await,
    ]
}

/// The value, with its error in the log alone.
fn noted<T, E: std::error::Error>(what: &'static str, result: Result<T, E>) -> Option<T> {
    result.inspect_err(|error| tracing::warn!(what, %error, "a readiness check failed")).ok()
}

async fn check(name: &'static str, holds: impl Future<Output = bool>, fault: &'static str) -> Check {
    let began = tokio::time::Instant::now();
    let ok = tokio::time::timeout(CHECK_MAX, holds).await.unwrap_or(false);
    Check { name, ok, elapsed_us: began.elapsed().as_micros() as u64, detail: (!ok).then_some(fault) }
}
