//! The server's one clock. Everything that decides about leases, timeouts and ids asks it.

use std::{
    fmt,
    time::{Duration, Instant},
};

use gristmill_protocol::Timestamp;

/// Tells the time. Tests and the simulation bring their own.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The present time; it never goes backwards.
    fn now(&self) -> Timestamp;

    /// How far the machine's wall clock is from this one.
    fn drift(&self) -> Duration {
        Duration::ZERO
    }
}

/// The machine's clock as it was at the start, moved on by the monotonic clock, so that a step of
/// the wall clock neither expires leases early nor keeps them alive.
#[derive(Debug)]
pub struct SystemClock {
    started_at: Timestamp,
    started: Instant,
}

impl SystemClock {
    /// Reads the wall clock once.
    pub fn start() -> Self {
        Self { started_at: Timestamp::now(), started: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        self.started_at + self.started.elapsed()
    }

    fn drift(&self) -> Duration {
        Timestamp::now().duration_since(self.now()).unsigned_abs()
    }
}
