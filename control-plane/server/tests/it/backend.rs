//! Where the conformance suite runs: a store behind its trait, and a way around the trait to look
//! at rows and to try what no operation would do.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use gristmill_lifecycle::Settings;
use gristmill_server::{
    store::{
        Store,
        sqlite::{SqliteStore, StoreOptions},
    },
    wake::Wakes,
};
use sqlx::{
    AssertSqlSafe, Connection, Row, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode},
};
use tempfile::TempDir;

use crate::stand_ins::{ManualClock, SeededEntropy};

/// A database that a store can be opened on, again and again.
#[async_trait(?Send)]
pub(crate) trait Backend: Send + Sync {
    /// Opens the store as the server does at its start.
    async fn open(&self, with: StoreOptions) -> Arc<dyn Store>;

    /// Runs one statement behind the store's back. The error is the database's own text.
    async fn run(&self, sql: &str) -> Result<u64, String>;

    /// The first column of a query, as text.
    async fn column(&self, sql: &str) -> Vec<String>;

    /// Every row of every table, as text; two equal dumps mean that nothing was written in between.
    async fn dump(&self) -> Vec<String>;

    /// Waits until no process of the past holds the database any more, and fails if it is damaged.
    async fn settle(&self);
}

/// A directory in memory if there is one, so that a sync costs nothing.
pub(crate) fn scratch_dir() -> TempDir {
    let shm = PathBuf::from("/dev/shm");
    let made = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
    made.expect("a scratch directory can be made")
}

/// SQLite in a directory.
pub(crate) struct SqliteBackend {
    dir: PathBuf,
    /// Removed with the backend.
    _scratch: Option<TempDir>,
}

impl SqliteBackend {
    /// A database of its own, which goes away with it.
    pub(crate) fn scratch() -> Self {
        let scratch = scratch_dir();
        Self { dir: scratch.path().to_owned(), _scratch: Some(scratch) }
    }

    /// The database of a simulated server.
    pub(crate) fn in_dir(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), _scratch: None }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("gristmill.db")
    }

    async fn connect(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new()
            .filename(self.path())
            .journal_mode(SqliteJournalMode::Wal)
            .foreign_keys(true);
        SqliteConnection::connect_with(&options).await.expect("the database file can be opened")
    }
}

#[async_trait(?Send)]
impl Backend for SqliteBackend {
    async fn open(&self, with: StoreOptions) -> Arc<dyn Store> {
        SqliteStore::open(&self.path(), with).await.expect("the store opens")
    }

    async fn run(&self, sql: &str) -> Result<u64, String> {
        let mut conn = self.connect().await;
        let done = sqlx::query(AssertSqlSafe(sql)).execute(&mut conn).await;
        conn.close().await.expect("the connection closes");
        done.map(|done| done.rows_affected()).map_err(|error| error.to_string())
    }

    async fn column(&self, sql: &str) -> Vec<String> {
        let mut conn = self.connect().await;
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut conn).await.expect("the query runs");
        conn.close().await.expect("the connection closes");
        rows.iter().map(|row| row.get_unchecked::<String, _>(0)).collect()
    }

    async fn dump(&self) -> Vec<String> {
        let columns = self
            .column(
                "SELECT m.name || ':' || group_concat('quote(' || c.name || ')', '||''|''||')
                 FROM sqlite_master m JOIN pragma_table_info(m.name) c
                 WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' AND m.name NOT LIKE '_sqlx_%'
                 GROUP BY m.name ORDER BY m.name",
            )
            .await;
        let tables: Vec<_> = columns
            .iter()
            .filter_map(|entry| entry.split_once(':'))
            .map(|(table, row)| format!("SELECT '{table}|' || {row} FROM {table}"))
            .collect();
        self.column(&format!("SELECT * FROM ({}) ORDER BY 1", tables.join(" UNION ALL "))).await
    }

    async fn settle(&self) {
        let mut conn = self.connect().await;
        // Whoever still works in a transaction holds the write lock until it has ended.
        for sql in ["BEGIN IMMEDIATE", "ROLLBACK"] {
            sqlx::query(sql).execute(&mut conn).await.expect("the write lock becomes free");
        }
        let verdict: String = sqlx::query_scalar("PRAGMA integrity_check")
            .fetch_one(&mut conn)
            .await
            .expect("the integrity check runs");
        conn.close().await.expect("the connection closes");
        assert_eq!(verdict, "ok");
    }
}

/// A backend with its clock and settings.
pub(crate) struct Bench {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) settings: Settings,
    seed: u64,
}

impl Bench {
    /// SQLite, as the server runs it, with the settings of the product.
    pub(crate) fn sqlite() -> Self {
        Self::on(Arc::new(SqliteBackend::scratch()), 7)
    }

    pub(crate) fn on(backend: Arc<dyn Backend>, seed: u64) -> Self {
        Self { backend, clock: Arc::default(), settings: Settings::default(), seed }
    }

    /// What the store is opened with.
    pub(crate) fn options(&self) -> StoreOptions {
        StoreOptions {
            clock: self.clock.clone(),
            entropy: Arc::new(SeededEntropy::new(self.seed)),
            settings: self.settings.clone(),
            wakes: Arc::new(Wakes::default()),
        }
    }

    /// Opens the store.
    pub(crate) async fn open(&self) -> Arc<dyn Store> {
        self.backend.open(self.options()).await
    }

    /// Closes the store in order and opens it again.
    pub(crate) async fn reopen(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        store.close().await;
        drop(store);
        self.open().await
    }
}
