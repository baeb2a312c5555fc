//! Builds the commands that tests give to a store, with everything unimportant filled in.

use std::{collections::BTreeMap, time::Duration};

use gristmill_lifecycle::{
    command::{
        AcquireLeases, AppendLog, ApplyUpdates, CancelJob, Finish, LeaseGranted, LogPiece, RenewLeases,
        SubmitJob, SubmitKey, SubmitReply, Update, UpdateChange,
    },
    placement::{ClassSpec, NodeProfile, Room, ZoneProfile},
    record::{JobRecord, LogBody},
};
use gristmill_protocol::{
    Digest, JobId, JobState, NodeId, Outcome, OuterLimit, Reason, Usage,
    attempt::LogStream,
    job::OutputEntry,
    node_api::{LeaseRef, UpdateVerdict},
    reason::OutcomeState,
    zone::ZonePolicy,
};
use gristmill_server::store::{Store, event::EventQuery, job::JobQuery};
use sha2::{Digest as _, Sha256};

pub(crate) const TENANT: &str = "acme";

/// The job with this number; other numbers give other jobs.
pub(crate) fn job_id(n: u64) -> JobId {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&n.to_be_bytes());
    JobId::from_parts(1_767_225_600_000, random)
}

/// The node with this number.
pub(crate) fn node_id(n: u8) -> NodeId {
    NodeId::from_parts(1_767_225_600_000, [n; 10])
}

/// The digest of some text.
pub(crate) fn digest(text: &str) -> Digest {
    Digest::from_bytes(Sha256::digest(text.as_bytes()).into())
}

/// Jobs of one core and 1 GiB that run anywhere.
pub(crate) fn class(tenant: &str) -> ClassSpec {
    ClassSpec {
        tenant: tenant.to_owned(),
        zone: None,
        labels: BTreeMap::new(),
        features: Vec::new(),
        cpus_milli: 1_000,
        memory_bytes: 1 << 30,
        isolation: None,
    }
}

/// A submit of the job with this number.
pub(crate) fn submit(n: u64) -> SubmitJob {
    SubmitJob {
        id: job_id(n),
        tenant: TENANT.to_owned(),
        actor: "tok_test".to_owned(),
        key: None,
        class: class(TENANT),
        priority: 0,
        retries: 0,
        retry_on: Vec::new(),
        queue_timeout: None,
        deadline: None,
        document: format!(r#"{{"module":{{"name":"echo"}},"spec":{{"labels":{{"n":"{n}"}}}}}}"#).into(),
        blobs: Vec::new(),
        inputs: Vec::new(),
        queue_depth_tenant_max: 1_000_000,
        retry_of: None,
    }
}

/// The same submit under a key.
pub(crate) fn keyed(n: u64, key: &str, request: &str) -> SubmitJob {
    SubmitJob { key: Some(SubmitKey { key: key.to_owned(), request: digest(request) }), ..submit(n) }
}

/// Asks for at most `leases_max` leases for the node with this number.
pub(crate) fn acquire(node: u8, leases_max: u32) -> AcquireLeases {
    AcquireLeases {
        node: node_id(node),
        zone: ZoneProfile { name: "default".to_owned(), policy: ZonePolicy::default() },
        profile: NodeProfile {
            labels: BTreeMap::new(),
            features: Vec::new(),
            level: Some(OuterLimit::Process),
        },
        incarnation: "first".to_owned(),
        free: Room { cpus_milli: 1_000_000, memory_bytes: 1 << 50 },
        leases_max,
        job: None,
    }
}

/// All events after one, of whomever.
pub(crate) fn events_after(after: u64, limit: u32) -> EventQuery {
    EventQuery { after, limit, ..EventQuery::default() }
}

/// The lease as its node names it.
pub(crate) fn lease_ref(lease: &LeaseGranted) -> LeaseRef {
    LeaseRef { job: lease.job, attempt: lease.attempt, lease_token: lease.token.clone() }
}

/// One update of the node with this number.
pub(crate) fn update(node: u8, lease: &LeaseGranted, change: UpdateChange) -> ApplyUpdates {
    ApplyUpdates { node: node_id(node), updates: vec![Update { lease: lease_ref(lease), change }] }
}

/// An outcome, without a report around it.
pub(crate) fn outcome(state: OutcomeState, reason: Option<Reason>) -> Outcome {
    Outcome { state, reason, trap_kind: None, exit_code: None, message: None, usage: Usage::default() }
}

/// A report; reports with other texts are other reports.
pub(crate) fn report(text: &str, outcome: Outcome, outputs: Vec<OutputEntry>) -> UpdateChange {
    UpdateChange::Finished(Box::new(Finish {
        report: digest(text),
        outcome,
        outputs,
        log: Vec::new(),
        log_truncated: false,
    }))
}

/// A report of success without outputs.
pub(crate) fn success(text: &str) -> UpdateChange {
    report(text, outcome(OutcomeState::Succeeded, None), Vec::new())
}

/// A report of a failure.
pub(crate) fn failure(text: &str, reason: Reason) -> UpdateChange {
    report(text, Outcome::failed(reason, ""), Vec::new())
}

/// One output.
pub(crate) fn output(path: &str) -> OutputEntry {
    OutputEntry { path: path.to_owned(), digest: digest(path), size: path.len() as u64 }
}

/// A renewal of one lease.
pub(crate) fn renew(node: u8, lease: &LeaseGranted) -> RenewLeases {
    RenewLeases { node: node_id(node), leases: vec![lease_ref(lease)] }
}

/// A piece of a log.
pub(crate) fn append(
    node: u8,
    lease: &LeaseGranted,
    stream: LogStream,
    offset: u64,
    bytes: &[u8],
) -> AppendLog {
    AppendLog {
        node: node_id(node),
        lease: lease_ref(lease),
        piece: LogPiece {
            stream,
            offset,
            elapsed_us: offset,
            body: LogBody::Inline(bytes.to_vec()),
            stored_len: 0,
        },
    }
}

/// Cancels the job with this number.
pub(crate) fn cancel(id: JobId) -> CancelJob {
    CancelJob { id, actor: "tok_test".to_owned(), if_version: None }
}

/// What tests do to a store in one breath. Each fails the test when the store does not play along.
pub(crate) struct Script<'a>(pub(crate) &'a dyn Store);

impl Script<'_> {
    /// Submits a job that must be accepted.
    pub(crate) async fn submit(&self, command: SubmitJob) -> JobRecord {
        match self.0.job_submit(command).await.expect("the store works") {
            SubmitReply::Created(job) => *job,
            other => panic!("the job was not accepted: {other:?}"),
        }
    }

    /// Acquires what there is, without waiting.
    pub(crate) async fn acquire(&self, command: AcquireLeases) -> Vec<LeaseGranted> {
        self.0.lease_acquire(command, None).await.expect("the store works")
    }

    /// Acquires exactly one lease for the node with this number.
    pub(crate) async fn lease(&self, node: u8) -> LeaseGranted {
        self.acquire(acquire(node, 1)).await.pop().expect("a job is ready")
    }

    /// Submits, leases to node 1 and starts the job with this number.
    pub(crate) async fn run(&self, command: SubmitJob) -> LeaseGranted {
        let id = self.submit(command).await.id;
        let mut claim = acquire(1, 1);
        claim.job = Some(id);
        let lease = self.acquire(claim).await.pop().expect("the job is ready");
        assert_eq!(self.update(1, &lease, UpdateChange::Started).await, UpdateVerdict::Accepted);
        lease
    }

    /// Applies one update.
    pub(crate) async fn update(&self, node: u8, lease: &LeaseGranted, change: UpdateChange) -> UpdateVerdict {
        let verdicts = self.0.attempt_update(update(node, lease, change)).await.expect("the store works");
        assert_eq!(verdicts.len(), 1);
        verdicts[0]
    }

    /// Reads a job that exists.
    pub(crate) async fn job(&self, id: JobId) -> JobRecord {
        self.0.job_get(id).await.expect("the store works").expect("the job exists")
    }

    /// The state that users see.
    pub(crate) async fn state(&self, id: JobId) -> (JobState, Option<Reason>) {
        let job = self.job(id).await;
        (job.phase.state(), job.reason)
    }

    /// All jobs of a tenant.
    pub(crate) async fn jobs(&self, tenant: &str) -> Vec<JobRecord> {
        let query = JobQuery { tenant: Some(tenant.to_owned()), limit: 100_000, ..JobQuery::default() };
        self.0.job_list(query).await.expect("the store works")
    }

    /// Ends the backoff of every job whose time has come.
    pub(crate) async fn promote(&self, clock: &crate::stand_ins::ManualClock) -> u64 {
        use gristmill_lifecycle::command::{JobDue, SweepJobs};
        use gristmill_server::clock::Clock;
        let due = JobDue::Backoff;
        let jobs = self.0.job_due(due, clock.now(), 1_000).await.expect("the store works");
        self.0.job_sweep(SweepJobs { due, jobs }).await.expect("the store works")
    }

    /// Ends every lease that has run out.
    pub(crate) async fn expire(&self, clock: &crate::stand_ins::ManualClock) -> u64 {
        use gristmill_lifecycle::command::ExpireLeases;
        use gristmill_server::clock::Clock;
        let attempts = self.0.lease_due(clock.now(), 1_000).await.expect("the store works");
        self.0.lease_expire(ExpireLeases { attempts }).await.expect("the store works")
    }

    /// Lets the lease of a job run out and its backoff pass, so that it is ready again.
    pub(crate) async fn lose(&self, clock: &crate::stand_ins::ManualClock) {
        clock.advance(Duration::from_secs(31));
        assert_eq!(self.expire(clock).await, 1);
        clock.advance(Duration::from_secs(61));
        assert_eq!(self.promote(clock).await, 1);
    }
}
