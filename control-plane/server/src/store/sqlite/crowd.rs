//! How long the writer waits for company before it begins a transaction.
//!
//! Alone, a change is written at once. Among many, each commit would find few of them waiting while
//! the others are still on their way: on a fast disk a job would then cost many small commits. So after
//! a batch that was about many, the next one waits until as many are there again, until nobody else
//! comes, or until its time is up.

use std::time::{Duration, Instant};

/// A batch of fewer messages, about fewer jobs than this, is no crowd.
const CROWD_MIN: usize = 8;
/// Who has not come this long after the one before is not waited for.
const QUIET: Duration = Duration::from_millis(5);
/// Time between the beginnings of two transactions after which nobody is waited for: while many come
/// there are some 25 transactions a second, and an answer takes no longer than people notice.
const WINDOW: Duration = Duration::from_millis(40);

/// What the last batch says about the next one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Crowd {
    last: Option<Last>,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    began: Instant,
    messages: usize,
}

impl Crowd {
    /// Notes a batch that was begun at `began`, of so many messages that changed so many jobs.
    pub(super) fn note(&mut self, began: Instant, messages: usize, jobs: usize) {
        let is_crowd = jobs.max(messages) >= CROWD_MIN;
        self.last = is_crowd.then_some(Last { began, messages });
    }

    /// Until when the next message is waited for, when `waiting` are there at `now`. `None`: not at all.
    pub(super) fn until(&self, waiting: usize, now: Instant) -> Option<Instant> {
        let last = self.last?;
        // A single message may be about many: the calls of a busy node come in pairs.
        let until = (now + QUIET).min(last.began + WINDOW);
        (waiting < last.messages.max(2) && until > now).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(began: Instant, messages: usize, jobs: usize) -> Crowd {
        let mut crowd = Crowd::default();
        crowd.note(began, messages, jobs);
        crowd
    }

    #[test]
    fn few_do_not_wait_for_company() {
        let now = Instant::now();
        assert_eq!(Crowd::default().until(1, now), None);
        assert_eq!(after(now, CROWD_MIN - 1, 3).until(1, now), None);
        let mut crowd = after(now, CROWD_MIN, 0);
        crowd.note(now, 1, 1);
        assert_eq!(crowd.until(1, now), None, "a crowd that has gone is forgotten");
    }

    #[test]
    fn a_crowd_waits_until_it_is_complete_or_quiet_or_late() {
        let now = Instant::now();
        let crowd = after(now, 40, 40);
        assert_eq!(crowd.until(40, now), None, "as many are there again");
        assert_eq!(crowd.until(39, now), Some(now + QUIET));
        let late = now + WINDOW.saturating_sub(Duration::from_millis(1));
        assert_eq!(crowd.until(39, late), Some(now + WINDOW));
        assert_eq!(crowd.until(39, now + WINDOW), None);
    }

    #[test]
    fn one_message_about_many_waits_for_its_pair() {
        let now = Instant::now();
        let crowd = after(now, 1, 30);
        assert!(crowd.until(1, now).is_some());
        assert_eq!(crowd.until(2, now), None);
    }
}
