//! Removes what is kept no longer. Each statement over rows of several tables stands here, since it
//! is about what they mean together.

use async_trait::async_trait;
use gristmill_protocol::{Digest, JobId, Timestamp};
use sqlx::SqliteConnection;
use tokio::sync::oneshot;

use super::{
    SqliteStore,
    batch::{ForgetClasses, Message},
    class::class_is_any_unused,
    convert::{failed, micros, parse, time, to_json},
};
use crate::store::{
    StoreError,
    retention::{EndMark, EndedJob, RetentionStore, Step, UnusedBlob},
};

/// That nothing refers to the blob `b`. What an attempt stored is referred to while the attempt lasts;
/// after a success the job's outputs take over.
macro_rules! unreferenced {
    () => {
        "NOT EXISTS (SELECT 1 FROM job_blobs r WHERE r.digest = b.digest)
         AND NOT EXISTS (SELECT 1 FROM outputs r WHERE r.digest = b.digest)
         AND NOT EXISTS (SELECT 1 FROM module_versions r WHERE r.digest = b.digest)
         AND NOT EXISTS (SELECT 1 FROM attempt_blobs r JOIN attempts a ON a.job = r.job AND a.number = r.attempt
             WHERE r.digest = b.digest AND a.state IN ('leased', 'running'))"
    };
}

/// Which jobs of a tenant may go; as many as have about `limit` rows in all.
async fn jobs_to_purge(
    connection: &mut SqliteConnection,
    tenant: &str,
    before: EndMark,
    limit: u32,
) -> Result<Vec<i64>, StoreError> {
    let rows = sqlx::query_as::<_, (i64, i64)>(
        "/* job_purge */ SELECT j.seq, j.output_count + j.attempt + 1 FROM jobs j
         WHERE j.tenant = ?1 AND j.finished_at IS NOT NULL AND (j.finished_at, j.seq) < (?2, ?3)
             AND NOT EXISTS (SELECT 1 FROM log_chunks l WHERE l.job = j.id)
             AND NOT EXISTS (SELECT 1 FROM idempotency_keys k WHERE k.job = j.id)
         ORDER BY j.finished_at, j.seq LIMIT ?4",
    )
    .bind(tenant)
    .bind(micros(before.at))
    .bind(before.seq as i64)
    .bind(limit)
    .fetch_all(connection)
    .await
    .map_err(failed("job_purge"))?;
    let mut room = i64::from(limit);
    let fits = rows.into_iter().enumerate().take_while(|(index, (_, weight))| {
        room -= weight;
        // One job goes whatever its number of outputs.
        *index == 0 || room >= 0
    });
    Ok(fits.map(|(_, (seq, _))| seq).collect())
}

async fn job_purge(
    connection: &mut SqliteConnection,
    tenant: &str,
    before: EndMark,
    now: Timestamp,
    limit: u32,
) -> Result<u64, StoreError> {
    let jobs = jobs_to_purge(connection, tenant, before, limit).await?;
    if jobs.is_empty() {
        return Ok(0);
    }
    let list = to_json(&jobs)?;
    sqlx::query(
        "/* job_purge */ UPDATE blobs SET used_at = max(used_at, ?2) WHERE digest IN (
             SELECT digest FROM job_blobs WHERE job IN (SELECT value FROM json_each(?1))
             UNION SELECT o.digest FROM json_each(?1) w JOIN jobs j ON j.seq = w.value
                 JOIN outputs o ON o.job = j.id)",
    )
    .bind(&list)
    .bind(micros(now))
    .execute(&mut *connection)
    .await
    .map_err(failed("job_purge"))?;
    for statement in [
        "/* job_purge */ DELETE FROM job_blobs WHERE job IN (SELECT value FROM json_each(?1))",
        "/* job_purge */ DELETE FROM outputs WHERE job IN (
             SELECT j.id FROM json_each(?1) w JOIN jobs j ON j.seq = w.value)",
        "/* job_purge */ DELETE FROM attempt_blobs WHERE job IN (
             SELECT j.id FROM json_each(?1) w JOIN jobs j ON j.seq = w.value)",
        "/* job_purge */ DELETE FROM attempts WHERE job IN (
             SELECT j.id FROM json_each(?1) w JOIN jobs j ON j.seq = w.value)",
        "/* job_purge */ DELETE FROM job_documents WHERE seq IN (SELECT value FROM json_each(?1))",
        "/* job_purge */ DELETE FROM jobs WHERE seq IN (SELECT value FROM json_each(?1))",
        "/* job_purge */ UPDATE meta SET value = max(value, (SELECT max(value) FROM json_each(?1)))
         WHERE name = 'purged_seq'",
    ] {
        sqlx::query(statement).bind(&list).execute(&mut *connection).await.map_err(failed("job_purge"))?;
    }
    Ok(jobs.len() as u64)
}

async fn log_purge(
    connection: &mut SqliteConnection,
    job: JobId,
    limit: u32,
) -> Result<(u64, Vec<String>), StoreError> {
    let rows: Vec<Option<String>> = sqlx::query_scalar(
        "/* log_purge */ DELETE FROM log_chunks WHERE rowid IN (
             SELECT l.rowid FROM jobs j CROSS JOIN log_chunks l ON l.job = j.id
             WHERE j.id = ?1 AND j.finished_at IS NOT NULL
             ORDER BY l.attempt, l.position LIMIT ?2) RETURNING blob_key",
    )
    .bind(job.to_string())
    .bind(limit)
    .fetch_all(connection)
    .await
    .map_err(failed("log_purge"))?;
    Ok((rows.len() as u64, rows.into_iter().flatten().collect()))
}

async fn blob_forget(
    connection: &mut SqliteConnection,
    digests: &str,
    before: Timestamp,
) -> Result<Vec<(Digest, u64)>, StoreError> {
    let rows = sqlx::query_as::<_, (String, i64)>(concat!(
        "/* blob_forget */ SELECT b.digest, b.size FROM json_each(?1) w JOIN blobs b ON b.digest = w.value
         WHERE b.used_at < ?2 AND ",
        unreferenced!()
    ))
    .bind(digests)
    .bind(micros(before))
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("blob_forget"))?;
    let list = to_json(&rows.iter().map(|(digest, _)| digest).collect::<Vec<_>>())?;
    for statement in [
        "/* blob_forget */ DELETE FROM attempt_blobs WHERE digest IN (SELECT value FROM json_each(?1))",
        "/* blob_forget */ DELETE FROM blob_owners WHERE digest IN (SELECT value FROM json_each(?1))",
        "/* blob_forget */ DELETE FROM blobs WHERE digest IN (SELECT value FROM json_each(?1))",
    ] {
        sqlx::query(statement).bind(&list).execute(&mut *connection).await.map_err(failed("blob_forget"))?;
    }
    rows.into_iter().map(|(digest, size)| Ok((parse(&digest)?, size.unsigned_abs()))).collect()
}

/// The job and the attempt's number in a key `logs/JOB/NUMBER-FENCE/…`.
pub(super) fn attempt_of(key: &str) -> Option<(JobId, u32)> {
    let mut parts = key.strip_prefix("logs/")?.split('/');
    let job = parts.next()?.parse().ok()?;
    Some((job, parts.next()?.split_once('-')?.0.parse().ok()?))
}

#[async_trait]
impl RetentionStore for SqliteStore {
    async fn ended_jobs(
        &self,
        tenant: &str,
        before: Option<EndMark>,
        limit: u32,
    ) -> Result<Vec<EndedJob>, StoreError> {
        let rows = sqlx::query_as::<_, (i64, i64, i64)>(
            "/* ended_jobs */ SELECT j.finished_at, j.seq, j.output_bytes + CASE
                 WHEN EXISTS (SELECT 1 FROM log_chunks l WHERE l.job = j.id)
                 THEN (SELECT sum(a.stdout_bytes + a.stderr_bytes) FROM attempts a WHERE a.job = j.id)
                 ELSE 0 END
             FROM jobs j
             WHERE j.tenant = ?1 AND j.finished_at IS NOT NULL AND (j.finished_at, j.seq) < (?2, ?3)
             ORDER BY j.finished_at DESC, j.seq DESC LIMIT ?4",
        )
        .bind(tenant)
        .bind(before.map_or(i64::MAX, |mark| micros(mark.at)))
        .bind(before.map_or(i64::MAX, |mark| mark.seq as i64))
        .bind(limit)
        .fetch_all(self.reads())
        .await
        .map_err(failed("ended_jobs"))?;
        let ended = |(at, seq, bytes): (i64, i64, i64)| {
            let mark = EndMark { at: time(at)?, seq: seq.unsigned_abs() };
            Ok(EndedJob { mark, bytes: bytes.unsigned_abs() })
        };
        rows.into_iter().map(ended).collect()
    }

    async fn logged_jobs(
        &self,
        tenant: &str,
        since: Option<EndMark>,
        before: EndMark,
        limit: u32,
    ) -> Result<Vec<JobId>, StoreError> {
        let ids: Vec<String> = sqlx::query_scalar(
            "/* logged_jobs */ SELECT j.id FROM jobs j
             WHERE j.tenant = ?1 AND j.finished_at IS NOT NULL
                 AND (j.finished_at, j.seq) >= (?2, ?3) AND (j.finished_at, j.seq) < (?4, ?5)
                 AND EXISTS (SELECT 1 FROM log_chunks l WHERE l.job = j.id)
             ORDER BY j.finished_at, j.seq LIMIT ?6",
        )
        .bind(tenant)
        .bind(since.map_or(i64::MIN, |mark| micros(mark.at)))
        .bind(since.map_or(0, |mark| mark.seq as i64))
        .bind(micros(before.at))
        .bind(before.seq as i64)
        .bind(limit)
        .fetch_all(self.reads())
        .await
        .map_err(failed("logged_jobs"))?;
        ids.iter().map(|id| parse(id)).collect()
    }

    async fn log_purge(&self, job: JobId, limit: u32) -> Result<(u64, Vec<String>), StoreError> {
        self.write("log_purge", move |connection| Box::pin(log_purge(connection, job, limit))).await
    }

    async fn job_purge(
        &self,
        tenant: &str,
        before: EndMark,
        now: Timestamp,
        limit: u32,
    ) -> Result<u64, StoreError> {
        // Most rounds find nothing, and need no transaction to know it.
        let mut reader = self.reads().acquire().await?;
        if jobs_to_purge(&mut reader, tenant, before, 1).await?.is_empty() {
            return Ok(0);
        }
        drop(reader);
        let tenant = tenant.to_owned();
        self.write("job_purge", move |connection| {
            Box::pin(async move { job_purge(connection, &tenant, before, now, limit).await })
        })
        .await
    }

    async fn event_purge(
        &self,
        after_seq: u64,
        before: Timestamp,
        limit: u32,
    ) -> Result<Step<u64>, StoreError> {
        let rows = sqlx::query_as::<_, (i64, i64, bool)>(
            "/* event_purge */ SELECT e.seq, e.at, EXISTS (SELECT 1 FROM jobs j WHERE j.id = e.job)
             FROM events e WHERE e.seq > ?1 ORDER BY e.seq LIMIT ?2",
        )
        .bind(i64::try_from(after_seq).unwrap_or(i64::MAX))
        .bind(limit)
        .fetch_all(self.reads())
        .await
        .map_err(failed("event_purge"))?;
        let old: Vec<_> = rows.iter().take_while(|(_, at, _)| *at < micros(before)).collect();
        let is_over = old.len() < limit as usize;
        let next = old.last().filter(|_| !is_over).map(|(seq, ..)| seq.unsigned_abs());
        let orphans: Vec<i64> = old.iter().filter(|(_, _, has_job)| !has_job).map(|(seq, ..)| *seq).collect();
        if orphans.is_empty() {
            return Ok(Step { removed: 0, next });
        }
        let list = to_json(&orphans)?;
        let removed = self
            .write("event_purge", move |connection| {
                Box::pin(async move {
                    let done = sqlx::query(
                        "/* event_purge */ DELETE FROM events WHERE seq IN (SELECT value FROM json_each(?1))",
                    )
                    .bind(list)
                    .execute(connection)
                    .await?;
                    Ok(done.rows_affected())
                })
            })
            .await?;
        Ok(Step { removed, next })
    }

    async fn class_purge(&self, limit: u32) -> Result<u64, StoreError> {
        if !class_is_any_unused(self.reads()).await? {
            return Ok(0);
        }
        let (sender, receiver) = oneshot::channel();
        self.send(Message::ForgetClasses(ForgetClasses { limit, sender })).await?;
        receiver.await.map_err(|_| StoreError::Closed)?
    }

    async fn audit_purge(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        self.write("audit_purge", move |connection| {
            Box::pin(async move {
                let done = sqlx::query(
                    "/* audit_purge */ DELETE FROM audit WHERE seq IN (
                         SELECT seq FROM audit WHERE at < ?1 ORDER BY at LIMIT ?2)",
                )
                .bind(micros(before))
                .bind(limit)
                .execute(connection)
                .await?;
                Ok(done.rows_affected())
            })
        })
        .await
    }

    async fn blob_unused(
        &self,
        before: Timestamp,
        after: Option<UnusedBlob>,
        limit: u32,
    ) -> Result<Vec<UnusedBlob>, StoreError> {
        let rows = sqlx::query_as::<_, (String, i64)>(concat!(
            "/* blob_unused */ SELECT b.digest, b.used_at FROM blobs b
             WHERE (b.used_at, b.digest) > (?1, ?2) AND b.used_at < ?3 AND ",
            unreferenced!(),
            " ORDER BY b.used_at, b.digest LIMIT ?4"
        ))
        .bind(after.map_or(i64::MIN, |blob| micros(blob.used_at)))
        .bind(after.map(|blob| blob.digest.to_string()).unwrap_or_default())
        .bind(micros(before))
        .bind(limit)
        .fetch_all(self.reads())
        .await
        .map_err(failed("blob_unused"))?;
        rows.into_iter()
            .map(|(digest, used_at)| Ok(UnusedBlob { digest: parse(&digest)?, used_at: time(used_at)? }))
            .collect()
    }

    async fn blob_forget(
        &self,
        digests: &[Digest],
        before: Timestamp,
    ) -> Result<Vec<(Digest, u64)>, StoreError> {
        let list = to_json(&digests)?;
        self.write("blob_forget", move |connection| {
            Box::pin(async move { blob_forget(connection, &list, before).await })
        })
        .await
    }

    async fn blob_unknown(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        let list = to_json(&digests)?;
        let unknown = self
            .write_unrecorded("blob_unknown", move |connection| {
                Box::pin(async move {
                    let unknown: Vec<String> = sqlx::query_scalar(
                        "/* blob_unknown */ SELECT value FROM json_each(?1)
                         WHERE value NOT IN (SELECT digest FROM blobs)",
                    )
                    .bind(list)
                    .fetch_all(connection)
                    .await?;
                    Ok(unknown)
                })
            })
            .await?;
        unknown.iter().map(|digest| parse(digest)).collect()
    }

    async fn log_unknown(&self, keys: &[String]) -> Result<Vec<String>, StoreError> {
        let asked: Vec<_> =
            keys.iter().filter_map(|key| attempt_of(key).map(|(job, number)| (key, job, number))).collect();
        Ok(sqlx::query_scalar(
            "/* log_unknown */ SELECT w.value ->> 0 FROM json_each(?1) w
             WHERE NOT EXISTS (SELECT 1 FROM attempts a
                     WHERE a.job = w.value ->> 1 AND a.number = w.value ->> 2
                         AND a.state IN ('leased', 'running'))
                 AND NOT EXISTS (SELECT 1 FROM log_chunks l
                     WHERE l.job = w.value ->> 1 AND l.attempt = w.value ->> 2
                         AND l.blob_key = w.value ->> 0)",
        )
        .bind(to_json(&asked)?)
        .fetch_all(self.reads())
        .await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_log_names_its_attempt() {
        let job: JobId = JobId::from_parts(1, [2; 10]);
        assert_eq!(attempt_of(&format!("logs/{job}/3-4294967299/stdout-0-9")), Some((job, 3)));
        assert_eq!(attempt_of("logs/elsewhere/3-4/stdout-0-9"), None);
        assert_eq!(attempt_of(&format!("blobs/{job}/3-4")), None);
    }
}
