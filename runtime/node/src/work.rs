//! What this node does for an attempt, and whether the server knows.

use std::time::Duration;

use gristmill_protocol::{
    attempt::WorkPhase,
    node_api::{LeaseRef, PhaseNote},
};

use crate::clock::Moment;

/// A phase that lasts as long as this is told by a call of its own, together with all others. What is
/// over sooner costs no call.
const TOLD_AFTER: Duration = Duration::from_millis(500);

/// The present phase of one attempt.
#[derive(Debug)]
pub(crate) struct Work {
    phase: WorkPhase,
    since: Moment,
    is_told: bool,
}

impl Work {
    /// An attempt that begins with bringing its inputs.
    pub(crate) fn staging(since: Moment) -> Self {
        Self { phase: WorkPhase::Staging, since, is_told: false }
    }

    /// Goes over to another phase.
    pub(crate) fn enter(&mut self, phase: WorkPhase, now: Moment) {
        *self = Self { phase, since: now, is_told: false };
    }

    /// How long the server need not hear of this phase; `None` if it knows. That the guest runs it
    /// learns from the start.
    pub(crate) fn untold(&self, now: Moment) -> Option<Duration> {
        let is_known = self.is_told || self.phase == WorkPhase::Running;
        (!is_known).then(|| TOLD_AFTER.saturating_sub(now.since(self.since)))
    }

    /// What the server is told from now on.
    pub(crate) fn tell(&mut self, lease: &LeaseRef, now: Moment) -> Option<PhaseNote> {
        self.is_told = true;
        let elapsed_ms = now.since(self.since).as_millis() as u64;
        let note = PhaseNote { job: lease.job, attempt: lease.attempt, phase: self.phase, elapsed_ms };
        Some(note).filter(|note| note.phase != WorkPhase::Running)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::tests::grant;

    #[test]
    fn a_phase_is_told_when_it_lasts_and_once() {
        let grant = grant();
        let lease = LeaseRef { job: grant.job, attempt: 1, lease_token: grant.lease_token };
        let mut work = Work::staging(Moment::at_ms(0));
        assert_eq!(work.untold(Moment::at_ms(100)), Some(Duration::from_millis(400)));
        work.enter(WorkPhase::Compiling, Moment::at_ms(200));
        assert_eq!(work.untold(Moment::at_ms(200)), Some(TOLD_AFTER));
        assert_eq!(work.untold(Moment::at_ms(900)), Some(Duration::ZERO));
        let note = work.tell(&lease, Moment::at_ms(900)).expect("worth telling");
        assert_eq!((note.phase, note.elapsed_ms), (WorkPhase::Compiling, 700));
        assert_eq!(work.untold(Moment::at_ms(9_000)), None);
        assert!(work.tell(&lease, Moment::at_ms(9_000)).is_some(), "again with every call");
        work.enter(WorkPhase::Running, Moment::at_ms(9_000));
        assert_eq!(work.untold(Moment::at_ms(19_000)), None, "the start said so");
        assert_eq!(work.tell(&lease, Moment::at_ms(19_000)), None);
    }
}
