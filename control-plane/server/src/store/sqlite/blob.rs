//! The tables `blobs`, `blob_owners` and `attempt_blobs`.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use gristmill_lifecycle::WorkingSet;
use gristmill_protocol::{Digest, JobId, Timestamp};
use sqlx::SqliteConnection;

use super::{
    SqliteStore,
    convert::{failed, micros, parse, to_json},
    session::Session,
};
use crate::store::{StoreError, blob::BlobRows};

/// Makes the row of a blob and, if a tenant is named, lets it see the blob.
pub(super) async fn blob_insert(
    connection: &mut SqliteConnection,
    tenant: Option<&str>,
    digest: Digest,
    size: u64,
    at: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "/* blob_insert */ INSERT INTO blobs (digest, size, created_at, used_at) VALUES (?1, ?2, ?3, ?3)
         ON CONFLICT DO UPDATE SET used_at = max(used_at, excluded.used_at)",
    )
    .bind(digest.to_string())
    .bind(size as i64)
    .bind(micros(at))
    .execute(&mut *connection)
    .await
    .map_err(failed("blob_insert"))?;
    let Some(tenant) = tenant else { return Ok(()) };
    sqlx::query(
        "/* blob_insert */ INSERT INTO blob_owners (tenant, digest, created_at) VALUES (?, ?, ?)
         ON CONFLICT DO NOTHING",
    )
    .bind(tenant)
    .bind(digest.to_string())
    .bind(micros(at))
    .execute(connection)
    .await
    .map_err(failed("blob_insert"))?;
    Ok(())
}

/// Lets tenants see blobs: rows of `tenant`, `digest`, `size` and `at` as JSON text. Blobs that have
/// no row yet get one.
pub(super) async fn blob_own(connection: &mut SqliteConnection, rows: &str) -> Result<(), StoreError> {
    for statement in [
        "/* blob_own */ INSERT INTO blobs (digest, size, created_at, used_at)
         SELECT value ->> 'digest', value ->> 'size', value ->> 'at', value ->> 'at'
         FROM json_each(?) WHERE true
         ON CONFLICT DO UPDATE SET used_at = max(used_at, excluded.used_at)",
        "/* blob_own */ INSERT INTO blob_owners (tenant, digest, created_at)
         SELECT value ->> 'tenant', value ->> 'digest', value ->> 'at' FROM json_each(?) WHERE true
         ON CONFLICT DO NOTHING",
    ] {
        sqlx::query(statement).bind(rows).execute(&mut *connection).await.map_err(failed("blob_own"))?;
    }
    Ok(())
}

/// Ties blobs to the new jobs that read them. Fails when one of them is not there any more.
pub(super) async fn job_blob_insert(session: &mut Session, set: &WorkingSet<'_>) -> Result<(), StoreError> {
    session
        .change_each(
            "/* job_blob_insert */ INSERT INTO job_blobs (job, digest)
             SELECT value ->> 0, value ->> 1 FROM jsonb_each(?1)",
            &set.job_blobs,
        )
        .await
}

/// Notes that blobs are wanted. Returns those that are still there.
async fn blob_touch(
    connection: &mut SqliteConnection,
    digests: &str,
    at: Timestamp,
) -> Result<HashSet<String>, StoreError> {
    let there: Vec<String> = sqlx::query_scalar(
        "/* blob_touch */ UPDATE blobs SET used_at = max(used_at, ?2)
         WHERE digest IN (SELECT value FROM json_each(?1)) RETURNING digest",
    )
    .bind(digests)
    .bind(micros(at))
    .fetch_all(connection)
    .await
    .map_err(failed("blob_touch"))?;
    Ok(there.into_iter().collect())
}

/// Lets an attempt keep those of the blobs that its tenant has.
async fn blob_hold(
    connection: &mut SqliteConnection,
    tenant: &str,
    job: JobId,
    attempt: u32,
    digests: &str,
) -> Result<HashMap<Digest, u64>, StoreError> {
    let rows = sqlx::query_as::<_, (String, i64)>(
        "/* blob_hold */ SELECT blobs.digest, blobs.size
         FROM json_each(?1) AS asked JOIN blobs ON blobs.digest = asked.value
         JOIN blob_owners AS o ON o.tenant = ?2 AND o.digest = blobs.digest",
    )
    .bind(digests)
    .bind(tenant)
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("blob_hold"))?;
    let found = sizes(rows)?;
    sqlx::query(
        "/* blob_hold */ INSERT INTO attempt_blobs (job, attempt, digest)
         SELECT ?1, ?2, value FROM json_each(?3) WHERE true ON CONFLICT DO NOTHING",
    )
    .bind(job.to_string())
    .bind(attempt)
    .bind(to_json(&found.keys().collect::<Vec<_>>())?)
    .execute(connection)
    .await
    .map_err(failed("blob_hold"))?;
    Ok(found)
}

/// Digests and sizes from rows.
fn sizes(rows: impl IntoIterator<Item = (String, i64)>) -> Result<HashMap<Digest, u64>, StoreError> {
    rows.into_iter().map(|(digest, size)| Ok((parse(&digest)?, size.unsigned_abs()))).collect()
}

#[async_trait]
impl BlobRows for SqliteStore {
    async fn blob_record(
        &self,
        tenant: &str,
        digest: Digest,
        size: u64,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let tenant = tenant.to_owned();
        self.write("blob_record", move |connection| {
            Box::pin(async move { blob_insert(connection, Some(&tenant), digest, size, at).await })
        })
        .await
    }

    async fn blob_record_output(
        &self,
        job: JobId,
        attempt: u32,
        digest: Digest,
        size: u64,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        self.write("blob_record_output", move |connection| {
            Box::pin(async move {
                blob_insert(connection, None, digest, size, at).await?;
                sqlx::query(
                    "/* blob_record_output */ INSERT INTO attempt_blobs (job, attempt, digest)
                     VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                )
                .bind(job.to_string())
                .bind(attempt)
                .bind(digest.to_string())
                .execute(connection)
                .await
                .map_err(failed("blob_record_output"))?;
                Ok(())
            })
        })
        .await
    }

    async fn blob_output_sizes(
        &self,
        tenant: &str,
        job: JobId,
        attempt: u32,
        digests: &[Digest],
    ) -> Result<HashMap<Digest, u64>, StoreError> {
        let asked = to_json(&digests)?;
        let stored = sqlx::query_as::<_, (String, i64)>(
            "/* blob_output_sizes */ SELECT blobs.digest, blobs.size
             FROM json_each(?1) AS asked JOIN blobs ON blobs.digest = asked.value
             JOIN attempt_blobs AS a ON a.job = ?2 AND a.attempt = ?3 AND a.digest = blobs.digest",
        )
        .bind(&asked)
        .bind(job.to_string())
        .bind(attempt)
        .fetch_all(self.reads())
        .await
        .map_err(failed("blob_output_sizes"))?;
        let mut found = sizes(stored)?;
        if digests.iter().all(|digest| found.contains_key(digest)) {
            return Ok(found);
        }
        let tenant = tenant.to_owned();
        let held = self
            .write_unrecorded("blob_output_sizes", move |connection| {
                Box::pin(async move { blob_hold(connection, &tenant, job, attempt, &asked).await })
            })
            .await?;
        found.extend(held);
        Ok(found)
    }

    async fn blob_visible(
        &self,
        tenant: &str,
        digests: &[Digest],
    ) -> Result<HashMap<Digest, u64>, StoreError> {
        if digests.is_empty() {
            return Ok(HashMap::new());
        }
        let rows = sqlx::query_as::<_, (String, i64, i64)>(
            "/* blob_visible */ SELECT blobs.digest, blobs.size, blobs.used_at
             FROM json_each(?1) AS asked JOIN blobs ON blobs.digest = asked.value
             WHERE EXISTS (SELECT 1 FROM blob_owners AS o
                           WHERE o.tenant = ?2 AND o.digest = blobs.digest)
                OR EXISTS (SELECT 1 FROM module_versions AS v
                           JOIN modules AS m ON m.owner = v.owner AND m.name = v.name
                           WHERE v.digest = blobs.digest
                             AND (m.owner = ?2 OR m.visibility = 'public'))",
        )
        .bind(to_json(&digests)?)
        .bind(tenant)
        .fetch_all(self.reads())
        .await
        .map_err(failed("blob_visible"))?;
        let now = self.clock.now();
        let fresh_since = now.checked_sub(self.blob_grace / 2).map_or(i64::MIN, micros);
        let stale: Vec<_> =
            rows.iter().filter(|(_, _, used_at)| *used_at < fresh_since).map(|row| row.0.clone()).collect();
        let mut gone: HashSet<String> = HashSet::new();
        if !stale.is_empty() {
            let asked = to_json(&stale)?;
            let there = self
                .write_unrecorded("blob_visible", move |connection| {
                    Box::pin(async move { blob_touch(connection, &asked, now).await })
                })
                .await?;
            gone = stale.into_iter().filter(|digest| !there.contains(digest)).collect();
        }
        let rows = rows.into_iter().filter(|(digest, ..)| !gone.contains(digest));
        sizes(rows.map(|(digest, size, _)| (digest, size)))
    }

    async fn blob_totals(&self) -> Result<(u64, u64), StoreError> {
        let (count, bytes) = sqlx::query_as::<_, (i64, i64)>(
            "/* blob_totals */ SELECT count(*), coalesce(sum(size), 0) FROM blobs",
        )
        .fetch_one(self.reads())
        .await
        .map_err(failed("blob_totals"))?;
        Ok((count.unsigned_abs(), bytes.unsigned_abs()))
    }
}
