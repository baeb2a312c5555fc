//! Table `outputs`.

use gristmill_lifecycle::WorkingSet;
use gristmill_protocol::{JobId, job::OutputEntry};
use serde_json::json;
use sqlx::{Row, SqlitePool, sqlite::SqliteRow};

use super::{job::parse, session::Session};
use crate::store::StoreError;

pub(super) async fn output_insert(session: &mut Session, set: &WorkingSet<'_>) -> Result<(), StoreError> {
    let rows: Vec<_> = set
        .outputs
        .iter()
        .map(|output| {
            json!({"job": output.job, "path": output.path, "digest": output.digest, "size": output.size})
        })
        .collect();
    session
        .change_each(
            "/* output_insert */ INSERT INTO outputs (job, path, digest, size)
             SELECT value ->> 'job', value ->> 'path', value ->> 'digest', value ->> 'size' FROM jsonb_each(?1)",
            &rows,
        )
        .await
}

fn entry(row: &SqliteRow) -> Result<OutputEntry, StoreError> {
    Ok(OutputEntry {
        path: row.try_get(0)?,
        digest: parse(row.try_get(1)?)?,
        size: row.try_get::<i64, _>(2)?.unsigned_abs(),
    })
}

pub(super) async fn output_list(reads: &SqlitePool, job: JobId) -> Result<Vec<OutputEntry>, StoreError> {
    let rows =
        sqlx::query("/* output_list */ SELECT path, digest, size FROM outputs WHERE job = ?1 ORDER BY path")
            .bind(job.to_string())
            .fetch_all(reads)
            .await?;
    rows.iter().map(entry).collect()
}

pub(super) async fn output_get(
    reads: &SqlitePool,
    job: JobId,
    path: &str,
) -> Result<Option<OutputEntry>, StoreError> {
    let row =
        sqlx::query("/* output_get */ SELECT path, digest, size FROM outputs WHERE job = ?1 AND path = ?2")
            .bind(job.to_string())
            .bind(path)
            .fetch_optional(reads)
            .await?;
    row.map(|row| entry(&row)).transpose()
}
