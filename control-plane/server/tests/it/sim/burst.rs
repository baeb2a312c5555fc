//! Several calls reach the writer at the same time and are decided in one transaction.

use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use gristmill_lifecycle::{
    command::{
        AcquireLeases, AppendLog, ApplyUpdates, CancelJob, CancelReply, ExpireLeases, JobDue, LogPiece,
        RenewLeases, SweepJobs, Update, UpdateChange,
    },
    placement::{NodeProfile, Room, ZoneProfile},
    record::{AttemptKey, LogBody},
};
use gristmill_protocol::{
    JobId, OuterLimit, Timestamp,
    attempt::LogStream,
    node_api::{AttemptChange, LeaseVerdict, UpdateVerdict},
    zone::ZonePolicy,
};
use rand::RngExt;

use super::{
    node::Guest,
    world::{Letter, World},
};
use crate::history::{Violation, demand};

/// What a call of the burst answered.
enum Answer {
    Cancelled(JobId, CancelReply),
    /// Leases that the node does not learn of; they run out.
    Leased(usize, usize),
    Renewed(usize, AttemptKey, Timestamp, Vec<LeaseVerdict>),
    Updated(usize, AttemptKey, Vec<UpdateVerdict>),
    /// How much a sweep did that had nothing to do.
    Early(u64),
    Appended,
}

impl World {
    /// Cancels, claims, starts and a sweep, all at once.
    pub(super) fn burst(&mut self) -> Result<(), Violation> {
        let mut calls: Vec<BoxFuture<'static, Answer>> = Vec::new();
        for _ in 0..self.rng.random_range(1..4) {
            if let Some((_, id)) = self.known_job() {
                calls.push(self.cancel_call(id));
            }
        }
        // A claim's first choice is cancelled beside it.
        let chooser = self.rng.random_range(0..self.nodes.len());
        if let Some(id) = self.expected_grant(chooser, 1).pop() {
            calls.push(self.cancel_call(id));
        }
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            if node.is_up && node.is_linked && node.parked.is_none() {
                calls.push(self.acquire_call(index));
            }
            if self.nodes[index].is_linked {
                calls.extend(self.renew_call(index));
                calls.extend(self.update_call(index));
            }
        }
        calls.push(self.early_expire_call());
        calls.push(self.early_promote_call());
        calls.extend(self.log_call());
        // The order in which they reach the writer is any order.
        for last in (1..calls.len()).rev() {
            calls.swap(last, self.rng.random_range(0..=last));
        }
        self.note(|| format!("a burst of {} calls", calls.len()));
        let answers = self.life().run(join_all(calls));
        self.check_claims(&answers)?;
        for answer in answers {
            self.hear(answer)?;
        }
        Ok(())
    }

    /// Nothing in a burst makes a job ready, so a claim that got nothing must have found nothing.
    fn check_claims(&mut self, answers: &[Answer]) -> Result<(), Violation> {
        for answer in answers {
            if let Answer::Leased(index, 0) = answer {
                let left = self.expected_grant(*index, 1);
                demand!(left.is_empty(), "I12: node {index} got nothing beside {left:?}");
            }
        }
        Ok(())
    }

    fn hear(&mut self, answer: Answer) -> Result<(), Violation> {
        match answer {
            Answer::Cancelled(id, reply) => {
                let CancelReply::Job(job) = reply else { return Err(format!("I1: {id} is gone")) };
                self.note(|| format!("cancelled {id}: {}", job.phase));
                if job.cancel_requested_at.is_some() {
                    self.cancelled.push(id);
                }
            }
            Answer::Leased(index, count) => {
                self.note(|| format!("{count} leases of which node {index} hears nothing"));
            }
            Answer::Renewed(index, key, asked_at, verdicts) => {
                self.note(|| format!("node {index} renewed {key:?}: {verdicts:?}"));
                match verdicts[..] {
                    [LeaseVerdict::Held { .. }] => {
                        self.promised.insert(key, asked_at + self.settings.lease_ttl);
                        if let Some(held) = self.nodes[index].held.get_mut(&key) {
                            held.asked_at = asked_at;
                        }
                    }
                    [LeaseVerdict::Lost] => self.nodes[index].forget(key),
                    _ => return Err("a verdict is missing".to_owned()),
                }
            }
            Answer::Updated(index, key, verdicts) => {
                self.note(|| format!("node {index} started {key:?}: {verdicts:?}"));
                demand!(verdicts.len() == 1, "a verdict is missing");
                match verdicts[0] {
                    UpdateVerdict::LeaseLost => self.nodes[index].forget(key),
                    UpdateVerdict::Cancelled => self.nodes[index].cancel(key),
                    _ => {}
                }
            }
            Answer::Early(done) => demand!(done == 0, "I16: a sweep acted on {done} rows before their time"),
            Answer::Appended => {}
        }
        Ok(())
    }

    fn cancel_call(&self, id: JobId) -> BoxFuture<'static, Answer> {
        let app = self.life().app.clone();
        Box::pin(async move {
            let command = CancelJob { id, actor: "tok_burst".to_owned(), if_version: None };
            Answer::Cancelled(id, app.store.job_cancel(command).await.expect("the store works"))
        })
    }

    fn acquire_call(&mut self, index: usize) -> BoxFuture<'static, Answer> {
        let node = &self.nodes[index];
        let command = AcquireLeases {
            node: node.id,
            zone: ZoneProfile { name: node.zone.clone(), policy: ZonePolicy::default() },
            profile: NodeProfile {
                labels: node.labels.clone(),
                features: Vec::new(),
                level: Some(OuterLimit::Process),
            },
            incarnation: node.incarnation_text(),
            free: Room { cpus_milli: node.cpus_milli_free(), memory_bytes: 1 << 45 },
            leases_max: 1,
            job: None,
        };
        let app = self.life().app.clone();
        Box::pin(async move {
            let leases = app.store.lease_acquire(command, None).await.expect("the store works");
            Answer::Leased(index, leases.len())
        })
    }

    /// A renewal of one lease, which may come in the very transaction that is to end it.
    fn renew_call(&mut self, index: usize) -> Option<BoxFuture<'static, Answer>> {
        let node = &self.nodes[index];
        let (key, held) = node.held.first_key_value()?;
        let (key, at) = (*key, self.now());
        let command = RenewLeases { node: node.id, leases: vec![held.lease.clone()] };
        let app = self.life().app.clone();
        Some(Box::pin(async move {
            let verdicts = app.store.lease_renew(command).await.expect("the store works");
            Answer::Renewed(index, key, at, verdicts)
        }))
    }

    /// The newest start that the node has to report.
    fn update_call(&mut self, index: usize) -> Option<BoxFuture<'static, Answer>> {
        let node = &mut self.nodes[index];
        let lease = node.outbox.iter().find_map(|update| match update.change {
            AttemptChange::Started => Some(update.lease.clone()),
            _ => None,
        })?;
        let key = (lease.job, lease.attempt);
        node.held.get(&key).filter(|held| held.guest == Guest::Running)?;
        let command =
            ApplyUpdates { node: node.id, updates: vec![Update { lease, change: UpdateChange::Started }] };
        let app = self.life().app.clone();
        Some(Box::pin(async move {
            let verdicts = app.store.attempt_update(command).await.expect("the store works");
            Answer::Updated(index, key, verdicts)
        }))
    }

    /// A sweep whose look at the leases is worth nothing any more: none of them has run out.
    fn early_expire_call(&self) -> BoxFuture<'static, Answer> {
        let life = self.life();
        let (now, later) = (self.now(), self.now() + Duration::from_secs(60));
        let over = life.run(life.app.store.lease_due(now, 100)).expect("due");
        let mut attempts = life.run(life.app.store.lease_due(later, 100)).expect("due");
        attempts.retain(|key| !over.contains(key));
        let app = life.app.clone();
        Box::pin(async move {
            Answer::Early(app.store.lease_expire(ExpireLeases { attempts }).await.expect("the store works"))
        })
    }

    /// The same for backoffs.
    fn early_promote_call(&self) -> BoxFuture<'static, Answer> {
        let life = self.life();
        let (now, later) = (self.now(), self.now() + Duration::from_secs(120));
        let over = life.run(life.app.store.job_due(JobDue::Backoff, now, 100)).expect("due");
        let mut jobs = life.run(life.app.store.job_due(JobDue::Backoff, later, 100)).expect("due");
        jobs.retain(|id| !over.contains(id));
        let app = life.app.clone();
        Box::pin(async move {
            Answer::Early(
                app.store.job_sweep(SweepJobs { due: JobDue::Backoff, jobs }).await.expect("the store works"),
            )
        })
    }

    /// A late copy of a log piece that has passed the first check when its lease ends.
    fn log_call(&self) -> Option<BoxFuture<'static, Answer>> {
        let (index, lease, offset, bytes) = self.bag.iter().find_map(|letter| match letter {
            Letter::Log(index, lease, offset, bytes) => Some((*index, lease.clone(), *offset, bytes.clone())),
            _ => None,
        })?;
        let stored_len = bytes.len() as u64;
        let piece = LogPiece {
            stream: LogStream::Stdout,
            offset,
            elapsed_us: offset,
            // Longer than what may be stored already.
            body: LogBody::Inline([bytes, vec![b'y'; 64]].concat()),
            stored_len,
        };
        let command = AppendLog { node: self.nodes[index].id, lease, piece };
        let app = self.life().app.clone();
        Some(Box::pin(async move {
            app.store.log_append(command).await.expect("the store works");
            Answer::Appended
        }))
    }
}
