//! What can be asked of jobs and leases. Each command says which rows it must see and then decides
//! over them; it never fails for a lost race, which is an answer like any other.

mod acquire;
mod cancel;
mod log;
mod renew;
mod submit;
mod sweep;
mod update;

pub use acquire::{AcquireLeases, LeaseGranted};
pub use cancel::{CancelJob, CancelJobs, CancelReply};
pub use log::{AppendLog, AppendReply, LogPiece};
pub use renew::RenewLeases;
pub use submit::{SubmitJob, SubmitJobs, SubmitKey, SubmitReply};
pub use sweep::{EndLeases, ExpireLeases, JobDue, SweepJobs};
pub use update::{ApplyUpdates, Finish, Update, UpdateChange};

use gristmill_protocol::{LeaseToken, NodeId, Reason, attempt::LogStream, event::EventKind};

use crate::{
    attempt::{AttemptEvent, AttemptPhase},
    job::{InvalidTransition, JobEvent, JobPhase, StopCause},
    record::{AttemptKey, AttemptRecord, LogRecord},
    retry::{Followup, RetryBudget, follow_up},
    working_set::{Needs, Tally, WorkingSet},
};

/// The actor of everything that the server does by itself.
pub const SWEEP: &str = "sweep";

/// One thing asked of jobs and leases.
pub trait Command: Send + Sync + 'static {
    /// The answer.
    type Reply: Send + Sync + 'static;

    /// Adds the rows that the command must see.
    fn needs(&self, tally: &Tally, needs: &mut Needs);

    /// Decides and changes the rows. An error is a broken rule of this program: nothing of the batch
    /// may then be written. It can be called again on a fresh set.
    fn decide(&self, set: &mut WorkingSet<'_>) -> Result<Self::Reply, InvalidTransition>;
}

/// The lease that a node names, if the node holds it or held it.
fn held<'s>(
    set: &'s WorkingSet<'_>,
    node: NodeId,
    key: AttemptKey,
    token: &LeaseToken,
) -> Option<&'s AttemptRecord> {
    set.attempts
        .get(&key)
        .map(|attempt| &attempt.row)
        .filter(|row| row.node == node && constant_time_eq(row.token.as_str(), token.as_str()))
}

/// Compares without telling by its duration where the texts differ.
fn constant_time_eq(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |diff, (x, y)| diff | (x ^ y)) == 0
}

/// Ends a job's live attempt without a report: the lease ran out or the node gave it up. The job is
/// stopped, tried again, or out of tries.
fn lose_attempt(
    set: &mut WorkingSet<'_>,
    key: AttemptKey,
    reason: Reason,
    actor: &str,
) -> Result<(), InvalidTransition> {
    let stopping = match set.jobs.get(&key.0).map(|job| job.row.phase) {
        Some(JobPhase::Stopping(cause)) => Some(cause),
        _ => None,
    };
    let event = match stopping {
        Some(StopCause::Cancel) => AttemptEvent::Cancelled,
        Some(StopCause::Deadline) => AttemptEvent::TimedOut,
        None => AttemptEvent::Lost,
    };
    set.move_attempt(key, event, |attempt| attempt.reason = Some(reason))?;
    set.note_attempt(EventKind::AttemptEnded, key, actor, Some(reason));
    if let Some(attempt) = set.attempts.get(&key) {
        let node = attempt.row.node;
        set.nodes_woken.insert(node);
    }
    conclude(set, key, reason, actor)
}

/// What becomes of the job after its attempt ended without success.
fn conclude(
    set: &mut WorkingSet<'_>,
    key: AttemptKey,
    reason: Reason,
    actor: &str,
) -> Result<(), InvalidTransition> {
    let Some(job) = set.jobs.get(&key.0).map(|job| job.row.clone()) else { return Ok(()) };
    if let JobPhase::Stopping(cause) = job.phase {
        let reason = match cause {
            StopCause::Cancel => Reason::CancelledByUser,
            StopCause::Deadline => Reason::DeadlineExceeded,
        };
        set.move_job(key.0, JobEvent::AttemptFailed, |row| row.reason = Some(reason))?;
        set.note_job(EventKind::JobFinished, key.0, actor, Some(reason));
        return Ok(());
    }
    let random = u64::from_le_bytes(set.random());
    let budget = RetryBudget {
        retries: job.retries,
        retry_on: &job.retry_on,
        guest_retries: job.guest_retries,
        infrastructure_losses: job.infrastructure_losses,
    };
    let (guest, infrastructure, wait) = match follow_up(reason, budget, set.settings(), random) {
        Followup::End(reason) => {
            set.move_job(key.0, JobEvent::AttemptFailed, |row| row.reason = Some(reason))?;
            set.note_job(EventKind::JobFinished, key.0, actor, Some(reason));
            return Ok(());
        }
        Followup::RetryGuest(wait) => (1, 0, wait),
        Followup::RetryInfrastructure(wait) => (0, 1, wait),
    };
    let not_before = set.after(wait);
    set.move_job(key.0, JobEvent::AttemptRetried, |row| {
        row.reason = Some(reason);
        row.guest_retries += guest;
        row.infrastructure_losses += infrastructure;
        row.not_before = Some(not_before);
    })?;
    set.note_job(EventKind::JobRequeued, key.0, actor, Some(reason));
    Ok(())
}

/// Takes a lease back from its node before the attempt has started, because the job ends.
fn take_back(
    set: &mut WorkingSet<'_>,
    key: AttemptKey,
    cause: StopCause,
    actor: &str,
) -> Result<(), InvalidTransition> {
    let (event, reason) = match cause {
        StopCause::Cancel => (AttemptEvent::Cancelled, Reason::CancelledByUser),
        StopCause::Deadline => (AttemptEvent::TimedOut, Reason::DeadlineExceeded),
    };
    set.move_attempt(key, event, |attempt| attempt.reason = Some(reason))?;
    set.note_attempt(EventKind::AttemptEnded, key, actor, Some(reason));
    if let Some(attempt) = set.attempts.get(&key) {
        let node = attempt.row.node;
        set.nodes_woken.insert(node);
    }
    Ok(())
}

/// Marks a leased attempt and its job as started.
fn start_attempt(set: &mut WorkingSet<'_>, key: AttemptKey, actor: &str) -> Result<(), InvalidTransition> {
    let now = set.now();
    set.move_attempt(key, AttemptEvent::Started, |attempt| attempt.started_at = Some(now))?;
    set.move_job(key.0, JobEvent::Started, |job| {
        job.started_at = job.started_at.or(Some(now));
        job.reason = None;
        job.trap_kind = None;
        job.message = None;
        job.exit_code = None;
    })?;
    set.note_attempt(EventKind::AttemptStarted, key, actor, None);
    Ok(())
}

/// Adds a piece to a stream if it continues what is there; a repeated piece changes nothing.
fn append_piece(set: &mut WorkingSet<'_>, key: AttemptKey, piece: &LogPiece) -> AppendReply {
    let Some(row) = set.attempts.get(&key).map(|attempt| &attempt.row) else {
        return AppendReply::LeaseLost;
    };
    let (fence, stored) = (row.fence, row.stream_bytes(piece.stream));
    let position = row.stdout_bytes + row.stderr_bytes;
    let end = piece.offset.saturating_add(piece.len());
    if piece.offset > stored {
        return AppendReply::Gap { stored };
    }
    if end <= stored {
        return AppendReply::Appended { stored };
    }
    let skip = stored - piece.offset;
    set.logs.push(LogRecord {
        job: key.0,
        attempt: key.1,
        fence,
        stream: piece.stream,
        offset: stored,
        position,
        len: end - stored,
        elapsed_us: piece.elapsed_us,
        body: piece.body_after(skip),
    });
    set.change_attempt(key, |row| {
        if piece.stream == LogStream::Stderr { row.stderr_bytes = end } else { row.stdout_bytes = end }
    });
    AppendReply::Appended { stored: end }
}

/// Whether the attempt is over and ended by a report of its node.
fn was_reported(attempt: &AttemptRecord) -> bool {
    attempt.phase != AttemptPhase::Released && !attempt.phase.is_live() && attempt.report.is_some()
}
