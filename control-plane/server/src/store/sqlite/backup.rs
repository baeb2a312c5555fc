//! A copy of the database by itself: what it refers to, whether it is sound, and how it begins a new
//! life.

use std::path::Path;

use gristmill_protocol::{
    Digest, Timestamp,
    audit::{AuditOperation, AuditOutcome},
};
use sqlx::{
    ConnectOptions, Connection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode},
};

use super::{
    audit::{AuditRow, audit_insert},
    convert::{parse, to_json},
    options,
    retention::attempt_of,
    schema::{schema_of, snapshot},
};
use crate::store::{StoreError, audit::AuditNote};

/// Things that are named by one answer.
const PAGE: u32 = 512;
/// The first schema with a record of changes; a backup can be older.
const SCHEMA_WITH_RECORD: i64 = 5;

/// A copy of a database in a file of its own, which no server works with.
#[derive(Debug)]
pub struct Snapshot {
    connection: SqliteConnection,
    schema: i64,
}

impl Snapshot {
    /// Copies a database, with which a server may work, to a file. The copy is of one moment. Durable
    /// when it returns.
    pub async fn take(database: &Path, to: &Path) -> Result<Self, StoreError> {
        let mut source = options(database).connect().await?;
        let copied = match schema_of(&mut source).await {
            Ok(_) => snapshot(&mut source, to).await,
            Err(error) => Err(error),
        };
        source.close().await?;
        copied?;
        Self::open(to).await
    }

    /// Opens a copy. Fails when this program does not know its tables.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        // A rollback journal, so that nothing lies beside the file once it is closed.
        let alone = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Delete)
            .foreign_keys(true)
            .disable_statement_logging();
        Self::connect(alone).await
    }

    /// Opens a copy that may lie on a disk that cannot be written; nothing lies beside it afterwards
    /// either. Otherwise as [`Snapshot::open`].
    pub async fn open_read_only(path: &Path) -> Result<Self, StoreError> {
        let unchanging = SqliteConnectOptions::new().filename(path).read_only(true).immutable(true);
        Self::connect(unchanging.disable_statement_logging()).await
    }

    async fn connect(options: SqliteConnectOptions) -> Result<Self, StoreError> {
        let mut connection = options.connect().await?;
        let schema = schema_of(&mut connection).await?.found.unwrap_or(0);
        Ok(Self { connection, schema })
    }

    /// The number of its last migration.
    pub fn schema(&self) -> i64 {
        self.schema
    }

    /// The next blobs that have a row, after one of them, with their sizes; empty at the end.
    pub async fn blobs(&mut self, after: Option<Digest>) -> Result<Vec<(Digest, u64)>, StoreError> {
        let rows = sqlx::query_as::<_, (String, i64)>(
            "/* blobs */ SELECT digest, size FROM blobs WHERE digest > ?1 ORDER BY digest LIMIT ?2",
        )
        .bind(after.map(|digest| digest.to_string()).unwrap_or_default())
        .bind(PAGE)
        .fetch_all(&mut self.connection)
        .await?;
        rows.into_iter().map(|(digest, size)| Ok((parse(&digest)?, size.unsigned_abs()))).collect()
    }

    /// The next keys of log pieces that lie elsewhere, after a number, each with its own number.
    pub async fn logs(&mut self, after: i64) -> Result<Vec<(i64, String)>, StoreError> {
        Ok(sqlx::query_as(
            "/* logs */ SELECT rowid, blob_key FROM log_chunks
             WHERE rowid > ?1 AND blob_key IS NOT NULL ORDER BY rowid LIMIT ?2",
        )
        .bind(after)
        .bind(PAGE)
        .fetch_all(&mut self.connection)
        .await?)
    }

    /// Forgets blobs whose bytes are gone, if nothing refers to them. Fails with the first that is
    /// referred to.
    pub async fn forget_blobs(&mut self, digests: &[Digest]) -> Result<(), StoreError> {
        if digests.is_empty() {
            return Ok(());
        }
        let list = to_json(&digests)?;
        let mut all = self.connection.begin().await?;
        for statement in [
            "/* forget_blobs */ DELETE FROM attempt_blobs WHERE digest IN (SELECT value FROM json_each(?1))
                 AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.job = attempt_blobs.job
                     AND a.number = attempt_blobs.attempt AND a.state IN ('leased', 'running'))",
            "/* forget_blobs */ DELETE FROM blob_owners WHERE digest IN (SELECT value FROM json_each(?1))",
            "/* forget_blobs */ DELETE FROM blobs WHERE digest IN (SELECT value FROM json_each(?1))
                 AND digest NOT IN (SELECT digest FROM outputs) AND digest NOT IN (SELECT digest FROM module_versions)
                 AND digest NOT IN (SELECT digest FROM job_blobs) AND digest NOT IN (SELECT digest FROM attempt_blobs)",
        ] {
            sqlx::query(statement).bind(&list).execute(&mut *all).await?;
        }
        let needed: Option<String> = sqlx::query_scalar(
            "/* forget_blobs */ SELECT digest FROM blobs WHERE digest IN (SELECT value FROM json_each(?1)) LIMIT 1",
        )
        .bind(&list)
        .fetch_optional(&mut *all)
        .await?;
        if let Some(digest) = needed {
            return Err(StoreError::Inconsistent(format!(
                "the bytes of {digest} are gone, and a job or a module needs them"
            )));
        }
        all.commit().await?;
        Ok(())
    }

    /// Forgets a log up to a piece whose bytes are gone because it was too old.
    pub async fn forget_log(&mut self, key: &str) -> Result<(), StoreError> {
        let Some((job, attempt)) = attempt_of(key) else { return Ok(()) };
        sqlx::query(
            "/* forget_log */ DELETE FROM log_chunks WHERE job = ?1 AND attempt = ?2 AND position <=
                 (SELECT max(position) FROM log_chunks WHERE job = ?1 AND attempt = ?2 AND blob_key = ?3)",
        )
        .bind(job.to_string())
        .bind(attempt)
        .bind(key)
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }

    /// Fails when the database is damaged.
    pub async fn check(&mut self) -> Result<(), StoreError> {
        let verdict: String =
            sqlx::query_scalar("PRAGMA integrity_check(1)").fetch_one(&mut self.connection).await?;
        if verdict != "ok" {
            return Err(StoreError::Inconsistent(format!("the database is damaged: {verdict}")));
        }
        let broken = sqlx::query("PRAGMA foreign_key_check").fetch_optional(&mut self.connection).await?;
        match broken {
            None => Ok(()),
            Some(_) => Err(StoreError::inconsistent("the database is damaged: a row refers to nothing")),
        }
    }

    /// Begins a new life: fences that are granted from now on are above all earlier ones, and leases
    /// that were alive are over. Returns the number of this life, which is at least `least`.
    pub async fn begin_generation(&mut self, least: u32, now: Timestamp) -> Result<u32, StoreError> {
        let mut all = self.connection.begin().await?;
        let generation: i64 = sqlx::query_scalar(
            "/* begin_generation */ UPDATE meta SET value = max(value + 1, ?1) WHERE name = 'generation'
             RETURNING value",
        )
        .bind(least)
        .fetch_one(&mut *all)
        .await?;
        sqlx::query(
            "/* begin_generation */ UPDATE attempts SET expires_at = 0 WHERE state IN ('leased', 'running')",
        )
        .execute(&mut *all)
        .await?;
        if self.schema >= SCHEMA_WITH_RECORD {
            let note =
                AuditNote::of_server(AuditOperation::BackupRestore, format!("generation {generation}"));
            audit_insert(&mut all, &[AuditRow::of(&note, (AuditOutcome::Done, None), now)]).await?;
        }
        all.commit().await?;
        u32::try_from(generation).map_err(StoreError::inconsistent)
    }

    /// Closes the file.
    pub async fn close(self) -> Result<(), StoreError> {
        Ok(self.connection.close().await?)
    }
}

/// Those of the keys of log pieces that the database still refers to.
pub async fn logs_referred_to(database: &Path, keys: &[String]) -> Result<Vec<String>, StoreError> {
    let mut connection = options(database).connect().await?;
    let mut found = Vec::new();
    for key in keys {
        let Some((job, attempt)) = attempt_of(key) else { continue };
        let there: bool = sqlx::query_scalar(
            "/* logs_referred_to */ SELECT EXISTS (SELECT 1 FROM log_chunks
             WHERE job = ?1 AND attempt = ?2 AND blob_key = ?3)",
        )
        .bind(job.to_string())
        .bind(attempt)
        .bind(key)
        .fetch_one(&mut connection)
        .await?;
        if there {
            found.push(key.clone());
        }
    }
    connection.close().await?;
    Ok(found)
}
