//! When a call is repeated, and after how long.

use std::time::Duration;

/// How often and how patiently a call is repeated. Only calls that are safe to repeat are: reads,
/// uploads by digest, cancels, and submits, which always carry an idempotency key.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Tries in all, at least 1.
    pub tries: u32,
    /// Longest wait before the second try; it doubles from try to try.
    pub base_ms: u64,
    /// Longest wait before any try.
    pub cap_ms: u64,
}

impl Default for RetryPolicy {
    /// Six tries over about ten seconds: enough for a restart of the server.
    fn default() -> Self {
        Self { tries: 6, base_ms: 200, cap_ms: 5_000 }
    }
}

impl RetryPolicy {
    /// About three minutes, for who has waited long already and would rather wait than give up.
    pub fn patient() -> Self {
        Self { tries: 40, ..Self::default() }
    }

    /// How long to wait after the failed try `number` (from 1); `None` when it was the last one.
    /// `chance` lies in `0.0..1.0` and spreads the waits of many clients; a `Retry-After` of the
    /// server is the least that is waited, and one beyond a minute ends the tries.
    pub(crate) fn wait_after(
        &self,
        number: u32,
        retry_after_s: Option<u64>,
        chance: f64,
    ) -> Option<Duration> {
        if number >= self.tries || retry_after_s.is_some_and(|seconds| seconds > 60) {
            return None;
        }
        let ceiling = self.base_ms.saturating_mul(1 << (number - 1).min(20)).min(self.cap_ms);
        let spread = Duration::from_millis((ceiling as f64 * (0.5 + chance / 2.0)) as u64);
        Some(spread.max(Duration::from_secs(retry_after_s.unwrap_or(0))))
    }
}

/// Whether an HTTP status says nothing about the request itself, so that trying again may help.
pub(crate) fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 425 | 502 | 503 | 504)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_the_cap_and_end() {
        let policy = RetryPolicy { tries: 5, base_ms: 100, cap_ms: 250 };
        let waits: Vec<_> = (1..6).map(|n| policy.wait_after(n, None, 0.999)).collect();
        assert_eq!(
            waits.iter().map(|w| w.map(|w| w.as_millis() / 50)).collect::<Vec<_>>(),
            [Some(1), Some(3), Some(4), Some(4), None]
        );
    }

    #[test]
    fn the_server_can_ask_for_more_patience_within_reason() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.wait_after(1, Some(7), 0.5), Some(Duration::from_secs(7)));
        assert_eq!(policy.wait_after(1, Some(3600), 0.5), None);
    }
}
