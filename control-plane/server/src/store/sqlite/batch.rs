//! What waits for the writer: commands on jobs and leases, claims that may be held, and other changes.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use gristmill_lifecycle::{
    WorkingSet,
    command::{AcquireLeases, Command, LeaseGranted},
    job::InvalidTransition,
    working_set::{Needs, Tally},
};
use gristmill_protocol::Timestamp;
use sqlx::SqliteConnection;
use tokio::sync::oneshot;

use super::audit::AuditRow;
use crate::store::{
    StoreError,
    audit::{AuditNote, Audited, Verdict},
};

/// What is sent to the writer.
pub(super) enum Message {
    /// A command on jobs and leases.
    Command(Box<dyn Op>),
    /// A claim.
    Claim(Box<Claim>),
    /// The caller of a held claim waits no longer.
    Withdraw(u64),
    /// Another change.
    Write(Box<dyn Write>),
    /// Forget placement classes.
    ForgetClasses(ForgetClasses),
    /// Finish and end.
    Close,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Command(_) => "Command",
            Self::Claim(_) => "Claim",
            Self::Withdraw(_) => "Withdraw",
            Self::Write(_) => "Write",
            Self::ForgetClasses(_) => "ForgetClasses",
            Self::Close => "Close",
        })
    }
}

/// A command that waits for its answer.
pub(super) trait Op: Send + Sync {
    fn needs(&self, tally: &Tally, needs: &mut Needs);
    /// Decides and keeps the reply until it is answered. It can be called again after a failure.
    fn decide(&mut self, set: &mut WorkingSet<'_>) -> Result<(), InvalidTransition>;
    /// What the record gets, once it is decided.
    fn audit(&self, now: Timestamp) -> Vec<AuditRow>;
    fn answer(self: Box<Self>, result: Result<(), StoreError>);
}

/// Reads a reply for the record.
type VerdictsOf<C> = fn(&<C as Command>::Reply) -> Vec<(Option<String>, Verdict)>;

pub(super) struct Pending<C: Command> {
    command: C,
    reply: Option<C::Reply>,
    sender: oneshot::Sender<Result<C::Reply, StoreError>>,
    audit: Option<(Arc<AuditNote>, VerdictsOf<C>)>,
}

impl<C: Command> Pending<C> {
    pub(super) fn new(command: C, sender: oneshot::Sender<Result<C::Reply, StoreError>>) -> Self {
        Self { command, reply: None, sender, audit: None }
    }
}

impl<C: Command<Reply: Audited>> Pending<C> {
    /// Tells the record, too.
    pub(super) fn audited(mut self, note: Option<Arc<AuditNote>>) -> Self {
        let verdicts: VerdictsOf<C> = Audited::verdicts;
        self.audit = note.map(|note| (note, verdicts));
        self
    }
}

impl<C: Command> Op for Pending<C> {
    fn needs(&self, tally: &Tally, needs: &mut Needs) {
        self.command.needs(tally, needs);
    }

    fn decide(&mut self, set: &mut WorkingSet<'_>) -> Result<(), InvalidTransition> {
        self.reply = Some(self.command.decide(set)?);
        Ok(())
    }

    fn audit(&self, now: Timestamp) -> Vec<AuditRow> {
        let (Some((note, verdicts)), Some(reply)) = (&self.audit, &self.reply) else { return Vec::new() };
        let row = |(object, verdict)| AuditRow::of(note, verdict, now).about(object);
        verdicts(reply).into_iter().map(row).collect()
    }

    fn answer(self: Box<Self>, result: Result<(), StoreError>) {
        let Self { reply, sender, .. } = *self;
        // Nobody waits any longer when this fails; the change is durable all the same.
        let _ = sender.send(result.and_then(|()| reply.ok_or(StoreError::Closed)));
    }
}

/// Placement classes without jobs that are to go. The writer does it apart from all others, since it
/// keeps the classes in memory.
pub(super) struct ForgetClasses {
    /// Most classes.
    pub(super) limit: u32,
    /// Hears how many went.
    pub(super) sender: oneshot::Sender<Result<u64, StoreError>>,
}

/// A claim that waits for leases.
pub(super) struct Claim {
    /// Names the claim for a withdrawal.
    pub(super) id: u64,
    pub(super) command: AcquireLeases,
    /// Whether to wait when there is nothing to grant.
    pub(super) hold: bool,
    /// How often it has looked again at once.
    pub(super) tries: u8,
    pub(super) sender: oneshot::Sender<Result<Vec<LeaseGranted>, StoreError>>,
}

/// A change that brings its own statements.
pub(super) trait Write: Send {
    fn run<'c>(&'c mut self, conn: &'c mut SqliteConnection) -> BoxFuture<'c, bool>;
    fn answer(self: Box<Self>, failure: Option<StoreError>);
}

pub(super) struct PendingWrite<T, F> {
    name: &'static str,
    change: Option<F>,
    result: Option<Result<T, StoreError>>,
    sender: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> PendingWrite<T, F> {
    pub(super) fn new(name: &'static str, change: F, sender: oneshot::Sender<Result<T, StoreError>>) -> Self {
        Self { name, change: Some(change), result: None, sender }
    }
}

impl<T, F> Write for PendingWrite<T, F>
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, StoreError>> + Send + 'static,
{
    fn run<'c>(&'c mut self, conn: &'c mut SqliteConnection) -> BoxFuture<'c, bool> {
        Box::pin(async move {
            let Some(change) = self.change.take() else { return false };
            let result = change(conn).await.map_err(|error| match error {
                StoreError::Failed { source, .. } => StoreError::Failed { name: self.name, source },
                other => other,
            });
            let done = result.is_ok();
            self.result = Some(result);
            done
        })
    }

    fn answer(self: Box<Self>, failure: Option<StoreError>) {
        let answer = match (failure, self.result) {
            // A change that failed by itself says so, whatever became of the transaction.
            (_, Some(Err(error))) | (Some(error), _) => Err(error),
            (None, Some(Ok(value))) => Ok(value),
            (None, None) => Err(StoreError::Closed),
        };
        let _ = self.sender.send(answer);
    }
}

/// What is done in one transaction.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) ops: Vec<Box<dyn Op>>,
    pub(super) claims: Vec<Claim>,
    pub(super) writes: Vec<Box<dyn Write>>,
}

impl Batch {
    pub(super) fn len(&self) -> usize {
        self.ops.len() + self.claims.len() + self.writes.len()
    }

    pub(super) fn needs(&self, tally: &Tally) -> Needs {
        let mut needs = Needs::default();
        for op in &self.ops {
            op.needs(tally, &mut needs);
        }
        for claim in &self.claims {
            claim.command.needs(tally, &mut needs);
        }
        needs
    }

    /// Each operation in a batch of its own, in the same order.
    pub(super) fn split(self) -> Vec<Self> {
        let ops = self.ops.into_iter().map(|op| Self { ops: vec![op], ..Self::default() });
        let claims = self.claims.into_iter().map(|claim| Self { claims: vec![claim], ..Self::default() });
        let writes = self.writes.into_iter().map(|write| Self { writes: vec![write], ..Self::default() });
        ops.chain(claims).chain(writes).collect()
    }

    /// Answers everything with the same failure.
    pub(super) fn fail(self, failure: impl Fn() -> StoreError) {
        for op in self.ops {
            op.answer(Err(failure()));
        }
        for claim in self.claims {
            let _ = claim.sender.send(Err(failure()));
        }
        for write in self.writes {
            write.answer(Some(failure()));
        }
    }
}
