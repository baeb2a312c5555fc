//! The embedded store: one SQLite file in WAL mode with `synchronous = FULL`, one writer task that
//! owns the only writing connection, and a small pool of readers.
//!
//! SQL stands in the file of the table it owns. Every statement begins with a comment naming its
//! function.

mod attempt;
mod audit;
mod backup;
mod batch;
mod blob;
mod class;
mod convert;
mod crowd;
mod event;
mod flush;
mod health;
mod idempotency;
mod job;
mod job_list;
mod job_store;
mod log;
mod module;
mod news;
mod node;
mod output;
mod retention;
mod schema;
mod session;
mod tenant;
mod token;
mod upload;
mod writer;
mod zone;

use std::{
    path::Path,
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::Duration,
};

use futures_util::future::BoxFuture;
use gristmill_lifecycle::{Settings, command::Command, totals::Totals};
use sqlx::{
    ConnectOptions, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use self::{
    audit::{AuditRow, audit_insert},
    batch::{Message, Pending, PendingWrite},
    session::{Counters, Session},
    writer::Writer,
};
pub use self::{
    backup::{Snapshot, logs_referred_to},
    schema::{Schema, SchemaError, read_schema, upgrade},
};
use super::{
    Store, StoreError,
    audit::{AuditNote, Audited},
};
use crate::{clock::Clock, entropy::Entropy, wake::Wakes};

/// Operations that may wait for the writer before callers have to.
const INBOX_MAX: usize = 8_192;
/// Reading connections.
const READERS: u32 = 4;

/// What the store works with.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The server's clock.
    pub clock: Arc<dyn Clock>,
    /// The server's randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Settings of the rules.
    pub settings: Settings,
    /// Whom to wake after a commit.
    pub wakes: Arc<Wakes>,
}

/// The embedded store. A clone is the same store.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    inbox: mpsc::Sender<Message>,
    reads: SqlitePool,
    counters: Arc<Counters>,
    totals: Arc<Mutex<Totals>>,
    tasks: TaskTracker,
    claims: Arc<AtomicU64>,
    clock: Arc<dyn Clock>,
    lease_ttl: Duration,
    blob_grace: Duration,
    /// What the record gets with each change.
    note: Option<Arc<AuditNote>>,
}

impl Store for SqliteStore {
    fn audited(&self, note: AuditNote) -> Arc<dyn Store> {
        Arc::new(Self { note: Some(Arc::new(note)), ..self.clone() })
    }
}

/// Primary result codes of SQLite that say nothing about the statement: busy, locked, out of memory,
/// read-only, I/O error, full, cannot open.
const PASSING: [i64; 7] = [5, 6, 7, 8, 10, 13, 14];

/// Tells what will pass by itself from what is wrong with an operation.
fn classified(name: &'static str, error: sqlx::Error) -> StoreError {
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<i64>().ok());
    match error {
        sqlx::Error::PoolClosed => StoreError::Closed,
        sqlx::Error::PoolTimedOut | sqlx::Error::Io(_) => StoreError::Unavailable { source: Box::new(error) },
        // The low byte of an extended code is the primary one.
        error if code.is_some_and(|code| PASSING.contains(&(code & 0xff))) => {
            StoreError::Unavailable { source: Box::new(error) }
        }
        error => StoreError::Failed { name, source: Box::new(error) },
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        classified("use the database", error)
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5))
        .disable_statement_logging()
}

impl SqliteStore {
    /// Opens the file, or makes it; brings its tables up to date; gives every live lease its full
    /// time from now on, since no node could renew while the server was down; and starts the writer.
    pub async fn open(path: &Path, with: StoreOptions) -> Result<Arc<Self>, StoreError> {
        let writing = options(path)
            .create_if_missing(true)
            .pragma("wal_autocheckpoint", "4000")
            .pragma("cache_size", "-65536");
        let mut conn = writing.connect().await?;
        schema::migrate(&mut conn, path, with.clock.now()).await?;
        let counters = Arc::new(Counters::default());
        let totals = Arc::new(Mutex::default());
        let mut session = Session::new(conn, Arc::clone(&counters));
        let tally = class::tally_load(&mut session).await?;
        attempt::lease_grace(&mut session, with.clock.now(), with.settings.lease_ttl).await?;
        let reads = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options(path).pragma("query_only", "ON"))
            .await?;
        let (inbox, receiver) = mpsc::channel(INBOX_MAX);
        let tasks = TaskTracker::new();
        let (clock, lease_ttl) = (Arc::clone(&with.clock), with.settings.lease_ttl);
        let blob_grace = with.settings.retention.blob_grace;
        tasks.spawn(Writer::new(session, receiver, tally, Arc::clone(&totals), with).run());
        tasks.close();
        let claims = Arc::new(AtomicU64::new(1));
        Ok(Arc::new(Self {
            inbox,
            reads,
            counters,
            totals,
            tasks,
            claims,
            clock,
            lease_ttl,
            blob_grace,
            note: None,
        }))
    }

    /// The readers, for one statement. They cannot write.
    pub(crate) fn reads(&self) -> &SqlitePool {
        self.counters.count_query();
        &self.reads
    }

    /// Runs a rarely used change in the writer's next transaction, under a savepoint of its own: if it
    /// fails, its neighbours do not. It is durable when this returns, and it still happens when the
    /// caller stops waiting. `change` must not begin or end transactions.
    pub(crate) async fn write<T: Audited + Send + 'static>(
        &self,
        name: &'static str,
        change: impl for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, StoreError>>
        + Send
        + 'static,
    ) -> Result<T, StoreError> {
        self.write_unrecorded(name, self.recorded(change)).await
    }

    /// As [`Self::write`], without an entry in the record: for what the server does by itself.
    pub(crate) async fn write_unrecorded<T: Send + 'static>(
        &self,
        name: &'static str,
        change: impl for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, StoreError>>
        + Send
        + 'static,
    ) -> Result<T, StoreError> {
        let (sender, receiver) = oneshot::channel();
        let write = PendingWrite::new(name, change, sender);
        self.send(Message::Write(Box::new(write))).await?;
        receiver.await.map_err(|_| StoreError::Closed)?
    }

    /// The change together with its entry in the record, if there is a note for one.
    fn recorded<T: Audited + Send + 'static>(
        &self,
        change: impl for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, StoreError>>
        + Send
        + 'static,
    ) -> impl for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, StoreError>> + Send + 'static
    {
        let (note, now) = (self.note.clone(), self.clock.now());
        move |connection| {
            Box::pin(async move {
                let done = change(&mut *connection).await?;
                if let Some(note) = note {
                    let row = |(object, verdict)| AuditRow::of(&note, verdict, now).about(object);
                    let rows: Vec<_> = done.verdicts().into_iter().map(row).collect();
                    if !rows.is_empty() {
                        audit_insert(connection, &rows).await?;
                    }
                }
                Ok(done)
            })
        }
    }

    async fn send(&self, message: Message) -> Result<(), StoreError> {
        self.inbox.send(message).await.map_err(|_| StoreError::Closed)
    }

    async fn decide<C: Command>(&self, command: C) -> Result<C::Reply, StoreError> {
        let (sender, receiver) = oneshot::channel();
        self.send(Message::Command(Box::new(Pending::new(command, sender)))).await?;
        receiver.await.map_err(|_| StoreError::Closed)?
    }

    /// Like [`Self::decide`], for a command that the record tells of.
    async fn decide_audited<C: Command<Reply: Audited>>(&self, command: C) -> Result<C::Reply, StoreError> {
        let (sender, receiver) = oneshot::channel();
        let pending = Pending::new(command, sender).audited(self.note.clone());
        self.send(Message::Command(Box::new(pending))).await?;
        receiver.await.map_err(|_| StoreError::Closed)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::SystemClock, entropy::SystemEntropy};

    #[tokio::test]
    async fn the_connection_that_writes_waits_for_the_disk_at_each_commit() {
        let dir = tempfile::tempdir().expect("a directory");
        let options = StoreOptions {
            clock: Arc::new(SystemClock::start()),
            entropy: Arc::new(SystemEntropy),
            settings: Settings::default(),
            wakes: Arc::default(),
        };
        let store = SqliteStore::open(&dir.path().join("gristmill.db"), options).await.expect("opens");
        let asked = store.write_unrecorded("pragmas", |writer| {
            Box::pin(async move {
                let synchronous: i64 =
                    sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *writer).await?;
                let journal: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(writer).await?;
                Ok((synchronous, journal))
            })
        });
        // 2 is FULL: in WAL mode, one wait for the disk at each commit. NORMAL waits at checkpoints alone.
        assert_eq!(asked.await.expect("pragmas can be read"), (2, "wal".to_owned()));
    }
}
