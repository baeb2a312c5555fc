//! The writer: one task that owns the only writing connection. It takes what waits, begins a
//! transaction, takes what has come meanwhile, loads all that the commands need with a few
//! statements, lets them decide in memory, writes all changes with a few statements, commits once,
//! and answers. A batch is what arrived during the commit before; among many it waits a little longer
//! (see [`Crowd`]).

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use gristmill_lifecycle::{
    Settings, WorkingSet,
    command::{ApplyUpdates, LeaseGranted, Update, UpdateChange},
    totals::Totals,
    working_set::{Chance, Context, Needs, Tally, TallyChange},
};
use gristmill_protocol::node_api::LeaseRef;
use tokio::sync::{mpsc, oneshot};

use super::{
    StoreOptions,
    attempt::attempt_load,
    audit::audit_insert,
    batch::{Batch, Claim, ForgetClasses, Message, Pending},
    class::class_purge,
    crowd::Crowd,
    flush::flush,
    idempotency::idempotency_load,
    job::{job_load, job_load_ready},
    news::{News, news, tell},
    session::Session,
};
use crate::{
    clock::Clock,
    entropy::Entropy,
    store::StoreError,
    wake::{Topic, Wakes},
};

/// Most operations in one transaction.
const BATCH_MAX: usize = 1_024;
/// How often a claim looks again at once when its neighbours took what was loaded for it.
const CLAIM_TRIES_MAX: u8 = 8;

pub(super) struct Writer {
    session: Session,
    inbox: mpsc::Receiver<Message>,
    tally: Tally,
    held: VecDeque<Claim>,
    forgetting: Vec<ForgetClasses>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    settings: Settings,
    wakes: Arc<Wakes>,
    totals: Arc<Mutex<Totals>>,
    crowd: Crowd,
    closing: bool,
}

/// The server's randomness as the rules take it.
struct Drawn<'a>(&'a dyn Entropy);

impl Chance for Drawn<'_> {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill(bytes);
    }
}

/// What a committed batch means for those outside.
#[derive(Default)]
struct Committed {
    jobs_changed: usize,
    change: TallyChange,
    totals: Totals,
    news: Vec<News>,
    topics: Vec<Topic>,
    /// What each claim of the batch got, in its order.
    granted: Vec<Vec<LeaseGranted>>,
    /// What held claims got, by their numbers.
    granted_held: Vec<(u64, Vec<LeaseGranted>)>,
}

impl Committed {
    /// Claims that got leases.
    fn grants(&self) -> usize {
        self.granted.iter().filter(|granted| !granted.is_empty()).count() + self.granted_held.len()
    }
}

enum Failure {
    /// Nothing was written; one operation may be to blame, so each is tried alone.
    Batch(StoreError),
    /// Nothing was written, and no operation is to blame.
    Database(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Failed { .. } | StoreError::Inconsistent(_) => Self::Batch(error),
            StoreError::Unavailable { .. } | StoreError::Closed => Self::Database(error),
        }
    }
}

impl Writer {
    pub(super) fn new(
        session: Session,
        inbox: mpsc::Receiver<Message>,
        tally: Tally,
        totals: Arc<Mutex<Totals>>,
        with: StoreOptions,
    ) -> Self {
        Self {
            session,
            inbox,
            tally,
            held: VecDeque::new(),
            forgetting: Vec::new(),
            clock: with.clock,
            entropy: with.entropy,
            settings: with.settings,
            wakes: with.wakes,
            totals,
            crowd: Crowd::default(),
            closing: false,
        }
    }

    pub(super) async fn run(mut self) {
        let mut messages = Vec::new();
        while !self.closing {
            if self.inbox.recv_many(&mut messages, BATCH_MAX).await == 0 {
                break;
            }
            self.gather(&mut messages).await;
            let mut batch = Batch::default();
            self.sort(&mut messages, &mut batch);
            self.process(batch).await;
            while let Some(ForgetClasses { limit, sender }) = self.forgetting.pop() {
                let _ = sender.send(self.forget_classes(limit).await);
            }
        }
        self.inbox.close();
        while let Ok(message) = self.inbox.try_recv() {
            // The senders are dropped with the messages, which tells their callers.
            drop(message);
        }
        self.held.clear();
        self.session.close().await;
    }

    /// Waits for those who come with the first, when many came the last time.
    async fn gather(&mut self, messages: &mut Vec<Message>) {
        while let Some(until) = self.crowd.until(messages.len(), Instant::now()) {
            let room = BATCH_MAX - messages.len();
            match tokio::time::timeout_at(until.into(), self.inbox.recv_many(messages, room)).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
        }
    }

    fn sort(&mut self, messages: &mut Vec<Message>, batch: &mut Batch) {
        for message in messages.drain(..) {
            match message {
                Message::Command(op) => batch.ops.push(op),
                Message::Claim(claim) => batch.claims.push(*claim),
                Message::Write(write) => batch.writes.push(write),
                Message::ForgetClasses(classes) => self.forgetting.push(classes),
                Message::Withdraw(id) => self.withdraw(id, batch),
                Message::Close => self.closing = true,
            }
        }
    }

    fn withdraw(&mut self, id: u64, batch: &mut Batch) {
        if let Some(claim) = batch.claims.iter_mut().find(|claim| claim.id == id) {
            claim.hold = false;
        } else if let Some(position) = self.held.iter().position(|claim| claim.id == id)
            && let Some(claim) = self.held.remove(position)
        {
            let _ = claim.sender.send(Ok(Vec::new()));
        }
    }

    /// Takes what has come since the batch was begun.
    fn drain(&mut self, batch: &mut Batch) {
        let mut messages = Vec::new();
        while batch.len() + messages.len() < BATCH_MAX
            && let Ok(message) = self.inbox.try_recv()
        {
            messages.push(message);
        }
        self.sort(&mut messages, batch);
    }

    async fn process(&mut self, mut batch: Batch) {
        let started = Instant::now();
        match self.transact(&mut batch, true).await {
            Ok(committed) => {
                self.session.count_grants(started, committed.grants());
                self.publish(batch, committed).await;
            }
            Err(Failure::Batch(error)) if batch.len() == 1 => fail(batch, &error),
            Err(Failure::Batch(error)) => {
                tracing::warn!(%error, ops = batch.len(), "a batch failed; its operations are tried one by one");
                for mut single in batch.split() {
                    match self.transact(&mut single, false).await {
                        Ok(committed) => self.publish(single, committed).await,
                        Err(Failure::Batch(error) | Failure::Database(error)) => fail(single, &error),
                    }
                }
            }
            Err(Failure::Database(error)) => fail(batch, &error),
        }
    }

    async fn transact(&mut self, batch: &mut Batch, drain: bool) -> Result<Committed, Failure> {
        if batch.ops.is_empty() && batch.writes.is_empty() && batch.needs(&self.tally).is_empty() {
            // Claims for which nothing is ready: the counters in memory know that without a query.
            return Ok(Committed {
                granted: batch.claims.iter().map(|_| Vec::new()).collect(),
                ..Committed::default()
            });
        }
        let began = Instant::now();
        self.session.begin().await?;
        if drain {
            self.drain(batch);
        }
        let result = self.work(batch).await;
        match result {
            Ok((committed, true)) => match self.session.commit().await {
                Ok(()) => {
                    self.crowd.note(began, batch.len(), committed.jobs_changed);
                    Ok(committed)
                }
                Err(error) => {
                    self.session.rollback().await;
                    Err(Failure::Database(error))
                }
            },
            Ok((committed, false)) => {
                self.session.rollback().await;
                Ok(committed)
            }
            Err(error) => {
                self.session.rollback().await;
                Err(error.into())
            }
        }
    }

    /// All between begin and commit. The flag says whether there is anything to commit.
    async fn work(&mut self, batch: &mut Batch) -> Result<(Committed, bool), StoreError> {
        let needs = batch.needs(&self.tally);
        let entropy = Arc::clone(&self.entropy);
        let mut chance = Drawn(&*entropy);
        let context = Context {
            now: self.clock.now(),
            settings: &self.settings,
            tally: &self.tally,
            chance: &mut chance,
        };
        let mut set = WorkingSet::new(context);
        load(&mut self.session, &needs, &mut set).await?;
        for op in &mut batch.ops {
            op.decide(&mut set).map_err(StoreError::inconsistent)?;
        }
        let mut committed = Committed::default();
        for claim in &self.held {
            if !set.has_ready() {
                break;
            }
            if claim.sender.is_closed() {
                continue;
            }
            let granted = decide(claim, &mut set)?;
            if !granted.is_empty() {
                committed.granted_held.push((claim.id, granted));
            }
        }
        for claim in &batch.claims {
            committed.granted.push(decide(claim, &mut set)?);
        }
        let mut write = set.is_changed();
        if write {
            flush(&mut self.session, &set).await?;
            let entries: Vec<_> = batch.ops.iter().flat_map(|op| op.audit(set.now())).collect();
            if !entries.is_empty() {
                audit_insert(self.session.conn(), &entries).await?;
            }
        }
        committed.jobs_changed = set.jobs.values().filter(|job| job.is_changed).count();
        committed.topics = topics(&set);
        committed.totals = Totals::of(&set);
        committed.news = news(&set);
        committed.change = set.change;
        for change in &mut batch.writes {
            self.session.execute("/* writer */ SAVEPOINT change").await?;
            if change.run(self.session.conn()).await {
                write = true;
            } else {
                self.session.execute("/* writer */ ROLLBACK TO change").await?;
            }
            self.session.execute("/* writer */ RELEASE change").await?;
        }
        Ok((committed, write))
    }

    /// Tells everybody concerned that the batch is durable.
    async fn publish(&mut self, batch: Batch, committed: Committed) {
        let (ops, claims) = (batch.len(), batch.claims.len());
        self.tally.absorb(committed.change);
        self.totals.lock().unwrap_or_else(PoisonError::into_inner).absorb(committed.totals);
        for op in batch.ops {
            op.answer(Ok(()));
        }
        for write in batch.writes {
            write.answer(None);
        }
        let mut returned = Vec::new();
        for (id, granted) in committed.granted_held {
            if let Some(position) = self.held.iter().position(|claim| claim.id == id)
                && let Some(claim) = self.held.remove(position)
            {
                returned.extend(hand_over(claim, granted));
            }
        }
        if !batch.claims.is_empty() {
            self.held.retain(|claim| !claim.sender.is_closed());
        }
        let mut again = Batch::default();
        for (claim, granted) in batch.claims.into_iter().zip(committed.granted) {
            if granted.is_empty() && claim.tries < CLAIM_TRIES_MAX && self.has_ready_for(&claim) {
                again.claims.push(Claim { tries: claim.tries + 1, ..claim });
            } else if granted.is_empty() && claim.hold {
                self.held.push_back(claim);
            } else {
                returned.extend(hand_over(claim, granted));
            }
        }
        for topic in committed.topics {
            self.wakes.wake(topic);
        }
        committed.news.iter().for_each(tell);
        self.session.count_ops(ops, claims);
        if !returned.is_empty() {
            Box::pin(self.give_back(returned)).await;
        }
        if !again.claims.is_empty() {
            Box::pin(self.process(again)).await;
        }
    }

    /// Removes placement classes that no job refers to, at most `limit`, and forgets them once that is
    /// durable. No batch comes in between.
    async fn forget_classes(&mut self, limit: u32) -> Result<u64, StoreError> {
        self.session.begin().await?;
        let removed = match class_purge(&mut self.session, limit).await {
            Ok(removed) => self.session.commit().await.map(|()| removed),
            Err(error) => Err(error),
        };
        if removed.is_err() {
            self.session.rollback().await;
        }
        let removed = removed?;
        for id in &removed {
            self.tally.forget_class(*id);
        }
        Ok(removed.len() as u64)
    }

    /// Whether jobs are ready that a claim can take. It then came away empty only because the jobs
    /// loaded for it were cancelled or leased by its neighbours in the same batch, and it must look
    /// again rather than wait beside a queue that has work for it.
    fn has_ready_for(&self, claim: &Claim) -> bool {
        use gristmill_lifecycle::command::Command;
        let mut needs = Needs::default();
        claim.command.needs(&self.tally, &mut needs);
        !needs.ready.is_empty() && !claim.sender.is_closed()
    }

    /// Releases leases whose node stopped waiting before it learnt of them.
    async fn give_back(&mut self, returned: Vec<ApplyUpdates>) {
        let mut batch = Batch::default();
        for command in returned {
            let (sender, _) = oneshot::channel();
            batch.ops.push(Box::new(Pending::new(command, sender)));
        }
        self.process(batch).await;
    }
}

fn decide(claim: &Claim, set: &mut WorkingSet<'_>) -> Result<Vec<LeaseGranted>, StoreError> {
    use gristmill_lifecycle::command::Command;
    claim.command.decide(set).map_err(StoreError::inconsistent)
}

/// Answers a claim; if nobody listens any more, returns what gives its leases back.
fn hand_over(claim: Claim, granted: Vec<LeaseGranted>) -> Option<ApplyUpdates> {
    let node = claim.command.node;
    let unheard = claim.sender.send(Ok(granted)).err()?.ok()?;
    let updates: Vec<_> = unheard
        .into_iter()
        .map(|lease| Update {
            lease: LeaseRef { job: lease.job, attempt: lease.attempt, lease_token: lease.token },
            change: UpdateChange::Released,
        })
        .collect();
    (!updates.is_empty()).then_some(ApplyUpdates { node, updates })
}

async fn load(session: &mut Session, needs: &Needs, set: &mut WorkingSet<'_>) -> Result<(), StoreError> {
    if !needs.jobs.is_empty() || !needs.attempts.is_empty() {
        attempt_load(session, needs, set).await?;
        job_load(session, needs, set).await?;
    }
    if !needs.ready.is_empty() {
        job_load_ready(session, needs, set).await?;
    }
    if !needs.keys.is_empty() {
        idempotency_load(session, needs, set).await?;
    }
    Ok(())
}

/// Whom the changes concern.
fn topics(set: &WorkingSet<'_>) -> Vec<Topic> {
    let changed = set.jobs.values().filter(|job| job.is_changed && !job.is_new);
    let jobs = changed.flat_map(|job| {
        let end = job.row.phase.is_terminal().then_some(Topic::JobEnd(job.row.id));
        [Some(Topic::Job(job.row.id)), end].into_iter().flatten()
    });
    let attempts = set
        .attempts
        .values()
        .filter(|attempt| attempt.is_new || (attempt.is_changed && !attempt.row.phase.is_live()))
        .map(|attempt| Topic::Log(attempt.row.job));
    let logs = set.logs.iter().map(|log| Topic::Log(log.job));
    let nodes = set.nodes_woken.iter().map(|node| Topic::Node(*node));
    let events = (!set.events.is_empty()).then_some(Topic::Events);
    jobs.chain(attempts).chain(logs).chain(nodes).chain(events).collect()
}

fn fail(batch: Batch, error: &StoreError) {
    let text = match error {
        StoreError::Failed { source, .. } | StoreError::Unavailable { source } => source.to_string(),
        other => other.to_string(),
    };
    tracing::error!(error = text, "a change was not stored");
    let passes = matches!(error, StoreError::Unavailable { .. });
    batch.fail(|| {
        let source = text.clone().into();
        if passes {
            StoreError::Unavailable { source }
        } else {
            StoreError::Failed { name: "store the change", source }
        }
    });
}
