//! What nodes do for the attempts that are under way, as they tell it. It is kept in memory alone: after
//! a restart nodes tell it again.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use gristmill_lifecycle::{attempt::AttemptPhase, job::JobPhase, record::AttemptKey};
use gristmill_protocol::{JobId, NodeId, Timestamp, WorkPhase, node_api::PhaseNote};

type Told = HashMap<AttemptKey, (WorkPhase, Timestamp)>;

/// What an attempt's node does, and since when if it has said that.
pub(crate) type Work = (Option<WorkPhase>, Option<Timestamp>);

/// What nodes told last, each of all its attempts at once.
#[derive(Debug, Default)]
pub struct Phases {
    nodes: Mutex<HashMap<NodeId, Told>>,
}

impl Phases {
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Told>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what a node does now, in place of what it told before. Returns the jobs for which that
    /// is news. A phase that goes on began when it was first told to have.
    pub(crate) fn note(&self, node: NodeId, notes: &[PhaseNote], now: Timestamp) -> Vec<JobId> {
        let mut all = self.lock();
        let before = all.remove(&node).unwrap_or_default();
        let mut told = Told::with_capacity(notes.len());
        let mut news = Vec::new();
        for note in notes {
            let key = (note.job, note.attempt);
            let began = now.checked_sub(Duration::from_millis(note.elapsed_ms)).unwrap_or(now);
            let known = before.get(&key).filter(|(phase, _)| *phase == note.phase);
            if known.is_none() {
                news.push(note.job);
            }
            told.insert(key, known.copied().unwrap_or((note.phase, began)));
        }
        if !told.is_empty() {
            all.insert(node, told);
        }
        news
    }

    fn told(&self, node: Option<NodeId>, key: AttemptKey) -> Option<(WorkPhase, Timestamp)> {
        self.lock().get(&node?)?.get(&key).copied()
    }

    /// The work on a job's newest attempt.
    pub(crate) fn of_job(&self, phase: JobPhase, node: Option<NodeId>, key: AttemptKey) -> Work {
        match phase {
            JobPhase::Leased => prepared(self.told(node, key)),
            JobPhase::Running | JobPhase::Stopping(_) => run(self.told(node, key)),
            _ => (None, None),
        }
    }

    /// The work on an attempt.
    pub(crate) fn of_attempt(&self, phase: AttemptPhase, node: NodeId, key: AttemptKey) -> Work {
        match phase {
            AttemptPhase::Leased => prepared(self.told(Some(node), key)),
            AttemptPhase::Running => run(self.told(Some(node), key)),
            _ => (None, None),
        }
    }
}

/// What was told may be older than the attempt's start; then the start says more.
fn as_told(told: Option<(WorkPhase, Timestamp)>, fits: &[WorkPhase], otherwise: WorkPhase) -> Work {
    match told.filter(|(phase, _)| fits.contains(phase)) {
        Some((phase, since)) => (Some(phase), Some(since)),
        None => (Some(otherwise), None),
    }
}

fn prepared(told: Option<(WorkPhase, Timestamp)>) -> Work {
    as_told(told, &[WorkPhase::Staging, WorkPhase::Compiling], WorkPhase::Staging)
}

fn run(told: Option<(WorkPhase, Timestamp)>) -> Work {
    as_told(told, &[WorkPhase::Collecting], WorkPhase::Running)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_what_was_told_last_as_long_as_it_fits_the_state() {
        let phases = Phases::default();
        let (node, job) = (NodeId::from_parts(1, [1; 10]), JobId::from_parts(1, [2; 10]));
        let at = |s| Timestamp::from_second(s).expect("in range");
        let told = |phase, elapsed_ms| PhaseNote { job, attempt: 1, phase, elapsed_ms };
        let seen = |phase| phases.of_job(phase, Some(node), (job, 1));
        assert_eq!(seen(JobPhase::Leased), (Some(WorkPhase::Staging), None));
        assert_eq!(seen(JobPhase::Ready), (None, None));

        assert_eq!(phases.note(node, &[told(WorkPhase::Compiling, 2_000)], at(100)), [job]);
        assert_eq!(phases.note(node, &[told(WorkPhase::Compiling, 2_500)], at(200)), [], "no news");
        assert_eq!(seen(JobPhase::Leased), (Some(WorkPhase::Compiling), Some(at(98))));
        assert_eq!(phases.of_job(JobPhase::Leased, Some(node), (job, 2)), (Some(WorkPhase::Staging), None));
        assert_eq!(seen(JobPhase::Running), (Some(WorkPhase::Running), None), "it has started since");

        assert_eq!(phases.note(node, &[told(WorkPhase::Collecting, 0)], at(300)), [job]);
        assert_eq!(seen(JobPhase::Running), (Some(WorkPhase::Collecting), Some(at(300))));
        assert_eq!(seen(JobPhase::Failed), (None, None));
        assert_eq!(phases.note(node, &[], at(400)), []);
        assert!(phases.lock().is_empty(), "nothing is kept of a node that does nothing");
    }
}
