//! The jobs' part of the store: commands go to the writer, reads to the readers.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, atomic::Ordering},
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use gristmill_lifecycle::{
    command::{
        AcquireLeases, AppendLog, AppendReply, ApplyUpdates, CancelJob, CancelJobs, CancelReply, EndLeases,
        ExpireLeases, JobDue, LeaseGranted, RenewLeases, SubmitJob, SubmitJobs, SubmitReply, SweepJobs,
    },
    placement::ClassSpec,
    record::{AttemptKey, AttemptRecord, ClassId, IdempotencyRecord, JobRecord},
    totals::Totals,
};
use gristmill_protocol::{
    JobId, NodeId, Timestamp,
    job::OutputEntry,
    node_api::{LeaseVerdict, UpdateVerdict},
};
use tokio::sync::oneshot;

use super::{
    SqliteStore, attempt,
    batch::{Claim, Message},
    class, event, idempotency, job, job_list, log, output,
};
use crate::store::{
    StoreError,
    event::{EventPage, EventQuery},
    job::{JobCounts, JobQuery, JobStore, LeaseState, LogChunkRecord, LogRange, StoreCounters},
};

#[async_trait]
impl JobStore for SqliteStore {
    async fn job_submit(&self, command: SubmitJob) -> Result<SubmitReply, StoreError> {
        self.decide_audited(command).await
    }

    async fn job_submit_many(&self, command: SubmitJobs) -> Result<Vec<SubmitReply>, StoreError> {
        self.decide_audited(command).await
    }

    async fn job_cancel_many(&self, command: CancelJobs) -> Result<Vec<(JobId, u64)>, StoreError> {
        self.decide_audited(command).await
    }

    async fn job_cancel(&self, command: CancelJob) -> Result<CancelReply, StoreError> {
        self.decide_audited(command).await
    }

    async fn lease_acquire(
        &self,
        command: AcquireLeases,
        hold: Option<BoxFuture<'static, ()>>,
    ) -> Result<Vec<LeaseGranted>, StoreError> {
        let (sender, mut receiver) = oneshot::channel();
        let id = self.claims.fetch_add(1, Ordering::Relaxed);
        let claim = Claim { id, command, hold: hold.is_some(), tries: 0, sender };
        self.send(Message::Claim(Box::new(claim))).await?;
        let answered = match hold {
            None => None,
            Some(hold) => tokio::select! {
                biased;
                answer = &mut receiver => Some(answer),
                () = hold => {
                    self.send(Message::Withdraw(id)).await?;
                    None
                }
            },
        };
        let answer = match answered {
            Some(answer) => answer,
            None => receiver.await,
        };
        let mut granted = answer.map_err(|_| StoreError::Closed)??;
        job::job_documents_fill(self.reads(), &mut granted).await?;
        Ok(granted)
    }

    async fn lease_renew(&self, command: RenewLeases) -> Result<Vec<LeaseVerdict>, StoreError> {
        self.decide(command).await
    }

    async fn lease_expire(&self, command: ExpireLeases) -> Result<u64, StoreError> {
        self.decide(command).await
    }

    async fn lease_end(&self, command: EndLeases) -> Result<u64, StoreError> {
        self.decide(command).await
    }

    async fn lease_grace(&self) -> Result<u64, StoreError> {
        let (now, ttl) = (self.clock.now(), self.lease_ttl);
        self.write("lease_grace", move |conn| {
            Box::pin(async move { attempt::lease_grace_on(conn, now, ttl).await })
        })
        .await
    }

    async fn attempt_update(&self, command: ApplyUpdates) -> Result<Vec<UpdateVerdict>, StoreError> {
        self.decide(command).await
    }

    async fn log_append(&self, command: AppendLog) -> Result<AppendReply, StoreError> {
        self.decide(command).await
    }

    async fn job_sweep(&self, command: SweepJobs) -> Result<u64, StoreError> {
        self.decide(command).await
    }

    async fn idempotency_find(
        &self,
        tenant: &str,
        keys: &[String],
    ) -> Result<HashMap<String, IdempotencyRecord>, StoreError> {
        idempotency::idempotency_find(self.reads(), tenant, keys).await
    }

    async fn idempotency_prune(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        self.write("idempotency_prune", move |conn| {
            Box::pin(async move { idempotency::idempotency_prune(conn, before, limit).await })
        })
        .await
    }

    async fn job_get(&self, id: JobId) -> Result<Option<JobRecord>, StoreError> {
        job::job_get(self.reads(), id).await
    }

    async fn job_list(&self, query: JobQuery) -> Result<Vec<JobRecord>, StoreError> {
        job_list::job_list(self.reads(), query).await
    }

    async fn job_select(&self, query: JobQuery) -> Result<Vec<(u64, JobId)>, StoreError> {
        job_list::job_select(self.reads(), query).await
    }

    async fn job_count(&self, query: JobQuery) -> Result<u64, StoreError> {
        job_list::job_count(self.reads(), query).await
    }

    async fn class_get(&self, id: ClassId) -> Result<Option<ClassSpec>, StoreError> {
        class::class_get(self.reads(), id).await
    }

    async fn job_due(&self, due: JobDue, now: Timestamp, limit: u32) -> Result<Vec<JobId>, StoreError> {
        job::job_due(self.reads(), due, now, limit).await
    }

    async fn job_counts(&self) -> Result<JobCounts, StoreError> {
        job::job_counts(self.reads()).await
    }

    async fn lease_due(&self, now: Timestamp, limit: u32) -> Result<Vec<AttemptKey>, StoreError> {
        attempt::lease_due(self.reads(), now, limit).await
    }

    async fn lease_of_node(&self, node: NodeId) -> Result<Vec<(AttemptKey, String)>, StoreError> {
        attempt::lease_of_node(self.reads(), node).await
    }

    async fn lease_states(&self, keys: &[AttemptKey]) -> Result<HashMap<AttemptKey, LeaseState>, StoreError> {
        attempt::lease_states(self.reads(), keys).await
    }

    async fn lease_loads(&self) -> Result<HashMap<NodeId, (u32, u64)>, StoreError> {
        attempt::lease_loads(self.reads()).await
    }

    async fn attempt_list(&self, job: JobId) -> Result<Vec<AttemptRecord>, StoreError> {
        attempt::attempt_list(self.reads(), job).await
    }

    async fn attempt_get(&self, job: JobId, number: u32) -> Result<Option<AttemptRecord>, StoreError> {
        attempt::attempt_get(self.reads(), job, number).await
    }

    async fn log_list(&self, range: LogRange) -> Result<Vec<LogChunkRecord>, StoreError> {
        log::log_list(self.reads(), range).await
    }

    async fn output_list(&self, job: JobId) -> Result<Vec<OutputEntry>, StoreError> {
        output::output_list(self.reads(), job).await
    }

    async fn output_get(&self, job: JobId, path: &str) -> Result<Option<OutputEntry>, StoreError> {
        output::output_get(self.reads(), job, path).await
    }

    async fn job_document(&self, id: JobId) -> Result<Option<Arc<str>>, StoreError> {
        Ok(job::job_document(self.reads(), id).await?.map(Into::into))
    }

    async fn event_list(&self, query: EventQuery) -> Result<EventPage, StoreError> {
        event::event_list(self.reads(), query).await
    }

    fn totals(&self) -> Totals {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn counters(&self) -> StoreCounters {
        self.counters.read()
    }

    async fn close(&self) {
        // Fails only if the writer has ended before.
        let _ = self.inbox.send(Message::Close).await;
        self.tasks.wait().await;
        self.reads.close().await;
    }
}
