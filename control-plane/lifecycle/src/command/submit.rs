//! A job is accepted, or refused because the queue is full.

use std::{sync::Arc, time::Duration};

use gristmill_protocol::{Digest, JobId, Reason, event::EventKind};

use super::Command;
use crate::{
    job::{InvalidTransition, JobPhase},
    placement::ClassSpec,
    record::{IdempotencyRecord, JobRecord},
    working_set::{Needs, Tally, WorkingSet},
};

/// Names a submit, so that its repetition gives the same job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubmitKey {
    /// The key that the caller chose; unique within the tenant.
    pub key: String,
    /// SHA-256 of the request.
    pub request: Digest,
}

/// Accepts a job into the queue.
#[derive(Debug, Clone)]
pub struct SubmitJob {
    /// The id that the job will have.
    pub id: JobId,
    /// Who it belongs to.
    pub tenant: String,
    /// The token that submits it.
    pub actor: String,
    /// The caller's name for this submit.
    pub key: Option<SubmitKey>,
    /// What placement looks at.
    pub class: ClassSpec,
    /// Higher runs first.
    pub priority: i32,
    /// How often a guest failure that asks for it is tried again.
    pub retries: u32,
    /// Reasons beside `retry_requested` that ask for a retry.
    pub retry_on: Vec<Reason>,
    /// Longest time in the queue before the first start.
    pub queue_timeout: Option<Duration>,
    /// Longest time to a terminal state.
    pub deadline: Option<Duration>,
    /// What does not change after submit, as the store's JSON text.
    pub document: Arc<str>,
    /// Blobs that came inline and that the tenant owns from now on, with their sizes.
    pub blobs: Vec<(Digest, u64)>,
    /// Blobs that the job reads, those that came inline included; they stay as long as the job.
    pub inputs: Vec<Digest>,
    /// Most waiting jobs of the tenant.
    pub queue_depth_tenant_max: u64,
    /// The finished job that is run again.
    pub retry_of: Option<JobId>,
}

/// What became of a submit.
#[derive(Debug, Clone, PartialEq)]
pub enum SubmitReply {
    /// The job is accepted.
    Created(Box<JobRecord>),
    /// The same submit was accepted before, as this job.
    Existing(JobId),
    /// The key was used before with another request.
    KeyMismatch,
    /// The tenant's queue is full.
    TenantQueueFull {
        /// Most waiting jobs of the tenant.
        max: u64,
    },
    /// The queue is full.
    QueueFull {
        /// Most waiting jobs over all tenants.
        max: u64,
    },
}

impl SubmitJob {
    fn record(&self, set: &mut WorkingSet<'_>) -> JobRecord {
        JobRecord {
            id: self.id,
            seq: set.take_seq(),
            tenant: self.tenant.clone(),
            phase: JobPhase::Ready,
            class: set.class_id(&self.class),
            priority: self.priority,
            retries: self.retries,
            retry_on: self.retry_on.clone(),
            attempt: 0,
            guest_retries: 0,
            infrastructure_losses: 0,
            reason: None,
            trap_kind: None,
            message: None,
            exit_code: None,
            usage: None,
            node: None,
            zone: None,
            created_at: set.now(),
            started_at: None,
            finished_at: None,
            cancel_requested_at: None,
            not_before: None,
            queue_timeout_at: self.queue_timeout.map(|wait| set.after(wait)),
            deadline_at: self.deadline.map(|wait| set.after(wait)),
            output_count: 0,
            output_bytes: 0,
            version: 1,
            document: Some(Arc::clone(&self.document)),
        }
    }
}

impl Command for SubmitJob {
    type Reply = SubmitReply;

    fn needs(&self, _tally: &Tally, needs: &mut Needs) {
        if let Some(key) = &self.key {
            needs.keys.insert((self.tenant.clone(), key.key.clone()));
        }
        needs.jobs.extend(self.retry_of);
    }

    fn decide(&self, set: &mut WorkingSet<'_>) -> Result<SubmitReply, InvalidTransition> {
        let key = self.key.as_ref().map(|key| ((self.tenant.clone(), key.key.clone()), key.request));
        if let Some((name, request)) = &key
            && let Some(known) = set.keys.get(name)
        {
            return Ok(if known.request == *request {
                SubmitReply::Existing(known.job)
            } else {
                SubmitReply::KeyMismatch
            });
        }
        let (tenant_waiting, all_waiting) = set.waiting(&self.tenant);
        if tenant_waiting >= self.queue_depth_tenant_max {
            return Ok(SubmitReply::TenantQueueFull { max: self.queue_depth_tenant_max });
        }
        let max = set.settings().queue_depth_max;
        if all_waiting >= max {
            return Ok(SubmitReply::QueueFull { max });
        }
        let record = self.record(set);
        if let Some((name, request)) = key {
            set.keys.insert(name.clone(), IdempotencyRecord { request, job: self.id });
            set.keys_made.push(name);
        }
        set.blobs.extend(self.blobs.iter().map(|(digest, size)| (self.tenant.clone(), *digest, *size)));
        set.job_blobs.extend(self.inputs.iter().map(|digest| (record.seq, *digest)));
        set.make_job(record.clone());
        set.note_job(EventKind::JobSubmitted, self.id, &self.actor, None);
        if let Some(former) = self.retry_of {
            set.note_job(EventKind::JobRetried, former, &self.actor, None);
        }
        Ok(SubmitReply::Created(Box::new(record)))
    }
}

/// Accepts jobs, each by itself, in their order, and all in one commit.
#[derive(Debug, Clone)]
pub struct SubmitJobs {
    /// The jobs.
    pub jobs: Vec<SubmitJob>,
}

impl Command for SubmitJobs {
    type Reply = Vec<SubmitReply>;

    fn needs(&self, tally: &Tally, needs: &mut Needs) {
        for job in &self.jobs {
            job.needs(tally, needs);
        }
    }

    fn decide(&self, set: &mut WorkingSet<'_>) -> Result<Vec<SubmitReply>, InvalidTransition> {
        self.jobs.iter().map(|job| job.decide(set)).collect()
    }
}
