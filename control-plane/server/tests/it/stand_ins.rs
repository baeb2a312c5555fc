//! A clock that stands still until it is moved, and randomness that a seed repeats.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use gristmill_protocol::Timestamp;
use gristmill_server::{clock::Clock, entropy::Entropy};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// 2026-01-01T00:00:00Z in microseconds since 1970.
const START_US: i64 = 1_767_225_600_000_000;

/// Time passes only when a test says so.
#[derive(Debug)]
pub(crate) struct ManualClock(AtomicI64);

impl Default for ManualClock {
    fn default() -> Self {
        Self(AtomicI64::new(START_US))
    }
}

impl ManualClock {
    /// Lets time pass.
    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_micros() as i64, Ordering::SeqCst);
    }

    /// Lets whole seconds pass.
    pub(crate) fn advance_s(&self, seconds: u64) {
        self.advance(Duration::from_secs(seconds));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_microsecond(self.0.load(Ordering::SeqCst)).expect("tests stay within this era")
    }
}

/// The same bytes for the same seed.
#[derive(Debug)]
pub(crate) struct SeededEntropy(Mutex<StdRng>);

impl SeededEntropy {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(bytes);
    }
}
