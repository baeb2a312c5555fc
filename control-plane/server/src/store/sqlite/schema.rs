//! Brings the tables of a database up to date: forward only, all steps at once or none, and with a
//! copy of the file as it was before.

use std::{
    io,
    path::{Path, PathBuf},
};

use gristmill_protocol::{
    Timestamp,
    audit::{AuditOperation, AuditOutcome},
};
use sqlx::{ConnectOptions, Connection, SqliteConnection, migrate::Migrator, sqlite::SqliteConnectOptions};

use super::{
    audit::{AuditRow, audit_insert},
    options,
};
use crate::store::{StoreError, audit::AuditNote};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// Folder beside the database with the copies.
const COPIES: &str = "before-migration";
/// Copies that are kept: those of the newest schemas.
const COPIES_MAX: usize = 3;

/// The tables that a database has, and those that this program works with. Schemas are numbered by
/// their last migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// The database's; `None` when it has no tables yet.
    pub found: Option<i64>,
    /// This program's.
    pub latest: i64,
    /// Migrations that are still to be done, in order, by number and name.
    pub pending: Vec<(i64, String)>,
}

/// Why a database cannot be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// It has tables that this program does not know.
    #[error(
        "it was written by a newer version of gristmill: it has schema {found}, this version knows \
         schemas up to {latest}; use that version or a newer one, or restore a backup of before"
    )]
    TooNew {
        /// The database's newest migration.
        found: i64,
        /// This program's newest migration.
        latest: i64,
    },
    /// A migration failed; nothing was changed.
    #[error("a migration failed; nothing was changed")]
    Failed(#[from] sqlx::migrate::MigrateError),
    /// The copy could not be made; nothing was changed.
    #[error("the copy {path} could not be made; nothing was changed")]
    Copy {
        /// Where it should have gone.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl From<SchemaError> for StoreError {
    fn from(error: SchemaError) -> Self {
        Self::Failed { name: "bring the database up to date", source: Box::new(error) }
    }
}

/// Reads which tables a database has. Fails when it has tables that this program does not know.
pub(super) async fn schema_of(connection: &mut SqliteConnection) -> Result<Schema, StoreError> {
    let has_any: bool = sqlx::query_scalar(
        "/* schema_of */ SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = '_sqlx_migrations')",
    )
    .fetch_one(&mut *connection)
    .await?;
    let done: Vec<i64> = if has_any {
        sqlx::query_scalar("/* schema_of */ SELECT version FROM _sqlx_migrations ORDER BY version")
            .fetch_all(connection)
            .await?
    } else {
        Vec::new()
    };
    let latest = MIGRATIONS.iter().map(|step| step.version).max().unwrap_or(0);
    if let Some(found) = done.iter().rev().find(|version| !MIGRATIONS.version_exists(**version)) {
        return Err(SchemaError::TooNew { found: *found, latest }.into());
    }
    let pending = MIGRATIONS.iter().filter(|step| !done.contains(&step.version));
    Ok(Schema {
        found: done.last().copied(),
        latest,
        pending: pending.map(|step| (step.version, step.description.to_string())).collect(),
    })
}

/// Brings a database up to date, with a copy of it beforehand unless it is new. Returns the copy's
/// path if one was made. A process that is killed meanwhile leaves the database as it was.
pub(super) async fn migrate(
    connection: &mut SqliteConnection,
    path: &Path,
    now: Timestamp,
) -> Result<Option<PathBuf>, StoreError> {
    let schema = schema_of(connection).await?;
    let copy = match schema.found {
        Some(found) if !schema.pending.is_empty() => Some(copy_before(connection, path, found).await?),
        _ => None,
    };
    let mut all = connection.begin_with("BEGIN IMMEDIATE").await?;
    MIGRATIONS.run_direct(None, &mut *all, false).await.map_err(SchemaError::from)?;
    let before = schema.found.filter(|_| copy.is_some());
    if let Some(found) = before {
        let note = AuditNote::of_server(AuditOperation::SchemaMigrate, "database");
        let note = note.found(Some(found.unsigned_abs()));
        let verdict = (AuditOutcome::Done, Some(schema.latest.unsigned_abs()));
        audit_insert(&mut all, &[AuditRow::of(&note, verdict, now)]).await?;
    }
    all.commit().await?;
    if let Some(found) = before {
        tracing::info!(from = found, to = schema.latest, "the database was brought up to date");
    }
    Ok(copy)
}

async fn copy_before(
    connection: &mut SqliteConnection,
    path: &Path,
    schema: i64,
) -> Result<PathBuf, StoreError> {
    let folder = path.with_file_name(COPIES);
    let copy = folder.join(format!("schema-{schema}.db"));
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        StoreError::from(SchemaError::Copy { path: copy.clone(), source: error })
    };
    std::fs::create_dir_all(&folder).map_err(|error| failed(error.into()))?;
    let partial = copy.with_extension("partial");
    snapshot(connection, &partial).await.map_err(|error| failed(error.into()))?;
    std::fs::rename(&partial, &copy)
        .and_then(|()| std::fs::File::open(&folder)?.sync_all())
        .map_err(|error| failed(error.into()))?;
    if let Err(error) = forget_old(&folder) {
        tracing::warn!(%error, "an old copy of the database could not be removed");
    }
    Ok(copy)
}

/// Writes a consistent copy of the database to a file, which is replaced if it is there. Durable when
/// it returns. Others may work with the database meanwhile.
pub(super) async fn snapshot(connection: &mut SqliteConnection, to: &Path) -> Result<(), StoreError> {
    let io = |error: io::Error| StoreError::Unavailable { source: error.into() };
    match std::fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let name = to.to_str().ok_or_else(|| StoreError::inconsistent("the path of a copy must be UTF-8"))?;
    sqlx::query("/* snapshot */ VACUUM INTO ?1").bind(name).execute(connection).await?;
    std::fs::File::open(to).and_then(|file| file.sync_all()).map_err(io)
}

fn forget_old(folder: &Path) -> io::Result<()> {
    let mut copies = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix("schema-").and_then(|rest| rest.strip_suffix(".db"));
        if let Some(schema) = number.and_then(|number| number.parse::<i64>().ok()) {
            copies.push((schema, path));
        }
    }
    copies.sort_unstable();
    let old = copies.len().saturating_sub(COPIES_MAX);
    copies.into_iter().take(old).try_for_each(|(_, path)| std::fs::remove_file(path))
}

/// Which tables the database in a file has. Changes nothing; fails when there is no such file.
pub async fn read_schema(path: &Path) -> Result<Schema, StoreError> {
    let reading = SqliteConnectOptions::new().filename(path).read_only(true).disable_statement_logging();
    let mut connection = reading.connect().await?;
    let schema = schema_of(&mut connection).await;
    connection.close().await?;
    schema
}

/// Brings the database in a file up to date, which no server may have open. Returns the path of the
/// copy of before, if there was anything to do. `now` is for the record.
pub async fn upgrade(path: &Path, now: Timestamp) -> Result<Option<PathBuf>, StoreError> {
    let mut connection = options(path).connect().await?;
    let done = migrate(&mut connection, path, now).await;
    connection.close().await?;
    done
}
