//! Jobs, attempts, leases, logs, outputs and events as they are kept.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use gristmill_lifecycle::{
    command::{
        AcquireLeases, AppendLog, AppendReply, ApplyUpdates, CancelJob, CancelJobs, CancelReply, EndLeases,
        ExpireLeases, JobDue, LeaseGranted, RenewLeases, SubmitJob, SubmitJobs, SubmitReply, SweepJobs,
    },
    placement::ClassSpec,
    record::{AttemptKey, AttemptRecord, ClassId, IdempotencyRecord, JobRecord},
    totals::{Histogram, Totals},
};
use gristmill_protocol::{
    JobId, JobState, NodeId, Timestamp,
    attempt::LogStream,
    job::OutputEntry,
    node_api::{LeaseVerdict, UpdateVerdict},
};

use super::{
    StoreError,
    event::{EventPage, EventQuery},
};

/// A list of jobs: newest first, all given conditions hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobQuery {
    /// Only jobs of this tenant.
    pub tenant: Option<String>,
    /// Only jobs in this state.
    pub state: Option<JobState>,
    /// Only jobs that named this module.
    pub module: Option<String>,
    /// Only jobs whose newest attempt is or was in this zone.
    pub zone: Option<String>,
    /// Only jobs with this label.
    pub label: Option<(String, String)>,
    /// Only jobs accepted after this time.
    pub created_after: Option<Timestamp>,
    /// Only these jobs.
    pub ids: Option<Vec<JobId>>,
    /// Only jobs to which something can still be done.
    pub only: Option<JobOnly>,
    /// Only jobs that came before this one.
    pub before_seq: Option<u64>,
    /// Most jobs to return.
    pub limit: u32,
}

/// What can be done to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobOnly {
    /// It can be cancelled: it has not ended and was not told to stop by a user.
    Cancellable,
    /// It can be run again: it has ended.
    Ended,
}

/// A live or ended lease, as a node's call is checked against it.
#[derive(Debug, Clone, PartialEq)]
pub struct LeaseState {
    /// The attempt.
    pub attempt: AttemptRecord,
    /// Whether the job has to stop.
    pub stop: bool,
    /// Who the job belongs to.
    pub tenant: String,
}

/// A stored piece of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunkRecord {
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
    /// The bytes, when they are in the row.
    pub bytes: Option<Vec<u8>>,
    /// Where the bytes are otherwise, and how many to leave out at its start.
    pub stored: Option<(String, u64)>,
}

/// Which pieces of a log to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRange {
    /// The job.
    pub job: JobId,
    /// The attempt's number.
    pub attempt: u32,
    /// One stream, with offsets in it; both by the order of their arrival when absent.
    pub stream: Option<LogStream>,
    /// Where to begin, in bytes.
    pub offset: u64,
    /// Most pieces to return.
    pub limit: u32,
}

/// How many jobs there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobCounts {
    /// Jobs in each state that is not final.
    pub active: Vec<(JobState, u64)>,
    /// Waiting jobs over all tenants.
    pub queue_depth: u64,
    /// Waiting jobs by the zone that they name; those that name none are under `None`.
    pub waiting_by_zone: BTreeMap<Option<String>, u64>,
    /// Leases that have not ended.
    pub leases: u64,
    /// When the job was accepted that waits longest; absent when none waits.
    pub oldest_waiting: Option<Timestamp>,
}

/// What the writer has done since the store was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreCounters {
    /// Durable commits; each is one fsync of the write-ahead log.
    pub commits: u64,
    /// Statements sent to the database by the writer.
    pub statements: u64,
    /// Statements sent to the database by the readers.
    pub queries: u64,
    /// Operations answered by the writer.
    pub ops: u64,
    /// Claims that the writer has looked at, those among them that it holds.
    pub claims: u64,
    /// How long commits took.
    pub commit_times: Histogram,
    /// From the beginning of a batch to the durable grant of each claim that got leases in it.
    pub claim_times: Histogram,
}

/// Keeps jobs and leases. Every change is one command; it is durable before its answer. A change
/// whose caller stops waiting still happens.
#[async_trait]
pub trait JobStore {
    /// Accepts a job.
    async fn job_submit(&self, command: SubmitJob) -> Result<SubmitReply, StoreError>;

    /// Accepts jobs, all in one commit.
    async fn job_submit_many(&self, command: SubmitJobs) -> Result<Vec<SubmitReply>, StoreError>;

    /// Cancels jobs, all in one commit. Returns those that it changed, with their versions.
    async fn job_cancel_many(&self, command: CancelJobs) -> Result<Vec<(JobId, u64)>, StoreError>;

    /// Cancels a job.
    async fn job_cancel(&self, command: CancelJob) -> Result<CancelReply, StoreError>;

    /// Grants leases. When there is nothing to grant and `hold` is given, the call waits for fitting
    /// jobs until `hold` resolves; a job that is submitted meanwhile is leased in the transaction
    /// that accepts it. Leases granted to a caller that has stopped waiting are given back.
    async fn lease_acquire(
        &self,
        command: AcquireLeases,
        hold: Option<BoxFuture<'static, ()>>,
    ) -> Result<Vec<LeaseGranted>, StoreError>;

    /// Prolongs leases.
    async fn lease_renew(&self, command: RenewLeases) -> Result<Vec<LeaseVerdict>, StoreError>;

    /// Ends leases that ran out. Returns their number.
    async fn lease_expire(&self, command: ExpireLeases) -> Result<u64, StoreError>;

    /// Ends leases of a node process that is gone. Returns their number.
    async fn lease_end(&self, command: EndLeases) -> Result<u64, StoreError>;

    /// Gives every live lease its full time from now on. Returns their number.
    async fn lease_grace(&self) -> Result<u64, StoreError>;

    /// Applies a node's updates.
    async fn attempt_update(&self, command: ApplyUpdates) -> Result<Vec<UpdateVerdict>, StoreError>;

    /// Adds a piece to a log.
    async fn log_append(&self, command: AppendLog) -> Result<AppendReply, StoreError>;

    /// Does what is due for jobs. Returns for how many it was.
    async fn job_sweep(&self, command: SweepJobs) -> Result<u64, StoreError>;

    /// What a tenant's idempotency keys stand for; those that were never used are left out.
    async fn idempotency_find(
        &self,
        tenant: &str,
        keys: &[String],
    ) -> Result<HashMap<String, IdempotencyRecord>, StoreError>;

    /// Forgets idempotency keys that were first used before a time, at most `limit`. Returns their
    /// number.
    async fn idempotency_prune(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError>;

    /// A job with its document.
    async fn job_get(&self, id: JobId) -> Result<Option<JobRecord>, StoreError>;

    /// Jobs with their documents.
    async fn job_list(&self, query: JobQuery) -> Result<Vec<JobRecord>, StoreError>;

    /// The same jobs as `job_list` would return, by number and id alone.
    async fn job_select(&self, query: JobQuery) -> Result<Vec<(u64, JobId)>, StoreError>;

    /// How many jobs a query finds, whatever its limit.
    async fn job_count(&self, query: JobQuery) -> Result<u64, StoreError>;

    /// The placement class of a job.
    async fn class_get(&self, id: ClassId) -> Result<Option<ClassSpec>, StoreError>;

    /// Jobs for which something is due at a time, at most `limit`.
    async fn job_due(&self, due: JobDue, now: Timestamp, limit: u32) -> Result<Vec<JobId>, StoreError>;

    /// Number of jobs by state.
    async fn job_counts(&self) -> Result<JobCounts, StoreError>;

    /// Attempts whose lease ran out at a time, at most `limit`.
    async fn lease_due(&self, now: Timestamp, limit: u32) -> Result<Vec<AttemptKey>, StoreError>;

    /// Live leases of a node, with the start of the node process that got each.
    async fn lease_of_node(&self, node: NodeId) -> Result<Vec<(AttemptKey, String)>, StoreError>;

    /// The present state of leases; those that never were are left out.
    async fn lease_states(&self, keys: &[AttemptKey]) -> Result<HashMap<AttemptKey, LeaseState>, StoreError>;

    /// CPU in thousandths of a core and memory in bytes under lease, by node.
    async fn lease_loads(&self) -> Result<HashMap<NodeId, (u32, u64)>, StoreError>;

    /// All attempts of a job, by number.
    async fn attempt_list(&self, job: JobId) -> Result<Vec<AttemptRecord>, StoreError>;

    /// One attempt.
    async fn attempt_get(&self, job: JobId, number: u32) -> Result<Option<AttemptRecord>, StoreError>;

    /// Pieces of a log from the one that holds `offset` on.
    async fn log_list(&self, range: LogRange) -> Result<Vec<LogChunkRecord>, StoreError>;

    /// All outputs of a job, by path.
    async fn output_list(&self, job: JobId) -> Result<Vec<OutputEntry>, StoreError>;

    /// One output of a job.
    async fn output_get(&self, job: JobId, path: &str) -> Result<Option<OutputEntry>, StoreError>;

    /// What does not change of a job after its submit, as JSON text.
    async fn job_document(&self, id: JobId) -> Result<Option<std::sync::Arc<str>>, StoreError>;

    /// Events in the order of their ids, which is the order in which they become readable: once a
    /// page says `next`, no event with an id up to that appears any more, so a reader that goes on
    /// from there misses none. Here the one writer gives ids and commits in the same order. A store
    /// with several writers has to take the ids of a batch last, under a lock that it holds until
    /// the batch is committed (in PostgreSQL `pg_advisory_xact_lock`), or must not return events
    /// above one that may still be committed.
    async fn event_list(&self, query: EventQuery) -> Result<EventPage, StoreError>;

    /// What happened since the store was opened.
    fn totals(&self) -> Totals;

    /// What the writer has done so far.
    fn counters(&self) -> StoreCounters;

    /// Finishes what is under way and closes the store. Later calls fail with `Closed`.
    async fn close(&self);
}
