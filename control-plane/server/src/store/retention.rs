//! Removing what is too old, in steps that are each one short transaction.

use async_trait::async_trait;
use gristmill_protocol::{Digest, JobId, Timestamp};

use super::StoreError;

/// What one step did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step<T> {
    /// What was removed.
    pub removed: T,
    /// Where the next step begins; `None` when there is nothing more to look at.
    pub next: Option<u64>,
}

/// A blob whose row may go, and where the search goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnusedBlob {
    /// The blob.
    pub digest: Digest,
    /// When it was last wanted.
    pub used_at: Timestamp,
}

/// A place in the order in which jobs end: by time, and by number where several end at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndMark {
    /// When a job ended.
    pub at: Timestamp,
    /// The job's number.
    pub seq: u64,
}

impl EndMark {
    /// The place before all jobs that ended at a time or later.
    pub fn of_time(at: Timestamp) -> Self {
        Self { at, seq: 0 }
    }

    /// The place right behind this job.
    #[must_use]
    pub fn behind(self) -> Self {
        Self { seq: self.seq + 1, ..self }
    }
}

/// A job that has ended, and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedJob {
    /// Where it is in the order of ends.
    pub mark: EndMark,
    /// Bytes of its outputs, and of its log as long as that is kept.
    pub bytes: u64,
}

/// Finds and removes what is kept no longer. Finding reads; removing checks again in the transaction
/// that removes, so that what is wanted meanwhile stays.
#[async_trait]
pub trait RetentionStore {
    /// Jobs of a tenant that have ended, the latest first, from the one before `before` on.
    async fn ended_jobs(
        &self,
        tenant: &str,
        before: Option<EndMark>,
        limit: u32,
    ) -> Result<Vec<EndedJob>, StoreError>;

    /// Jobs of a tenant that ended before a mark and have a log, the earliest first; `since` leaves out
    /// those that ended before it.
    async fn logged_jobs(
        &self,
        tenant: &str,
        since: Option<EndMark>,
        before: EndMark,
        limit: u32,
    ) -> Result<Vec<JobId>, StoreError>;

    /// Removes the beginning of the log of a job that has ended, at most `limit` pieces. Returns how
    /// many there were, and the keys below which bytes lie elsewhere.
    async fn log_purge(&self, job: JobId, limit: u32) -> Result<(u64, Vec<String>), StoreError>;

    /// Removes jobs of a tenant that ended before a mark, with everything that hangs on them, their log and events
    /// excepted: at most about `limit` rows. Jobs that still have a log or an idempotency key stay.
    /// The blobs that they referred to count as used at `now`. Returns the jobs' number.
    async fn job_purge(
        &self,
        tenant: &str,
        before: EndMark,
        now: Timestamp,
        limit: u32,
    ) -> Result<u64, StoreError>;

    /// Looks at the next `limit` events after a number, and removes those from before a time whose job
    /// was purged.
    async fn event_purge(
        &self,
        after_seq: u64,
        before: Timestamp,
        limit: u32,
    ) -> Result<Step<u64>, StoreError>;

    /// Removes placement classes that no job refers to any more, at most `limit`. Returns their number.
    async fn class_purge(&self, limit: u32) -> Result<u64, StoreError>;

    /// Removes entries of the record of changes from before a time, at most `limit`. Returns their
    /// number.
    async fn audit_purge(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError>;

    /// Blobs that were last wanted before a time and that nothing refers to, longest unused first,
    /// from the one after `after` on.
    async fn blob_unused(
        &self,
        before: Timestamp,
        after: Option<UnusedBlob>,
        limit: u32,
    ) -> Result<Vec<UnusedBlob>, StoreError>;

    /// Removes the rows of those of the blobs that nothing refers to and that were not wanted since
    /// `before`. Returns the removed ones with their sizes. Ordered after every change that was asked
    /// for before.
    async fn blob_forget(
        &self,
        digests: &[Digest],
        before: Timestamp,
    ) -> Result<Vec<(Digest, u64)>, StoreError>;

    /// Those of the digests that have no row. Ordered after every change that was asked for before.
    async fn blob_unknown(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError>;

    /// Those of the keys of log pieces that no log refers to and none ever will: their attempts have
    /// ended, or never were.
    async fn log_unknown(&self, keys: &[String]) -> Result<Vec<String>, StoreError>;
}
