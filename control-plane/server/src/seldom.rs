//! Log lines that a stranger can cause: written now and then, with the number of those left out.

use std::sync::{Mutex, PoisonError};

use gristmill_protocol::Timestamp;

/// Least time between two lines.
const PERIOD_MS: i64 = 1_000;

#[derive(Debug, Default)]
struct State {
    last: Option<Timestamp>,
    unlogged: u64,
}

/// Decides which of many alike events is logged: at most one a second.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    state: Mutex<State>,
}

impl Seldom {
    /// How many events were left out before this one, if this one is to be logged.
    pub(crate) fn due(&self, now: Timestamp) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = state.last.is_none_or(|last| now.as_millisecond() - last.as_millisecond() >= PERIOD_MS);
        if !is_due {
            state.unlogged += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_says_how_many_it_stands_for() {
        let seldom = Seldom::default();
        let at = |ms| Timestamp::from_millisecond(ms).expect("in range");
        assert_eq!(seldom.due(at(0)), Some(0));
        assert_eq!(seldom.due(at(1)), None);
        assert_eq!(seldom.due(at(999)), None);
        assert_eq!(seldom.due(at(1_000)), Some(2));
        assert_eq!(seldom.due(at(9_000)), Some(0));
    }
}
