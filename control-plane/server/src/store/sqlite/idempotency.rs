//! Table `idempotency_keys`.

use std::collections::HashMap;

use gristmill_lifecycle::{WorkingSet, record::IdempotencyRecord, working_set::Needs};
use gristmill_protocol::Timestamp;
use serde_json::json;
use sqlx::{Row, SqliteConnection, SqlitePool};

use super::{
    job::parse,
    session::{Session, json as json_text},
};
use crate::store::StoreError;

pub(super) async fn idempotency_load(
    session: &mut Session,
    needs: &Needs,
    set: &mut WorkingSet<'_>,
) -> Result<(), StoreError> {
    let rows = session
        .select(
            "/* idempotency_load */ SELECT k.tenant, k.key, k.request, k.job FROM jsonb_each(?1) w
             CROSS JOIN idempotency_keys k ON k.tenant = w.value ->> 0 AND k.key = w.value ->> 1 WHERE ?2 = 0",
            &needs.keys,
            0,
        )
        .await?;
    for row in rows {
        let known = IdempotencyRecord { request: parse(row.try_get(2)?)?, job: parse(row.try_get(3)?)? };
        set.keys.insert((row.try_get(0)?, row.try_get(1)?), known);
    }
    Ok(())
}

pub(super) async fn idempotency_insert(
    session: &mut Session,
    set: &WorkingSet<'_>,
) -> Result<(), StoreError> {
    let at = set.now().as_microsecond();
    let rows: Vec<_> = set
        .keys_made
        .iter()
        .filter_map(|name| {
            let made = set.keys.get(name)?;
            Some(json!({
                "tenant": name.0, "key": name.1, "request": made.request, "job": made.job, "at": at,
            }))
        })
        .collect();
    session
        .change_each(
            "/* idempotency_insert */ INSERT INTO idempotency_keys (tenant, key, request, job, created_at)
             SELECT value ->> 'tenant', value ->> 'key', value ->> 'request', value ->> 'job', value ->> 'at'
             FROM jsonb_each(?1)",
            &rows,
        )
        .await
}

pub(super) async fn idempotency_find(
    reads: &SqlitePool,
    tenant: &str,
    keys: &[String],
) -> Result<HashMap<String, IdempotencyRecord>, StoreError> {
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query(
        "/* idempotency_find */ SELECT k.key, k.request, k.job FROM jsonb_each(?2) w
         CROSS JOIN idempotency_keys k ON k.tenant = ?1 AND k.key = w.value",
    )
    .bind(tenant)
    .bind(json_text(&keys)?)
    .fetch_all(reads)
    .await?;
    rows.iter()
        .map(|row| {
            let known = IdempotencyRecord { request: parse(row.try_get(1)?)?, job: parse(row.try_get(2)?)? };
            Ok((row.try_get(0)?, known))
        })
        .collect()
}

/// Forgets keys that were first used before a time, at most `limit`.
pub(super) async fn idempotency_prune(
    conn: &mut SqliteConnection,
    before: Timestamp,
    limit: u32,
) -> Result<u64, StoreError> {
    let changed = sqlx::query(
        "/* idempotency_prune */ DELETE FROM idempotency_keys WHERE (tenant, key) IN (
             SELECT tenant, key FROM idempotency_keys WHERE created_at < ?1 LIMIT ?2)",
    )
    .bind(before.as_microsecond())
    .bind(limit)
    .execute(conn)
    .await?;
    Ok(changed.rows_affected())
}
