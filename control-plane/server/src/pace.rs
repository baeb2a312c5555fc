//! The least speed of a peer that sends a body or reads an answer. Only time that is spent waiting
//! for the peer counts.

use std::time::Duration;

/// A peer that makes the server wait for a whole window must have moved this much meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaceRule {
    /// Time spent waiting after which the peer is looked at.
    pub window: Duration,
    /// Least bytes that it must have sent or taken in that time.
    pub bytes_min: u64,
}

/// The peer moved less than the rule asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer moved {bytes} bytes in {window:?}")]
pub(crate) struct TooSlow {
    bytes: u64,
    window: Duration,
}

/// What a peer has done in the present window.
#[derive(Debug)]
pub(crate) struct Pace {
    rule: PaceRule,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    pub(crate) fn new(rule: PaceRule) -> Self {
        Self { rule, waited: Duration::ZERO, bytes: 0 }
    }

    /// How long may be waited before [`Self::note`] has to be asked again.
    pub(crate) fn patience(&self) -> Duration {
        self.rule.window.saturating_sub(self.waited)
    }

    /// Notes that the peer moved `bytes` after it was waited for.
    pub(crate) fn note(&mut self, waited: Duration, bytes: usize) -> Result<(), TooSlow> {
        self.waited += waited;
        self.bytes += bytes as u64;
        if self.waited < self.rule.window {
            return Ok(());
        }
        if self.bytes < self.rule.bytes_min {
            return Err(TooSlow { bytes: self.bytes, window: self.rule.window });
        }
        *self = Self::new(self.rule);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace() -> Pace {
        Pace::new(PaceRule { window: 10 * SECOND, bytes_min: 100 })
    }

    #[test]
    fn drops_that_come_just_often_enough_are_too_slow_in_the_end() {
        let mut pace = pace();
        for _ in 0..9 {
            pace.note(SECOND, 1).expect("the window is not over");
        }
        assert_eq!(pace.patience(), SECOND);
        assert_eq!(pace.note(SECOND, 1), Err(TooSlow { bytes: 10, window: 10 * SECOND }));
    }

    #[test]
    fn who_keeps_the_least_speed_goes_on_for_ever_and_each_window_counts_anew() {
        let mut pace = pace();
        for _ in 0..1_000 {
            pace.note(SECOND, 10).expect("fast enough");
        }
        pace.note(Duration::ZERO, 1 << 30).expect("a burst without any wait");
        pace.note(10 * SECOND, 0).expect("the burst was in this window");
        assert!(pace.note(10 * SECOND, 0).is_err(), "it does not count for the next one");
    }
}
