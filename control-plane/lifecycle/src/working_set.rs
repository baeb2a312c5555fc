//! What a batch of commands works on: the rows that a store loaded for it, and the changes that the
//! store will write in one transaction.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use gristmill_protocol::{Digest, JobId, NodeId, Reason, Timestamp, event::EventKind};

use crate::{
    attempt::AttemptEvent,
    job::{InvalidTransition, JobEvent, JobPhase},
    placement::ClassSpec,
    record::{
        AttemptKey, AttemptRecord, ClassId, EventRecord, IdempotencyRecord, JobRecord, LogRecord,
        OutputRecord,
    },
    settings::Settings,
};

/// What the commands of a batch must see. Each command adds its own.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Needs {
    /// Jobs, with their live attempt if they have one.
    pub jobs: BTreeSet<JobId>,
    /// Attempts, with their jobs.
    pub attempts: BTreeSet<AttemptKey>,
    /// Idempotency keys, by tenant and key.
    pub keys: BTreeSet<(String, String)>,
    /// For each class, how many of its first ready jobs.
    pub ready: BTreeMap<ClassId, u32>,
}

impl Needs {
    /// Whether there is nothing to load.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.attempts.is_empty() && self.keys.is_empty() && self.ready.is_empty()
    }
}

/// Every placement class, and how many jobs wait in each: what a store keeps in memory between batches.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// The classes.
    pub classes: HashMap<ClassId, ClassSpec>,
    /// Their numbers.
    pub class_ids: HashMap<ClassSpec, ClassId>,
    /// The highest number that a class has or had; no later one gets it.
    pub class_max: ClassId,
    /// Ready jobs of each class; absent when none.
    pub ready_by_class: HashMap<ClassId, u64>,
    /// Waiting jobs of each tenant; absent when none.
    pub waiting_by_tenant: HashMap<String, u64>,
    /// Waiting jobs over all tenants.
    pub waiting: u64,
    /// The number that the next job gets.
    pub next_seq: u64,
    /// High half of every new fence; rises when a backup is restored.
    pub generation: u32,
}

/// How a batch changes a [`Tally`].
#[derive(Debug, Default, Clone)]
pub struct TallyChange {
    /// Classes that are new.
    pub classes: Vec<(ClassId, ClassSpec)>,
    class_ids: HashMap<ClassSpec, ClassId>,
    ready_by_class: HashMap<ClassId, i64>,
    waiting_by_tenant: HashMap<String, i64>,
    waiting: i64,
    jobs: u64,
}

fn shifted(value: u64, change: i64) -> u64 {
    value.saturating_add_signed(change)
}

impl Tally {
    /// Takes in a class.
    pub fn add_class(&mut self, id: ClassId, spec: ClassSpec) {
        self.class_max = self.class_max.max(id);
        self.class_ids.insert(spec.clone(), id);
        self.classes.insert(id, spec);
    }

    /// Forgets a class that no job refers to any more.
    pub fn forget_class(&mut self, id: ClassId) {
        if let Some(spec) = self.classes.remove(&id) {
            self.class_ids.remove(&spec);
        }
    }

    /// Takes over the changes of a committed batch.
    pub fn absorb(&mut self, change: TallyChange) {
        for (id, spec) in change.classes {
            self.add_class(id, spec);
        }
        for (class, by) in change.ready_by_class {
            let count = self.ready_by_class.entry(class).or_default();
            *count = shifted(*count, by);
            if *count == 0 {
                self.ready_by_class.remove(&class);
            }
        }
        for (tenant, by) in change.waiting_by_tenant {
            let count = self.waiting_by_tenant.entry(tenant.clone()).or_default();
            *count = shifted(*count, by);
            if *count == 0 {
                self.waiting_by_tenant.remove(&tenant);
            }
        }
        self.waiting = shifted(self.waiting, change.waiting);
        self.next_seq += change.jobs;
    }
}

/// A row, and how it was before the batch.
#[derive(Debug, Clone)]
pub struct Tracked<T> {
    /// The row as it is now.
    pub row: T,
    /// Whether the batch made it.
    pub is_new: bool,
    /// Whether the batch changed it.
    pub is_changed: bool,
    /// The state that it left last in this batch.
    pub left: Option<&'static str>,
}

impl<T> Tracked<T> {
    fn loaded(row: T) -> Self {
        Self { row, is_new: false, is_changed: false, left: None }
    }

    fn made(row: T) -> Self {
        Self { row, is_new: true, is_changed: true, left: None }
    }
}

/// Gives the randomness that a decision needs: lease tokens and the spread of backoffs.
pub trait Chance: Send + Sync {
    /// Fills the slice with random bytes.
    fn fill(&mut self, bytes: &mut [u8]);
}

/// What one batch works with beside the rows.
pub struct Context<'a> {
    /// The server's time for all of the batch.
    pub now: Timestamp,
    /// Settings of the rules.
    pub settings: &'a Settings,
    /// Counters as of the last commit.
    pub tally: &'a Tally,
    /// Randomness.
    pub chance: &'a mut dyn Chance,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("now", &self.now).finish_non_exhaustive()
    }
}

type ReadyOrder = (Reverse<i32>, u64, JobId);

/// The rows of one batch.
#[derive(Debug)]
pub struct WorkingSet<'a> {
    context: Context<'a>,
    /// Jobs.
    pub jobs: HashMap<JobId, Tracked<JobRecord>>,
    /// Attempts.
    pub attempts: HashMap<AttemptKey, Tracked<AttemptRecord>>,
    /// Idempotency keys that exist.
    pub keys: HashMap<(String, String), IdempotencyRecord>,
    /// Keys that the batch made.
    pub keys_made: Vec<(String, String)>,
    /// Events, in order.
    pub events: Vec<EventRecord>,
    /// Outputs that became visible.
    pub outputs: Vec<OutputRecord>,
    /// Blobs that a tenant owns from now on: tenant, digest, size.
    pub blobs: Vec<(String, Digest, u64)>,
    /// Blobs that new jobs read: the job's number, digest.
    pub job_blobs: Vec<(u64, Digest)>,
    /// Log chunks.
    pub logs: Vec<LogRecord>,
    /// Nodes whose leases were cancelled or taken back.
    pub nodes_woken: BTreeSet<NodeId>,
    /// How the counters change.
    pub change: TallyChange,
    ready: HashMap<ClassId, BTreeSet<ReadyOrder>>,
}

impl<'a> WorkingSet<'a> {
    /// An empty set; the store puts in what the commands need.
    pub fn new(context: Context<'a>) -> Self {
        Self {
            context,
            jobs: HashMap::new(),
            attempts: HashMap::new(),
            keys: HashMap::new(),
            keys_made: Vec::new(),
            events: Vec::new(),
            outputs: Vec::new(),
            blobs: Vec::new(),
            job_blobs: Vec::new(),
            logs: Vec::new(),
            nodes_woken: BTreeSet::new(),
            change: TallyChange::default(),
            ready: HashMap::new(),
        }
    }

    /// Puts in a job that a claim may take. It is offered only if it is still ready.
    pub fn put_ready_job(&mut self, row: JobRecord) {
        if row.phase == JobPhase::Ready {
            self.ready.entry(row.class).or_default().insert((Reverse(row.priority), row.seq, row.id));
        }
        self.put_job(row);
    }

    /// Puts in a job that was loaded, without its document: no decision looks at it. A job that is
    /// there already stays.
    pub fn put_job(&mut self, row: JobRecord) {
        self.jobs.entry(row.id).or_insert_with(|| Tracked::loaded(row));
    }

    /// Puts in an attempt that was loaded.
    pub fn put_attempt(&mut self, row: AttemptRecord) {
        self.attempts.entry(row.key()).or_insert_with(|| Tracked::loaded(row));
    }

    /// The server's time for all of the batch.
    pub fn now(&self) -> Timestamp {
        self.context.now
    }

    /// A time after now. A time beyond all times is the last one there is.
    pub fn after(&self, wait: std::time::Duration) -> Timestamp {
        let wait = i64::try_from(wait.as_micros()).unwrap_or(i64::MAX);
        Timestamp::from_microsecond(self.context.now.as_microsecond().saturating_add(wait))
            .unwrap_or(Timestamp::MAX)
    }

    /// Settings of the rules.
    pub fn settings(&self) -> &'a Settings {
        self.context.settings
    }

    /// High half of every new fence.
    pub fn generation(&self) -> u32 {
        self.context.tally.generation
    }

    /// Random bytes.
    pub fn random<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.context.chance.fill(&mut bytes);
        bytes
    }

    /// Waiting jobs of one tenant and of all, as of this point of the batch.
    pub fn waiting(&self, tenant: &str) -> (u64, u64) {
        let base = self.context.tally.waiting_by_tenant.get(tenant).copied().unwrap_or(0);
        let by = self.change.waiting_by_tenant.get(tenant).copied().unwrap_or(0);
        (shifted(base, by), shifted(self.context.tally.waiting, self.change.waiting))
    }

    /// The class with this number.
    pub fn class(&self, id: ClassId) -> Option<&ClassSpec> {
        self.context.tally.classes.get(&id).or_else(|| {
            // Sorted, because the numbers rise.
            let made = &self.change.classes;
            made.binary_search_by_key(&id, |(known, _)| *known).ok().map(|place| &made[place].1)
        })
    }

    /// The number of a class, which becomes a new one if there is none like it.
    pub fn class_id(&mut self, spec: &ClassSpec) -> ClassId {
        if let Some(id) = self.context.tally.class_ids.get(spec) {
            return *id;
        }
        if let Some(id) = self.change.class_ids.get(spec) {
            return *id;
        }
        let id = self.context.tally.class_max + self.change.classes.len() as ClassId + 1;
        self.change.classes.push((id, spec.clone()));
        self.change.class_ids.insert(spec.clone(), id);
        id
    }

    /// The number of the next job.
    pub fn take_seq(&mut self) -> u64 {
        self.change.jobs += 1;
        self.context.tally.next_seq + self.change.jobs - 1
    }

    /// Classes that have ready jobs in this set.
    pub fn ready_classes(&self) -> Vec<ClassId> {
        let mut classes: Vec<_> =
            self.ready.iter().filter(|(_, jobs)| !jobs.is_empty()).map(|(class, _)| *class).collect();
        classes.sort_unstable();
        classes
    }

    /// Whether any job of this set is ready.
    pub fn has_ready(&self) -> bool {
        self.ready.values().any(|jobs| !jobs.is_empty())
    }

    /// The first ready job among some classes: highest priority, then first come.
    pub fn first_ready(&self, classes: &[ClassId]) -> Option<JobId> {
        classes.iter().filter_map(|class| self.ready.get(class)?.first().copied()).min().map(|(_, _, id)| id)
    }

    /// Puts in a job that the batch made.
    pub fn make_job(&mut self, row: JobRecord) {
        self.count(&row, 1);
        self.jobs.insert(row.id, Tracked::made(row));
    }

    /// Puts in an attempt that the batch made.
    pub fn make_attempt(&mut self, row: AttemptRecord) {
        self.attempts.insert(row.key(), Tracked::made(row));
    }

    fn count(&mut self, row: &JobRecord, by: i64) {
        if row.phase.is_waiting() {
            *self.change.waiting_by_tenant.entry(row.tenant.clone()).or_default() += by;
            self.change.waiting += by;
        }
        if row.phase == JobPhase::Ready {
            *self.change.ready_by_class.entry(row.class).or_default() += by;
            let order = (Reverse(row.priority), row.seq, row.id);
            let ready = self.ready.entry(row.class).or_default();
            if by > 0 {
                ready.insert(order)
            } else {
                ready.remove(&order)
            };
        }
    }

    /// Moves a job by an event and changes it. The job's version rises.
    pub fn move_job(
        &mut self,
        id: JobId,
        event: JobEvent,
        change: impl FnOnce(&mut JobRecord),
    ) -> Result<JobPhase, InvalidTransition> {
        let Some(mut job) = self.jobs.remove(&id) else {
            return Err(InvalidTransition {
                kind: "job",
                state: "absent".into(),
                event: format!("{event:?}"),
            });
        };
        let moved = job.row.phase.apply(event);
        if let Ok(phase) = &moved {
            self.count(&job.row, -1);
            job.left = Some(job.row.phase.state().as_str());
            job.row.phase = *phase;
            change(&mut job.row);
            if phase.is_terminal() {
                job.row.finished_at = Some(self.context.now);
                job.row.not_before = None;
            }
            // A row that this batch made is first written as it ends up.
            job.row.version += u64::from(!job.is_changed || job.is_new);
            job.is_changed = true;
            self.count(&job.row, 1);
        }
        self.jobs.insert(id, job);
        moved
    }

    /// Moves an attempt by an event and changes it. An attempt that ends gets its end time.
    pub fn move_attempt(
        &mut self,
        key: AttemptKey,
        event: AttemptEvent,
        change: impl FnOnce(&mut AttemptRecord),
    ) -> Result<(), InvalidTransition> {
        let Some(attempt) = self.attempts.get_mut(&key) else {
            return Err(InvalidTransition {
                kind: "attempt",
                state: "absent".into(),
                event: format!("{event:?}"),
            });
        };
        let left = attempt.row.phase.state().as_str();
        attempt.row.phase = attempt.row.phase.apply(event)?;
        attempt.left = Some(left);
        if !attempt.row.phase.is_live() {
            attempt.row.ended_at = Some(self.context.now);
        }
        change(&mut attempt.row);
        attempt.is_changed = true;
        Ok(())
    }

    /// Changes an attempt that stays where it is in its life.
    pub fn change_attempt(&mut self, key: AttemptKey, change: impl FnOnce(&mut AttemptRecord)) {
        if let Some(attempt) = self.attempts.get_mut(&key) {
            change(&mut attempt.row);
            attempt.is_changed = true;
        }
    }

    /// The job's live attempt.
    pub fn live_attempt(&self, id: JobId) -> Option<&AttemptRecord> {
        let job = &self.jobs.get(&id)?.row;
        self.attempts.get(&(id, job.attempt)).map(|attempt| &attempt.row).filter(|row| row.phase.is_live())
    }

    /// Records an event about a job as it now is.
    pub fn note_job(&mut self, kind: EventKind, id: JobId, actor: &str, reason: Option<Reason>) {
        if let Some(job) = self.jobs.get(&id) {
            self.events.push(EventRecord {
                at: self.context.now,
                kind,
                tenant: job.row.tenant.clone(),
                job: id,
                attempt: None,
                fence: None,
                node: None,
                zone: job.row.zone.clone(),
                actor: actor.to_owned(),
                from: job.left,
                state: job.row.phase.state().as_str(),
                reason,
            });
        }
    }

    /// Records an event about an attempt as it now is.
    pub fn note_attempt(&mut self, kind: EventKind, key: AttemptKey, actor: &str, reason: Option<Reason>) {
        if let (Some(job), Some(attempt)) = (self.jobs.get(&key.0), self.attempts.get(&key)) {
            self.events.push(EventRecord {
                at: self.context.now,
                kind,
                tenant: job.row.tenant.clone(),
                job: key.0,
                attempt: Some(key.1),
                fence: Some(attempt.row.fence),
                node: Some(attempt.row.node),
                zone: Some(attempt.row.zone.clone()),
                actor: actor.to_owned(),
                from: attempt.left,
                state: attempt.row.phase.state().as_str(),
                reason,
            });
        }
    }

    /// Whether the store has anything to write.
    pub fn is_changed(&self) -> bool {
        self.jobs.values().any(|job| job.is_changed)
            || self.attempts.values().any(|attempt| attempt.is_changed)
            || !self.logs.is_empty()
            || !self.events.is_empty()
            || !self.keys_made.is_empty()
    }
}
