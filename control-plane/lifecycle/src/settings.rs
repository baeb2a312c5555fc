//! Every setting that a rule depends on, with its default.

use std::time::Duration;

use gristmill_protocol::limits::SlotSize;

/// Settings of the rules. The defaults are the promises of the product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How long a lease lasts without a renewal.
    pub lease_ttl: Duration,
    /// How often a node renews.
    pub lease_renew: Duration,
    /// How long after the last renewal was asked for the node stops the guest by itself; shorter
    /// than `lease_ttl`, so that the guest has stopped before the job can be leased again.
    pub lease_stop: Duration,
    /// Period of the sweeps.
    pub sweep_period: Duration,
    /// Most jobs that may wait in the queue, over all tenants.
    pub queue_depth_max: u64,
    /// Most jobs that may wait in the queue for one tenant that has no limit of its own.
    pub queue_depth_tenant_max: u64,
    /// How often a job is tried again after attempts that infrastructure lost.
    pub infrastructure_retries_max: u32,
    /// Longest wait before the first retry; doubles with every further one.
    pub backoff_base: Duration,
    /// Longest wait before any retry.
    pub backoff_max: Duration,
    /// Longest time that a long poll is held.
    pub long_poll_max: Duration,
    /// Most jobs of one bulk call.
    pub bulk_jobs_max: u32,
    /// Most bytes of the body of one bulk submit.
    pub bulk_bytes_max: u64,
    /// Longest silence on a stream of events or logs.
    pub stream_keep_alive: Duration,
    /// How long a client of a stream may take for one message before it is cut.
    pub stream_slow_max: Duration,
    /// How long an idempotency key is remembered, at least.
    pub idempotency_ttl: Duration,
    /// How long an upload is kept after its last progress.
    pub upload_ttl: Duration,
    /// How long an upload is kept at most, from its creation.
    pub upload_age_max: Duration,
    /// Most unfinished uploads of one tenant.
    pub upload_count_tenant_max: u64,
    /// Most bytes of one tenant's unfinished uploads; a declared length counts from the beginning.
    pub upload_bytes_tenant_max: u64,
    /// Slot of a job that asks for nothing else.
    pub slot_default: SlotSize,
    /// How long things are kept.
    pub retention: Retention,
}

/// How long things are kept. What is older is removed in small steps, and is then `not_found`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// How long a job is kept after its end, with its attempts and outputs. A job whose idempotency
    /// key is still remembered is kept until the key is forgotten.
    pub job_ttl: Duration,
    /// How long the log of a job is kept after the job's end; never longer than the job.
    pub log_ttl: Duration,
    /// Most jobs of one tenant that are kept after their end; the oldest go first.
    pub jobs_tenant_max: Option<u32>,
    /// Most bytes of outputs and logs of one tenant's jobs that have ended; the oldest go first.
    pub bytes_tenant_max: Option<u64>,
    /// How long an event is kept; never shorter than its job.
    pub event_ttl: Duration,
    /// How long it is remembered who changed what.
    pub audit_ttl: Duration,
    /// How long a blob that nothing refers to is kept after it was last brought, asked for or
    /// referred to. What was said to be there stays for half of this time at least.
    pub blob_grace: Duration,
    /// How often it is looked for what may go.
    pub period: Duration,
    /// How often the places of bytes are searched for bytes that belong to nobody, such as those
    /// that a crash left behind.
    pub leftover_period: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        let day = Duration::from_hours(24);
        Self {
            job_ttl: day * 30,
            log_ttl: day * 30,
            jobs_tenant_max: None,
            bytes_tenant_max: None,
            event_ttl: day * 30,
            audit_ttl: day * 365,
            blob_grace: day,
            period: Duration::from_mins(10),
            leftover_period: day,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease_ttl: Duration::from_secs(30),
            lease_renew: Duration::from_secs(10),
            lease_stop: Duration::from_secs(25),
            sweep_period: Duration::from_secs(1),
            queue_depth_max: 100_000,
            queue_depth_tenant_max: 10_000,
            infrastructure_retries_max: 5,
            backoff_base: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            long_poll_max: Duration::from_secs(25),
            bulk_jobs_max: 10_000,
            bulk_bytes_max: 16 << 20,
            stream_keep_alive: Duration::from_secs(15),
            stream_slow_max: Duration::from_secs(30),
            idempotency_ttl: Duration::from_secs(48 * 3_600),
            upload_ttl: Duration::from_secs(24 * 3_600),
            upload_age_max: Duration::from_secs(7 * 24 * 3_600),
            upload_count_tenant_max: 1_000,
            upload_bytes_tenant_max: 256 << 30,
            slot_default: SlotSize::default(),
            retention: Retention::default(),
        }
    }
}
