//! Judges the event log: every event must be allowed after those before it, and the log replayed
//! must give the tables. The numbers I1 to I18 are those of the promises.

use std::collections::{BTreeMap, BTreeSet};

use gristmill_lifecycle::{
    record::{AttemptRecord, JobRecord},
    retry::is_infrastructure,
};
use gristmill_protocol::{
    AttemptState, JobId, JobState, Reason, Timestamp,
    event::{EventKind, EventView},
};
use gristmill_server::store::{Store, job::JobQuery};

use crate::commands::events_after;

/// A broken promise, for people.
pub(crate) type Violation = String;

macro_rules! demand {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}

pub(crate) use demand;

#[derive(Debug, Clone, PartialEq, Eq)]
struct AttemptTrace {
    fence: u64,
    state: AttemptState,
    reason: Option<Reason>,
}

#[derive(Debug, Clone)]
struct JobTrace {
    state: JobState,
    attempts: Vec<AttemptTrace>,
    is_cancel_asked: bool,
    /// Attempts that were followed by another one because infrastructure lost them.
    infrastructure_losses: u32,
    /// Attempts that were followed by another one because the guest asked for it.
    guest_retries: u32,
}

impl JobTrace {
    fn live(&mut self) -> Option<&mut AttemptTrace> {
        self.attempts.last_mut().filter(|attempt| attempt.state.is_live())
    }
}

/// The log so far, replayed.
#[derive(Debug, Default)]
pub(crate) struct History {
    jobs: BTreeMap<JobId, JobTrace>,
    seq: u64,
    at: Option<Timestamp>,
}

impl History {
    /// Reads what the log has gained and judges it. Returns the new events.
    pub(crate) async fn follow(&mut self, store: &dyn Store) -> Result<Vec<EventView>, Violation> {
        let mut gained = Vec::new();
        loop {
            let page = store.event_list(events_after(self.seq, 1_000)).await;
            let events = page.map_err(|error| error.to_string())?.events;
            if events.is_empty() {
                return Ok(gained);
            }
            for event in &events {
                self.take(event).map_err(|why| format!("{why}: {event:?}"))?;
            }
            gained.extend(events);
        }
    }

    /// Number of jobs that were ever accepted.
    pub(crate) fn job_count(&self) -> usize {
        self.jobs.len()
    }

    fn take(&mut self, event: &EventView) -> Result<(), Violation> {
        demand!(event.id > self.seq, "I18: the log is out of order");
        demand!(self.at.is_none_or(|at| at <= event.at), "I16: time went backwards");
        demand!(!event.actor.is_empty(), "I18: an event without an actor");
        self.seq = event.id;
        self.at = Some(event.at);
        if event.kind == EventKind::JobSubmitted {
            demand!(event.state == "queued", "I18: a new job is not queued");
            let job = JobTrace {
                state: JobState::Queued,
                attempts: Vec::new(),
                is_cancel_asked: false,
                infrastructure_losses: 0,
                guest_retries: 0,
            };
            demand!(self.jobs.insert(event.job, job).is_none(), "I1: a job was accepted twice");
            return Ok(());
        }
        let Some(job) = self.jobs.get_mut(&event.job) else {
            return Err("I18: an event about a job that was never accepted".into());
        };
        if event.kind == EventKind::JobRetried {
            demand!(job.state.is_terminal(), "I18: a job was retried before its end");
            return Ok(());
        }
        demand!(!job.state.is_terminal(), "I2: something happened to a job after its end");
        match event.kind {
            EventKind::AttemptLeased => lease(job, event),
            EventKind::AttemptStarted | EventKind::AttemptEnded => attempt(job, event),
            EventKind::JobRequeued => requeue(job, event),
            EventKind::JobCancelRequested => {
                job.is_cancel_asked = true;
                Ok(())
            }
            EventKind::JobFinished => finish(job, event),
            other => Err(format!("I18: an unknown kind of event {other}")),
        }
    }

    /// The tables must be what the log says, and consistent in themselves.
    pub(crate) fn verify(
        &self,
        jobs: &[JobRecord],
        attempts: &BTreeMap<JobId, Vec<AttemptRecord>>,
        infrastructure_retries_max: u32,
    ) -> Result<(), Violation> {
        let known: BTreeSet<_> = self.jobs.keys().copied().collect();
        let kept: BTreeSet<_> = jobs.iter().map(|job| job.id).collect();
        demand!(known == kept, "I1: the table and the log know different jobs: {known:?} {kept:?}");
        demand!(kept.len() == jobs.len(), "I1: a job is in the table twice");
        for job in jobs {
            let rows = attempts.get(&job.id).map(Vec::as_slice).unwrap_or_default();
            let trace = &self.jobs[&job.id];
            verify_job(job, rows, trace).map_err(|why| format!("{why}: {job:?} {rows:?} {trace:?}"))?;
            verify_budget(job, trace, infrastructure_retries_max)
                .map_err(|why| format!("{why}: {job:?} {trace:?}"))?;
        }
        Ok(())
    }
}

fn lease(job: &mut JobTrace, event: &EventView) -> Result<(), Violation> {
    demand!(job.live().is_none(), "I4: a second lease while one is live");
    demand!(!job.is_cancel_asked, "I9: a cancelled job was leased");
    demand!(event.node.is_some(), "I18: a lease without a node");
    let Some(fence) = event.fence else { return Err("I18: a lease without a fence".into()) };
    let number = job.attempts.len() as u32 + 1;
    demand!(event.attempt == Some(number), "I10: attempts are not counted one by one");
    demand!(job.attempts.last().is_none_or(|last| last.fence < fence), "I5: the fence did not rise");
    demand!(event.state == AttemptState::Leased.as_str(), "I18: a new attempt is not leased");
    job.attempts.push(AttemptTrace { fence, state: AttemptState::Leased, reason: None });
    Ok(())
}

fn attempt(job: &mut JobTrace, event: &EventView) -> Result<(), Violation> {
    let (number, is_cancel_asked) = (job.attempts.len() as u32, job.is_cancel_asked);
    let Some(live) = job.live() else { return Err("I6: an attempt that is over changed".into()) };
    demand!(event.attempt == Some(number), "I6: an old attempt changed");
    demand!(event.fence == Some(live.fence), "I6: an attempt changed under another fence");
    let state: AttemptState = event.state.parse().map_err(|error| format!("I18: {error}"))?;
    if event.kind == EventKind::AttemptStarted {
        demand!(live.state == AttemptState::Leased, "I2: an attempt started twice");
        demand!(state == AttemptState::Running, "I18: a started attempt does not run");
        live.state = state;
        job.state = JobState::Running;
        return Ok(());
    }
    demand!(!state.is_live(), "I18: an ended attempt is live");
    demand!(
        state != AttemptState::Released || live.state == AttemptState::Leased,
        "I10: an attempt was released after its start"
    );
    demand!(state != AttemptState::Succeeded || !is_cancel_asked, "I9: success after a cancel");
    demand!(
        state == AttemptState::Succeeded || event.reason.is_some(),
        "I18: an attempt ended without a reason"
    );
    live.state = state;
    live.reason = event.reason;
    Ok(())
}

fn requeue(job: &mut JobTrace, event: &EventView) -> Result<(), Violation> {
    demand!(job.live().is_none(), "I4: a job went back to the queue under a live lease");
    demand!(!job.is_cancel_asked, "I9: a cancelled job went back to the queue");
    let Some(reason) = event.reason else { return Err("I18: requeued without a reason".into()) };
    let is_released = job.attempts.last().is_some_and(|last| last.state == AttemptState::Released);
    match (is_released, is_infrastructure(reason)) {
        (true, _) => {}
        (false, true) => job.infrastructure_losses += 1,
        (false, false) => job.guest_retries += 1,
    }
    job.state = JobState::Queued;
    Ok(())
}

fn finish(job: &mut JobTrace, event: &EventView) -> Result<(), Violation> {
    demand!(job.live().is_none(), "I4: a job ended under a live lease");
    let state: JobState = event.state.parse().map_err(|error| format!("I18: {error}"))?;
    demand!(state.is_terminal(), "I2: a finished job is not in a final state");
    let last = job.attempts.last().map(|attempt| attempt.state);
    let accepted = job.attempts.iter().filter(|attempt| attempt.state == AttemptState::Succeeded).count();
    demand!(
        (state == JobState::Succeeded) == (last == Some(AttemptState::Succeeded)),
        "I3: the job's end and its last attempt's end disagree"
    );
    demand!(accepted == usize::from(state == JobState::Succeeded), "I3: more than one accepted result");
    demand!(!job.is_cancel_asked || state == JobState::Cancelled, "I9: a cancelled job ended as {state}");
    demand!(state == JobState::Succeeded || event.reason.is_some(), "I18: ended without a reason");
    job.state = state;
    Ok(())
}

fn verify_job(job: &JobRecord, rows: &[AttemptRecord], trace: &JobTrace) -> Result<(), Violation> {
    demand!(job.phase.state() == trace.state, "I18: the log says {}", trace.state);
    demand!(job.cancel_requested_at.is_some() == trace.is_cancel_asked, "I18: the log differs on the cancel");
    let kept: Vec<_> = rows
        .iter()
        .map(|row| AttemptTrace { fence: row.fence, state: row.phase.state(), reason: row.reason })
        .collect();
    demand!(kept == trace.attempts, "I18: the log says other attempts");
    demand!(job.attempt as usize == rows.len(), "I10: the job counts other attempts than it has");
    for pair in rows.windows(2) {
        demand!(pair[0].ended_at.is_some_and(|end| end <= pair[1].leased_at), "I4: leases overlap");
    }
    let live = rows.iter().filter(|row| row.phase.is_live()).count();
    demand!(live == usize::from(job.phase.is_leased()), "I4: {live} live leases in phase {}", job.phase);
    demand!(job.phase.is_terminal() == job.finished_at.is_some(), "I2: the end has no time");
    Ok(())
}

/// Attempts are bounded: by the job's retries, and by the promise about lost ones.
fn verify_budget(job: &JobRecord, trace: &JobTrace, infrastructure_max: u32) -> Result<(), Violation> {
    let ended = |infrastructure: bool| {
        trace
            .attempts
            .iter()
            .filter(|attempt| !attempt.state.is_live() && attempt.state != AttemptState::Released)
            .filter(|attempt| attempt.reason.is_some_and(is_infrastructure) == infrastructure)
            .count() as u32
    };
    let counted = (job.infrastructure_losses, job.guest_retries);
    let traced = (trace.infrastructure_losses, trace.guest_retries);
    demand!(counted == traced, "I10: the job counts {counted:?} retries, the log {traced:?}");
    demand!(
        job.reason != Some(Reason::AttemptsExhausted) || traced.0 == infrastructure_max,
        "I10: a job was given up after {} lost attempts",
        traced.0
    );
    demand!(ended(false) <= job.retries + 1, "I10: more attempts than the job allows");
    demand!(ended(true) <= infrastructure_max + 1, "I10: more lost attempts than allowed");
    Ok(())
}

/// All jobs of some tenants with their attempts.
pub(crate) async fn tables(
    store: &dyn Store,
    tenants: &[&str],
) -> (Vec<JobRecord>, BTreeMap<JobId, Vec<AttemptRecord>>) {
    let mut jobs = Vec::new();
    let mut attempts = BTreeMap::new();
    for tenant in tenants {
        let query = JobQuery { tenant: Some((*tenant).to_owned()), limit: 100_000, ..JobQuery::default() };
        jobs.extend(store.job_list(query).await.expect("jobs can be listed"));
    }
    for job in &jobs {
        attempts.insert(job.id, store.attempt_list(job.id).await.expect("attempts can be listed"));
    }
    (jobs, attempts)
}

/// Judges a store whose only tenant is the test's.
pub(crate) async fn judge(store: &dyn Store) {
    let mut history = History::default();
    history.follow(store).await.expect("the log keeps the promises");
    let (jobs, attempts) = tables(store, &[crate::commands::TENANT]).await;
    let max = gristmill_lifecycle::Settings::default().infrastructure_retries_max;
    history.verify(&jobs, &attempts, max).expect("the tables are what the log says");
}
