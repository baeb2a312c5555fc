//! Waiting longer and longer between repeated calls, with chance, so that many nodes that lost the
//! same server do not return to it at the same moment.

use std::time::Duration;

use rand::RngExt;

/// Exponential backoff with full jitter, bounded from below and above.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Starts at about `first` and never waits longer than `longest`.
    pub fn between(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// The next delay, drawn evenly from half the bound to the bound; the bound doubles with every
    /// failure. `at_least` is what the server asked for, if it did; it is honoured up to a minute.
    pub fn next_delay(&mut self, at_least: Option<Duration>) -> Duration {
        let chance = rand::rng().random_range(0.5..=1.0);
        self.delay_for(chance, at_least)
    }

    /// Forgets the failures; call it after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    fn delay_for(&mut self, chance: f64, at_least: Option<Duration>) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let asked = at_least.unwrap_or_default().min(Duration::from_mins(1));
        doubled.min(self.longest).mul_f64(chance) + asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_bound_and_start_over_after_a_success() {
        let mut backoff = Backoff::between(Duration::from_millis(100), Duration::from_secs(1));
        let delays: Vec<_> = (0..6).map(|_| backoff.delay_for(1.0, None).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.delay_for(0.5, None), Duration::from_millis(50));
    }

    #[test]
    fn what_the_server_asks_for_is_honoured_within_reason() {
        let mut backoff = Backoff::between(Duration::from_millis(100), Duration::from_secs(1));
        assert_eq!(backoff.delay_for(1.0, Some(Duration::from_secs(5))), Duration::from_millis(5_100));
        let day = Some(Duration::from_hours(24));
        assert!(backoff.delay_for(1.0, day) <= Duration::from_secs(61));
    }

    #[test]
    fn drawn_delays_stay_within_their_bounds() {
        let mut backoff = Backoff::between(Duration::from_millis(100), Duration::from_millis(100));
        for _ in 0..1_000 {
            let delay = backoff.next_delay(None);
            assert!(delay >= Duration::from_millis(50) && delay <= Duration::from_millis(100));
        }
    }
}
