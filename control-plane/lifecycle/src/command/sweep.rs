//! What the server does by itself when time passes. The rows are named by an earlier read; each is
//! checked again here, so that a sweep never acts on what has changed meanwhile.

use gristmill_protocol::{JobId, NodeId, Reason, event::EventKind};

use super::{Command, SWEEP, lose_attempt, take_back};
use crate::{
    job::{InvalidTransition, JobEvent, JobPhase, StopCause},
    record::{AttemptKey, AttemptRecord},
    working_set::{Needs, Tally, WorkingSet},
};

/// Ends leases that ran out.
#[derive(Debug, Clone)]
pub struct ExpireLeases {
    /// Attempts whose lease had run out when they were read.
    pub attempts: Vec<AttemptKey>,
}

impl Command for ExpireLeases {
    type Reply = u64;

    fn needs(&self, _tally: &Tally, needs: &mut Needs) {
        needs.attempts.extend(&self.attempts);
    }

    fn decide(&self, set: &mut WorkingSet<'_>) -> Result<u64, InvalidTransition> {
        let mut ended = 0;
        for key in &self.attempts {
            let over = set
                .attempts
                .get(key)
                .is_some_and(|attempt| attempt.row.phase.is_live() && attempt.row.expires_at <= set.now());
            if over {
                lose_attempt(set, *key, Reason::LeaseExpired, SWEEP)?;
                ended += 1;
            }
        }
        Ok(ended)
    }
}

/// Ends leases of a node whose process is gone for certain: it started anew, or it was revoked.
#[derive(Debug, Clone)]
pub struct EndLeases {
    /// The node.
    pub node: NodeId,
    /// Attempts that were live when they were read.
    pub attempts: Vec<AttemptKey>,
    /// Leases of this start of the node process stay.
    pub incarnation_kept: Option<String>,
    /// Who ends them.
    pub actor: String,
}

impl Command for EndLeases {
    type Reply = u64;

    fn needs(&self, _tally: &Tally, needs: &mut Needs) {
        needs.attempts.extend(&self.attempts);
    }

    fn decide(&self, set: &mut WorkingSet<'_>) -> Result<u64, InvalidTransition> {
        let mut ended = 0;
        for key in &self.attempts {
            let gone = set.attempts.get(key).is_some_and(|attempt| {
                attempt.row.phase.is_live()
                    && attempt.row.node == self.node
                    && self.incarnation_kept.as_ref() != Some(&attempt.row.incarnation)
            });
            if gone {
                lose_attempt(set, *key, Reason::LeaseExpired, &self.actor)?;
                ended += 1;
            }
        }
        Ok(ended)
    }
}

/// What can be due for a job when time passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobDue {
    /// It waits, has not started yet, and its queue timeout passed: it fails.
    QueueTimeout,
    /// It has not ended and its deadline passed: it fails, or is stopped if it runs.
    Deadline,
    /// Its backoff is over: it is ready again.
    Backoff,
}

impl JobDue {
    /// Does what is due for a job, unless it is not due, and returns whether it was.
    fn act(self, set: &mut WorkingSet<'_>, id: JobId) -> Result<bool, InvalidTransition> {
        let now = set.now();
        let Some(job) = set.jobs.get(&id).map(|job| &job.row) else { return Ok(false) };
        let phase = job.phase;
        let has_passed = match self {
            Self::QueueTimeout => {
                phase.is_waiting()
                    && job.started_at.is_none()
                    && job.queue_timeout_at.is_some_and(|at| at <= now)
            }
            Self::Deadline => job.deadline_at.is_some_and(|at| at <= now),
            Self::Backoff => phase == JobPhase::BackingOff && job.not_before.is_none_or(|at| at <= now),
        };
        match self {
            _ if !has_passed => return Ok(false),
            Self::QueueTimeout => {
                set.move_job(id, JobEvent::QueueTimedOut, |job| job.reason = Some(Reason::QueueTimeout))?;
                set.note_job(EventKind::JobFinished, id, SWEEP, Some(Reason::QueueTimeout));
            }
            Self::Deadline => return pass_deadline(set, id, phase),
            Self::Backoff => {
                set.move_job(id, JobEvent::BackoffOver, |job| job.not_before = None)?;
            }
        }
        Ok(true)
    }
}

fn pass_deadline(set: &mut WorkingSet<'_>, id: JobId, phase: JobPhase) -> Result<bool, InvalidTransition> {
    let reason = Some(Reason::DeadlineExceeded);
    match phase {
        JobPhase::Ready | JobPhase::BackingOff | JobPhase::Leased => {
            if let Some(key) = set.live_attempt(id).map(AttemptRecord::key) {
                take_back(set, key, StopCause::Deadline, SWEEP)?;
            }
            set.move_job(id, JobEvent::DeadlinePassed, |job| job.reason = reason)?;
            set.note_job(EventKind::JobFinished, id, SWEEP, reason);
        }
        JobPhase::Running => {
            set.move_job(id, JobEvent::DeadlinePassed, |job| job.reason = reason)?;
            if let Some(node) = set.live_attempt(id).map(|attempt| attempt.node) {
                set.nodes_woken.insert(node);
            }
        }
        JobPhase::Stopping(_) | JobPhase::Succeeded | JobPhase::Failed | JobPhase::Cancelled => {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Does what is due for jobs; the answer is for how many it was.
#[derive(Debug, Clone)]
pub struct SweepJobs {
    /// What is due.
    pub due: JobDue,
    /// Jobs for which it was due when they were read.
    pub jobs: Vec<JobId>,
}

impl Command for SweepJobs {
    type Reply = u64;

    fn needs(&self, _tally: &Tally, needs: &mut Needs) {
        needs.jobs.extend(&self.jobs);
    }

    fn decide(&self, set: &mut WorkingSet<'_>) -> Result<u64, InvalidTransition> {
        let mut swept = 0;
        for id in &self.jobs {
            swept += u64::from(self.due.act(set, *id)?);
        }
        Ok(swept)
    }
}
