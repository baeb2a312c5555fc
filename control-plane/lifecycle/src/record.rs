//! The rows that the rules work on, as plain data.

use std::sync::Arc;

use gristmill_protocol::{
    Digest, JobId, LeaseToken, NodeId, Reason, Timestamp, TrapKind, Usage, attempt::LogStream,
    event::EventKind,
};

use crate::{attempt::AttemptPhase, job::JobPhase};

/// Number of a placement class in its store.
pub type ClassId = i64;

/// Number of an attempt of a job: the key of one lease.
pub type AttemptKey = (JobId, u32);

/// A job as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRecord {
    /// The job.
    pub id: JobId,
    /// Rises with every job of the store; first come, first served within a priority.
    pub seq: u64,
    /// Who it belongs to.
    pub tenant: String,
    /// Where it is in its life.
    pub phase: JobPhase,
    /// Its placement class.
    pub class: ClassId,
    /// Higher runs first.
    pub priority: i32,
    /// How often a guest failure that asks for it is tried again.
    pub retries: u32,
    /// Reasons beside `retry_requested` that ask for a retry.
    pub retry_on: Vec<Reason>,
    /// Number of the newest attempt; 0 before the first lease.
    pub attempt: u32,
    /// Retries after guest failures so far.
    pub guest_retries: u32,
    /// Attempts that infrastructure lost so far.
    pub infrastructure_losses: u32,
    /// Why it ended, or why it waits.
    pub reason: Option<Reason>,
    /// How the guest trapped.
    pub trap_kind: Option<TrapKind>,
    /// A short text about this one case.
    pub message: Option<String>,
    /// The guest's exit code.
    pub exit_code: Option<i32>,
    /// What the newest finished attempt used.
    pub usage: Option<Usage>,
    /// The node of the newest attempt.
    pub node: Option<NodeId>,
    /// The zone of the newest attempt.
    pub zone: Option<String>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When its first attempt started.
    pub started_at: Option<Timestamp>,
    /// When it reached its terminal state.
    pub finished_at: Option<Timestamp>,
    /// When a cancel was asked for.
    pub cancel_requested_at: Option<Timestamp>,
    /// While backing off: not leased before this time.
    pub not_before: Option<Timestamp>,
    /// When its queue timeout passes, if it has not started by then.
    pub queue_timeout_at: Option<Timestamp>,
    /// When its deadline passes.
    pub deadline_at: Option<Timestamp>,
    /// Number of outputs.
    pub output_count: u64,
    /// Bytes of all outputs.
    pub output_bytes: u64,
    /// Rises with every change.
    pub version: u64,
    /// What does not change after submit, as the store's JSON text. Present on new jobs, on jobs
    /// loaded for a lease, and on jobs read for a view; otherwise not loaded.
    pub document: Option<Arc<str>>,
}

/// An attempt as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptRecord {
    /// The job.
    pub job: JobId,
    /// From 1; rises with every lease of the job.
    pub number: u32,
    /// Rises with every lease of the job and is never reused.
    pub fence: u64,
    /// Proof of the lease.
    pub token: LeaseToken,
    /// Where it is in its life.
    pub phase: AttemptPhase,
    /// The node that holds or held the lease.
    pub node: NodeId,
    /// That node's zone.
    pub zone: String,
    /// The start of the node process that got the lease.
    pub incarnation: String,
    /// CPU that the lease binds, in thousandths of a core.
    pub cpus_milli: u32,
    /// Memory that the lease binds, in bytes.
    pub memory_bytes: u64,
    /// When the lease was granted.
    pub leased_at: Timestamp,
    /// When the lease ends unless it is renewed.
    pub expires_at: Timestamp,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Why it ended.
    pub reason: Option<Reason>,
    /// How the guest trapped.
    pub trap_kind: Option<TrapKind>,
    /// A short text about this one case.
    pub message: Option<String>,
    /// The guest's exit code.
    pub exit_code: Option<i32>,
    /// What it used.
    pub usage: Option<Usage>,
    /// SHA-256 of the report that ended it, by which a repeated report is known.
    pub report: Option<Digest>,
    /// Bytes of stdout stored so far.
    pub stdout_bytes: u64,
    /// Bytes of stderr stored so far.
    pub stderr_bytes: u64,
    /// Whether a stream was cut at the log limit.
    pub log_truncated: bool,
}

impl AttemptRecord {
    /// The attempt's key.
    pub fn key(&self) -> AttemptKey {
        (self.job, self.number)
    }

    /// Bytes stored so far of a stream.
    pub fn stream_bytes(&self, stream: LogStream) -> u64 {
        if stream == LogStream::Stderr { self.stderr_bytes } else { self.stdout_bytes }
    }
}

/// One transition, to be kept in the same transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub kind: EventKind,
    /// Who the job belongs to.
    pub tenant: String,
    /// The job.
    pub job: JobId,
    /// The attempt's number, when it is about one.
    pub attempt: Option<u32>,
    /// The attempt's fence, when it is about one.
    pub fence: Option<u64>,
    /// The node, when it is about an attempt.
    pub node: Option<NodeId>,
    /// The zone of the attempt, or of the job's newest attempt.
    pub zone: Option<String>,
    /// Who caused it: a token id, a node id, or `sweep`.
    pub actor: String,
    /// State before it, of the attempt or the job, when that changed.
    pub from: Option<&'static str>,
    /// State after it, of the attempt or the job.
    pub state: &'static str,
    /// Why.
    pub reason: Option<Reason>,
}

/// A submit's key, remembered so that a repeated submit gives the same job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyRecord {
    /// SHA-256 of the request.
    pub request: Digest,
    /// The job that the first submit made.
    pub job: JobId,
}

/// An output that became visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputRecord {
    /// The job.
    pub job: JobId,
    /// Who owns it from now on.
    pub tenant: String,
    /// Path below `/out`.
    pub path: String,
    /// The bytes' digest.
    pub digest: Digest,
    /// The bytes' number.
    pub size: u64,
}

/// Where the bytes of a log chunk are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogBody {
    /// In the row.
    Inline(Vec<u8>),
    /// In the blob backend, under this key; the row's bytes start after `skip` bytes of it.
    Stored {
        /// The key.
        key: String,
        /// Bytes to leave out at its start.
        skip: u64,
    },
}

/// A piece of one log stream, to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// The job.
    pub job: JobId,
    /// The attempt's number.
    pub attempt: u32,
    /// The attempt's fence.
    pub fence: u64,
    /// The stream.
    pub stream: LogStream,
    /// Where it starts in its stream, in bytes.
    pub offset: u64,
    /// Where it starts in both streams taken together, in bytes.
    pub position: u64,
    /// Its length, in bytes.
    pub len: u64,
    /// When it was written, in microseconds after the attempt's start.
    pub elapsed_us: u64,
    /// Its bytes.
    pub body: LogBody,
}
