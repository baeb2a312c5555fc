//! Table `log_chunks`.

use gristmill_lifecycle::{WorkingSet, record::LogBody};
use gristmill_protocol::attempt::LogStream;
use serde_json::json;
use sqlx::{Row, SqlitePool};

use super::{job::parse, session::Session};
use crate::store::{
    StoreError,
    job::{LogChunkRecord, LogRange},
};

pub(super) async fn log_insert(session: &mut Session, set: &WorkingSet<'_>) -> Result<(), StoreError> {
    let rows: Vec<_> = set
        .logs
        .iter()
        .map(|log| {
            let (bytes, key, skip) = match &log.body {
                LogBody::Inline(bytes) => (Some(hex::encode(bytes)), None, 0),
                LogBody::Stored { key, skip } => (None, Some(key), *skip),
            };
            json!({
                "job": log.job, "attempt": log.attempt, "position": log.position, "fence": log.fence,
                "stream": log.stream, "offset": log.offset, "len": log.len, "elapsed_us": log.elapsed_us,
                "bytes": bytes, "key": key, "skip": skip,
            })
        })
        .collect();
    session
        .change_each(
            "/* log_insert */ INSERT INTO log_chunks (job, attempt, position, fence, stream, start_offset, len,
                 elapsed_us, bytes, blob_key, blob_skip)
             SELECT value ->> 'job', value ->> 'attempt', value ->> 'position', value ->> 'fence',
                 value ->> 'stream', value ->> 'offset', value ->> 'len', value ->> 'elapsed_us',
                 unhex(value ->> 'bytes'), value ->> 'key', value ->> 'skip'
             FROM jsonb_each(?1)",
            &rows,
        )
        .await
}

pub(super) async fn log_list(reads: &SqlitePool, range: LogRange) -> Result<Vec<LogChunkRecord>, StoreError> {
    let sql = if range.stream.is_some() {
        "/* log_list */ SELECT stream, start_offset, position, len, elapsed_us, bytes, blob_key, blob_skip
         FROM log_chunks WHERE job = ?1 AND attempt = ?2 AND stream = ?3
             AND start_offset >= coalesce((SELECT max(start_offset) FROM log_chunks
                 WHERE job = ?1 AND attempt = ?2 AND stream = ?3 AND start_offset <= ?4), 0)
         ORDER BY start_offset LIMIT ?5"
    } else {
        "/* log_list */ SELECT stream, start_offset, position, len, elapsed_us, bytes, blob_key, blob_skip
         FROM log_chunks WHERE job = ?1 AND attempt = ?2 AND ?3 IS NULL
             AND position >= coalesce((SELECT max(position) FROM log_chunks
                 WHERE job = ?1 AND attempt = ?2 AND position <= ?4), 0)
         ORDER BY position LIMIT ?5"
    };
    let rows = sqlx::query(sql)
        .bind(range.job.to_string())
        .bind(range.attempt)
        .bind(range.stream.map(LogStream::as_str))
        .bind(i64::try_from(range.offset).unwrap_or(i64::MAX))
        .bind(range.limit)
        .fetch_all(reads)
        .await?;
    rows.iter()
        .map(|row| {
            let key: Option<String> = row.try_get(6)?;
            let skip = row.try_get::<i64, _>(7)?.unsigned_abs();
            Ok(LogChunkRecord {
                stream: parse(row.try_get(0)?)?,
                offset: row.try_get::<i64, _>(1)?.unsigned_abs(),
                position: row.try_get::<i64, _>(2)?.unsigned_abs(),
                len: row.try_get::<i64, _>(3)?.unsigned_abs(),
                elapsed_us: row.try_get::<i64, _>(4)?.unsigned_abs(),
                bytes: row.try_get(5)?,
                stored: key.map(|key| (key, skip)),
            })
        })
        .collect()
}
