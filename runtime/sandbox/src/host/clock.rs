//! Clocks and random numbers of the reproducible mode: the same on every node and in every run.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::SeedableRng as _;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtxBuilder};

/// 2000-01-01T00:00:00Z: the start of time, and the time of every file.
pub(crate) const START: Duration = Duration::from_hours(262_968);
/// Every look at a clock takes this long, so that a guest that waits for time to pass gets on.
const STEP_NS: u64 = 1_000;
const SEED: u64 = 0x6772_6973_746d_696c;

/// One time line for both clocks.
#[derive(Clone, Default)]
pub(crate) struct VirtualClock(Arc<Line>);

#[derive(Default)]
struct Line {
    now_ns: AtomicU64,
    /// The moments that the guest waits for at present, each with how many waits are for it.
    waits: Mutex<BTreeMap<u64, usize>>,
}

impl VirtualClock {
    /// Lets time pass up to `ns` after the start, because the guest waits for that moment. Time never
    /// goes back, and it stops after 292 years.
    pub(crate) fn advance_to(&self, ns: u64) {
        self.0.now_ns.fetch_max(ns.min(i64::MAX as u64), Ordering::Relaxed);
    }

    /// Nanoseconds since the start, as the guest saw them last.
    pub(crate) fn read_ns(&self) -> u64 {
        self.0.now_ns.load(Ordering::Relaxed)
    }

    /// The guest waits for this moment, until [`Self::wait_no_more`].
    pub(crate) fn wait_for(&self, ns: u64) {
        *self.waits().entry(ns).or_default() += 1;
    }

    /// The guest ended one wait for this moment.
    pub(crate) fn wait_no_more(&self, ns: u64) {
        let mut waits = self.waits();
        match waits.get_mut(&ns) {
            Some(count) if *count > 1 => *count -= 1,
            _ => _ = waits.remove(&ns),
        }
    }

    /// The first of the moments that the guest waits for.
    pub(crate) fn next_wait(&self) -> Option<u64> {
        self.waits().keys().next().copied()
    }

    fn waits(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        self.0.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the guest sees when it looks at the clock, which takes a step of time.
    pub(crate) fn look(&self) -> Duration {
        self.advance_to(self.read_ns().saturating_add(STEP_NS));
        Duration::from_nanos(self.read_ns())
    }
}

impl HostWallClock for VirtualClock {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(STEP_NS)
    }

    fn now(&self) -> Duration {
        START + self.look()
    }
}

impl HostMonotonicClock for VirtualClock {
    fn resolution(&self) -> u64 {
        STEP_NS
    }

    fn now(&self) -> u64 {
        self.look().as_nanos() as u64
    }
}

/// Replaces clocks and random numbers.
pub(crate) fn make_reproducible(builder: &mut WasiCtxBuilder) -> VirtualClock {
    let clock = VirtualClock::default();
    builder
        .wall_clock(clock.clone())
        .monotonic_clock(clock.clone())
        .secure_random(rand::rngs::StdRng::seed_from_u64(SEED))
        .insecure_random(rand::rngs::StdRng::seed_from_u64(SEED + 1))
        .insecure_random_seed(u128::from(SEED));
    clock
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_starts_in_2000_and_only_passes_when_looked_at_or_slept() {
        let clock = VirtualClock::default();
        assert_eq!(HostWallClock::now(&clock), START + Duration::from_micros(1));
        clock.advance_to(5_000_000_000);
        clock.advance_to(4_000_000_000);
        assert_eq!(HostMonotonicClock::now(&clock), 5_000_001_000);
        clock.advance_to(u64::MAX);
        clock.advance_to(u64::MAX);
        assert!(HostMonotonicClock::now(&clock) > 5_000_001_000, "time never wraps");
    }
}
