//! The writing connection, with a count of what it does.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use gristmill_lifecycle::totals::{Histogram, LATENCY_BOUNDS};
use serde::Serialize;
use sqlx::{Executor, SqliteConnection, sqlite::SqliteRow};

use crate::store::{StoreError, job::StoreCounters};

/// What the writer has done.
#[derive(Debug, Default)]
pub(super) struct Counters {
    commits: AtomicU64,
    statements: AtomicU64,
    queries: AtomicU64,
    ops: AtomicU64,
    claims: AtomicU64,
    commit_times: Mutex<Histogram>,
    claim_times: Mutex<Histogram>,
}

impl Counters {
    /// Notes that a reader asks something.
    pub(super) fn count_query(&self) {
        self.queries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> StoreCounters {
        StoreCounters {
            commits: self.commits.load(Ordering::Relaxed),
            statements: self.statements.load(Ordering::Relaxed),
            queries: self.queries.load(Ordering::Relaxed),
            ops: self.ops.load(Ordering::Relaxed),
            claims: self.claims.load(Ordering::Relaxed),
            commit_times: *locked(&self.commit_times),
            claim_times: *locked(&self.claim_times),
        }
    }
}

fn locked(histogram: &Mutex<Histogram>) -> MutexGuard<'_, Histogram> {
    histogram.lock().unwrap_or_else(PoisonError::into_inner)
}

fn micros(started: Instant) -> u64 {
    started.elapsed().as_micros() as u64
}

/// The writing connection.
#[derive(Debug)]
pub(super) struct Session {
    conn: SqliteConnection,
    counters: Arc<Counters>,
}

/// Writes rows as the JSON text that `json_each` unfolds.
pub(super) fn json(rows: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(rows).map_err(StoreError::inconsistent)
}

impl Session {
    pub(super) fn new(conn: SqliteConnection, counters: Arc<Counters>) -> Self {
        Self { conn, counters }
    }

    fn count_statement(&self) {
        self.counters.statements.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_ops(&self, ops: usize, claims: usize) {
        self.counters.ops.fetch_add(ops as u64, Ordering::Relaxed);
        self.counters.claims.fetch_add(claims as u64, Ordering::Relaxed);
    }

    /// Notes that claims were granted, in a batch that was begun at `started`.
    pub(super) fn count_grants(&self, started: Instant, grants: usize) {
        let mut times = locked(&self.counters.claim_times);
        (0..grants).for_each(|_| times.note(micros(started), &LATENCY_BOUNDS));
    }

    /// The connection itself, for changes that bring their own statements.
    pub(super) fn conn(&mut self) -> &mut SqliteConnection {
        self.count_statement();
        &mut self.conn
    }

    pub(super) async fn begin(&mut self) -> Result<(), StoreError> {
        self.count_statement();
        self.conn.execute("/* writer */ BEGIN IMMEDIATE").await?;
        Ok(())
    }

    pub(super) async fn commit(&mut self) -> Result<(), StoreError> {
        self.count_statement();
        let started = Instant::now();
        self.conn.execute("/* writer */ COMMIT").await?;
        locked(&self.counters.commit_times).note(micros(started), &LATENCY_BOUNDS);
        self.counters.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    pub(super) async fn rollback(&mut self) {
        self.count_statement();
        if let Err(error) = self.conn.execute("/* writer */ ROLLBACK").await {
            // SQLite rolls back by itself on some errors; then there is nothing left to roll back.
            tracing::debug!(%error, "rollback had nothing to do");
        }
    }

    pub(super) async fn execute(&mut self, sql: &'static str) -> Result<(), StoreError> {
        self.count_statement();
        self.conn.execute(sql).await?;
        Ok(())
    }

    /// Runs a statement over rows in JSON and returns how many rows it changed.
    pub(super) async fn change(
        &mut self,
        sql: &'static str,
        rows: &(impl Serialize + Sync),
    ) -> Result<u64, StoreError> {
        self.count_statement();
        Ok(sqlx::query(sql).bind(json(rows)?).execute(&mut self.conn).await?.rows_affected())
    }

    /// Like [`change`](Self::change), but every row must be changed.
    pub(super) async fn change_each<R: Serialize + Sync>(
        &mut self,
        sql: &'static str,
        rows: &[R],
    ) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let changed = self.change(sql, &rows).await?;
        if changed == rows.len() as u64 {
            return Ok(());
        }
        let name = sql.get(3..sql.find(" */").unwrap_or(3)).unwrap_or_default();
        Err(StoreError::Inconsistent(format!("{name} changed {changed} of {} rows", rows.len())))
    }

    /// Reads rows, with one JSON text as the first parameter and a number as the second.
    pub(super) async fn select(
        &mut self,
        sql: &'static str,
        rows: &(impl Serialize + Sync),
        number: i64,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        self.count_statement();
        Ok(sqlx::query(sql).bind(json(rows)?).bind(number).fetch_all(&mut self.conn).await?)
    }

    pub(super) async fn close(self) {
        use sqlx::Connection;
        if let Err(error) = self.conn.close().await {
            tracing::warn!(%error, "the database did not close cleanly");
        }
    }
}
