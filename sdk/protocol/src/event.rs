//! The append-only record of every transition.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{JobId, NodeId, Reason, Timestamp, reason::closed_list};

closed_list! {
    /// What happened to a job.
    EventKind {
        /// A job was accepted.
        JobSubmitted = "job_submitted",
        /// A node got the lease of an attempt.
        AttemptLeased = "attempt_leased",
        /// An attempt started.
        AttemptStarted = "attempt_started",
        /// An attempt ended, by report, release or expiry.
        AttemptEnded = "attempt_ended",
        /// The job went back to the queue.
        JobRequeued = "job_requeued",
        /// Somebody asked to cancel the job.
        JobCancelRequested = "job_cancel_requested",
        /// The job reached its terminal state.
        JobFinished = "job_finished",
        /// Somebody asked to run a finished job again, as a new job.
        JobRetried = "job_retried",
    }
}

/// One transition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventView {
    /// Rises with every event of this server; events become readable in its order.
    pub id: u64,
    /// When it happened, by the server's clock.
    pub at: Timestamp,
    /// What happened.
    pub kind: EventKind,
    /// Who the job belongs to.
    pub tenant: String,
    /// The job.
    pub job: JobId,
    /// The attempt's number, when it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The attempt's fence, when it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<u64>,
    /// The node, when it is about an attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// The zone of the attempt, or of the job's newest attempt; absent before the first lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Who caused it: a token id, a node id, or `sweep`.
    pub actor: String,
    /// State before it, of the attempt or the job; absent for what is new or did not change its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// State after it, of the attempt or the job.
    pub state: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// Which events to read: filters of `GET /v1/events`; all given ones must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventFilter {
    /// Only events of this job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// Only events of jobs that named this module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// Only events of jobs with this label, as `key:value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Only events that name this zone; those of a job before its first lease name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Only events of these kinds, separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Only events after which the job or attempt is in one of these states, separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// The answer of `GET /v1/events` to a client that does not ask for a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventsView {
    /// Events, oldest first.
    pub events: Vec<EventView>,
    /// Where to go on: pass it as `after`.
    pub next: u64,
}
