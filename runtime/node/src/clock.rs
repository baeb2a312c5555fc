//! The node's own clock. It is only used for durations, and it goes on while the machine sleeps.

use std::time::Duration;

/// A moment since the machine started. Unlike `Instant` it counts the time of a suspended machine,
/// so that a lease that ran out meanwhile is seen to have run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(Duration);

impl Moment {
    pub(crate) fn now() -> Self {
        #[cfg(target_os = "linux")]
        const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
        let time = rustix::time::clock_gettime(CLOCK);
        Self(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }

    /// Time since `earlier`; zero when that lies ahead.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Time since the machine started.
    pub(crate) fn since_start(self) -> Duration {
        self.0
    }

    pub(crate) fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    #[cfg(test)]
    pub(crate) fn at_ms(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_forward() {
        let start = Moment::now();
        std::thread::sleep(Duration::from_millis(5));
        let end = Moment::now();
        assert!(end.since(start) >= Duration::from_millis(5));
        assert_eq!(start.since(end), Duration::ZERO);
        assert_eq!(start.after(end.since(start)), end);
    }
}
