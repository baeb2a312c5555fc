//! A node reports starts, ends and releases.

use gristmill_protocol::{
    Digest, NodeId, Outcome, Reason,
    event::EventKind,
    job::OutputEntry,
    node_api::{LeaseRef, UpdateVerdict},
    reason::OutcomeState,
};

use super::{Command, LogPiece, append_piece, conclude, held, lose_attempt, start_attempt, was_reported};
use crate::{
    attempt::{AttemptEvent, AttemptPhase},
    job::{InvalidTransition, JobEvent, JobPhase, StopCause},
    record::{AttemptKey, OutputRecord},
    working_set::{Needs, Tally, WorkingSet},
};

/// Applies a batch of updates, in order.
#[derive(Debug, Clone)]
pub struct ApplyUpdates {
    /// The node, by its credential.
    pub node: NodeId,
    /// The updates.
    pub updates: Vec<Update>,
}

/// What happened to one attempt.
#[derive(Debug, Clone)]
pub struct Update {
    /// The lease that authorises it.
    pub lease: LeaseRef,
    /// What happened.
    pub change: UpdateChange,
}

/// What happened to an attempt.
#[derive(Debug, Clone)]
pub enum UpdateChange {
    /// It started.
    Started,
    /// It was given back.
    Released,
    /// It ended.
    Finished(Box<Finish>),
    /// What the node sent cannot be applied, now or later.
    Malformed,
}

/// How an attempt ended. Outputs are checked before: the attempt stored each, or the tenant owns it.
#[derive(Debug, Clone)]
pub struct Finish {
    /// SHA-256 of the report.
    pub report: Digest,
    /// How it ended.
    pub outcome: Outcome,
    /// Its outputs.
    pub outputs: Vec<OutputEntry>,
    /// The end of its log.
    pub log: Vec<LogPiece>,
    /// Whether a stream was cut at the log limit.
    pub log_truncated: bool,
}

impl ApplyUpdates {
    fn started(
        &self,
        set: &mut WorkingSet<'_>,
        lease: &LeaseRef,
    ) -> Result<UpdateVerdict, InvalidTransition> {
        let key = (lease.job, lease.attempt);
        let Some(attempt) = held(set, self.node, key, &lease.lease_token) else {
            return Ok(UpdateVerdict::LeaseLost);
        };
        match attempt.phase {
            AttemptPhase::Leased => {
                start_attempt(set, key, &self.node.to_string())?;
                Ok(UpdateVerdict::Accepted)
            }
            AttemptPhase::Running => Ok(match set.jobs.get(&lease.job).map(|job| job.row.phase) {
                Some(JobPhase::Stopping(_)) => UpdateVerdict::Cancelled,
                _ => UpdateVerdict::Accepted,
            }),
            // A repeated batch: the start was recorded before the end that follows it.
            _ if was_reported(attempt) => Ok(UpdateVerdict::Accepted),
            _ => Ok(UpdateVerdict::LeaseLost),
        }
    }

    fn released(
        &self,
        set: &mut WorkingSet<'_>,
        lease: &LeaseRef,
    ) -> Result<UpdateVerdict, InvalidTransition> {
        let key = (lease.job, lease.attempt);
        let Some(phase) = held(set, self.node, key, &lease.lease_token).map(|attempt| attempt.phase) else {
            return Ok(UpdateVerdict::LeaseLost);
        };
        let actor = self.node.to_string();
        match phase {
            AttemptPhase::Leased => {
                set.move_attempt(key, AttemptEvent::Released, |row| row.reason = Some(Reason::NodeDrained))?;
                set.note_attempt(EventKind::AttemptEnded, key, &actor, Some(Reason::NodeDrained));
                set.move_job(lease.job, JobEvent::Released, |_| {})?;
                set.note_job(EventKind::JobRequeued, lease.job, &actor, Some(Reason::NodeDrained));
                Ok(UpdateVerdict::Accepted)
            }
            AttemptPhase::Running => {
                lose_attempt(set, key, Reason::NodeDrained, &actor)?;
                Ok(UpdateVerdict::Accepted)
            }
            AttemptPhase::Released => Ok(UpdateVerdict::Accepted),
            _ => Ok(UpdateVerdict::LeaseLost),
        }
    }

    fn finished(
        &self,
        set: &mut WorkingSet<'_>,
        lease: &LeaseRef,
        finish: &Finish,
    ) -> Result<UpdateVerdict, InvalidTransition> {
        let key = (lease.job, lease.attempt);
        let Some(attempt) = held(set, self.node, key, &lease.lease_token) else {
            return Ok(UpdateVerdict::LeaseLost);
        };
        if !attempt.phase.is_live() {
            return Ok(if attempt.report == Some(finish.report) {
                UpdateVerdict::Accepted
            } else {
                UpdateVerdict::LeaseLost
            });
        }
        let actor = self.node.to_string();
        if attempt.phase == AttemptPhase::Leased {
            start_attempt(set, key, &actor)?;
        }
        for piece in &finish.log {
            append_piece(set, key, piece);
        }
        set.change_attempt(key, |row| {
            row.report = Some(finish.report);
            row.usage = Some(finish.outcome.usage.clone());
            row.exit_code = finish.outcome.exit_code;
            row.trap_kind = finish.outcome.trap_kind;
            row.message.clone_from(&finish.outcome.message);
            row.log_truncated = finish.log_truncated;
        });
        match set.jobs.get(&lease.job).map(|job| job.row.phase) {
            Some(JobPhase::Stopping(cause)) => stop(set, key, cause, finish, &actor)?,
            _ if finish.outcome.state == OutcomeState::Succeeded => succeed(set, key, finish, &actor)?,
            _ => fail(set, key, finish, &actor)?,
        }
        Ok(UpdateVerdict::Accepted)
    }
}

/// The guest of a job that has to stop has stopped, however it ended.
fn stop(
    set: &mut WorkingSet<'_>,
    key: AttemptKey,
    cause: StopCause,
    finish: &Finish,
    actor: &str,
) -> Result<(), InvalidTransition> {
    let (event, reason) = match cause {
        StopCause::Cancel => (AttemptEvent::Cancelled, Reason::CancelledByUser),
        StopCause::Deadline => (AttemptEvent::TimedOut, Reason::DeadlineExceeded),
    };
    set.move_attempt(key, event, |row| row.reason = Some(reason))?;
    set.note_attempt(EventKind::AttemptEnded, key, actor, Some(reason));
    set.move_job(key.0, JobEvent::AttemptFailed, |job| {
        job.reason = Some(reason);
        job.usage = Some(finish.outcome.usage.clone());
    })?;
    set.note_job(EventKind::JobFinished, key.0, actor, Some(reason));
    Ok(())
}

fn succeed(
    set: &mut WorkingSet<'_>,
    key: AttemptKey,
    finish: &Finish,
    actor: &str,
) -> Result<(), InvalidTransition> {
    set.move_attempt(key, AttemptEvent::Succeeded, |_| {})?;
    set.note_attempt(EventKind::AttemptEnded, key, actor, None);
    set.move_job(key.0, JobEvent::AttemptSucceeded, |job| {
        job.reason = None;
        job.trap_kind = None;
        job.message.clone_from(&finish.outcome.message);
        job.exit_code = finish.outcome.exit_code;
        job.usage = Some(finish.outcome.usage.clone());
        job.output_count = finish.outputs.len() as u64;
        job.output_bytes = finish.outputs.iter().map(|output| output.size).sum();
    })?;
    set.note_job(EventKind::JobFinished, key.0, actor, None);
    let tenant = set.jobs.get(&key.0).map(|job| job.row.tenant.clone()).unwrap_or_default();
    for output in &finish.outputs {
        set.blobs.push((tenant.clone(), output.digest, output.size));
        set.outputs.push(OutputRecord {
            job: key.0,
            tenant: tenant.clone(),
            path: output.path.clone(),
            digest: output.digest,
            size: output.size,
        });
    }
    Ok(())
}

fn fail(
    set: &mut WorkingSet<'_>,
    key: AttemptKey,
    finish: &Finish,
    actor: &str,
) -> Result<(), InvalidTransition> {
    let outcome = &finish.outcome;
    // Nobody asked this attempt to stop: a node that says so has given it up by itself.
    let given_up = outcome.state == OutcomeState::Cancelled;
    let reason =
        if given_up { Reason::NodeDrained } else { outcome.reason.unwrap_or(Reason::ExecutorCrashed) };
    let event = match outcome.state {
        OutcomeState::TimedOut => AttemptEvent::TimedOut,
        OutcomeState::Cancelled => AttemptEvent::Lost,
        _ => AttemptEvent::Failed,
    };
    set.move_attempt(key, event, |row| row.reason = Some(reason))?;
    set.note_attempt(EventKind::AttemptEnded, key, actor, Some(reason));
    if let Some(job) = set.jobs.get_mut(&key.0) {
        job.row.usage = Some(outcome.usage.clone());
        job.row.exit_code = outcome.exit_code;
        job.row.trap_kind = outcome.trap_kind;
        job.row.message.clone_from(&outcome.message);
    }
    conclude(set, key, reason, actor)
}

impl Command for ApplyUpdates {
    type Reply = Vec<UpdateVerdict>;

    fn needs(&self, _tally: &Tally, needs: &mut Needs) {
        needs.attempts.extend(self.updates.iter().map(|update| (update.lease.job, update.lease.attempt)));
    }

    fn decide(&self, set: &mut WorkingSet<'_>) -> Result<Vec<UpdateVerdict>, InvalidTransition> {
        self.updates
            .iter()
            .map(|update| match &update.change {
                UpdateChange::Started => self.started(set, &update.lease),
                UpdateChange::Released => self.released(set, &update.lease),
                UpdateChange::Finished(finish) => self.finished(set, &update.lease, finish),
                UpdateChange::Malformed => Ok(UpdateVerdict::Rejected),
            })
            .collect()
    }
}
