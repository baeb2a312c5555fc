//! A user cancels a job.

use gristmill_protocol::{JobId, Reason, event::EventKind};

use super::{Command, take_back};
use crate::{
    job::{InvalidTransition, JobEvent, JobPhase, StopCause},
    record::JobRecord,
    working_set::{Needs, Tally, WorkingSet},
};

/// Cancels a job. A job that waits, or whose lease has not started, ends at once. A running one is
/// told to stop and ends when its node reports or its lease ends; it cannot succeed any more.
#[derive(Debug, Clone)]
pub struct CancelJob {
    /// The job.
    pub id: JobId,
    /// The token that cancels it.
    pub actor: String,
    /// The version that the job must have for this, if it matters.
    pub if_version: Option<u64>,
}

/// What became of a cancel.
#[derive(Debug, Clone, PartialEq)]
pub enum CancelReply {
    /// There is no such job.
    NotFound,
    /// The job has this other version; nothing was changed.
    Stale(u64),
    /// The job as it is now: cancelled, stopping, or ended before.
    Job(Box<JobRecord>),
}

impl Command for CancelJob {
    type Reply = CancelReply;

    fn needs(&self, _tally: &Tally, needs: &mut Needs) {
        needs.jobs.insert(self.id);
    }

    fn decide(&self, set: &mut WorkingSet<'_>) -> Result<CancelReply, InvalidTransition> {
        let Some((phase, version)) = set.jobs.get(&self.id).map(|job| (job.row.phase, job.row.version))
        else {
            return Ok(CancelReply::NotFound);
        };
        if self.if_version.is_some_and(|expected| expected != version) {
            return Ok(CancelReply::Stale(version));
        }
        let now = set.now();
        match phase {
            JobPhase::Ready | JobPhase::BackingOff | JobPhase::Leased => {
                if let Some(key) = set.live_attempt(self.id).map(crate::record::AttemptRecord::key) {
                    take_back(set, key, StopCause::Cancel, &self.actor)?;
                }
                set.move_job(self.id, JobEvent::CancelAsked, |job| {
                    job.cancel_requested_at = Some(now);
                    job.reason = Some(Reason::CancelledByUser);
                })?;
                set.note_job(EventKind::JobCancelRequested, self.id, &self.actor, None);
                set.note_job(EventKind::JobFinished, self.id, &self.actor, Some(Reason::CancelledByUser));
            }
            JobPhase::Running | JobPhase::Stopping(StopCause::Deadline) => {
                set.move_job(self.id, JobEvent::CancelAsked, |job| {
                    job.cancel_requested_at = Some(now);
                    job.reason = Some(Reason::CancelledByUser);
                })?;
                set.note_job(EventKind::JobCancelRequested, self.id, &self.actor, None);
                if let Some(node) = set.live_attempt(self.id).map(|attempt| attempt.node) {
                    set.nodes_woken.insert(node);
                }
            }
            JobPhase::Stopping(StopCause::Cancel)
            | JobPhase::Succeeded
            | JobPhase::Failed
            | JobPhase::Cancelled => {}
        }
        Ok(match set.jobs.get(&self.id) {
            Some(job) => CancelReply::Job(Box::new(job.row.clone())),
            None => CancelReply::NotFound,
        })
    }
}

/// Cancels jobs, each as [`CancelJob`] does, all in one commit. The answer is the jobs that it
/// changed, with their versions afterwards.
#[derive(Debug, Clone)]
pub struct CancelJobs {
    /// The jobs.
    pub ids: Vec<JobId>,
    /// The token that cancels them.
    pub actor: String,
}

impl Command for CancelJobs {
    type Reply = Vec<(JobId, u64)>;

    fn needs(&self, _tally: &Tally, needs: &mut Needs) {
        needs.jobs.extend(&self.ids);
    }

    fn decide(&self, set: &mut WorkingSet<'_>) -> Result<Vec<(JobId, u64)>, InvalidTransition> {
        let mut changed = Vec::new();
        for &id in &self.ids {
            let before = set.jobs.get(&id).map(|job| job.row.phase);
            CancelJob { id, actor: self.actor.clone(), if_version: None }.decide(set)?;
            let after = set.jobs.get(&id).filter(|job| Some(job.row.phase) != before);
            changed.extend(after.map(|job| (id, job.row.version)));
        }
        Ok(changed)
    }
}
