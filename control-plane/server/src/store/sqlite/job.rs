//! Table `jobs`.

use std::collections::HashMap;

use gristmill_lifecycle::{
    WorkingSet,
    command::{JobDue, LeaseGranted},
    record::JobRecord,
    working_set::Needs,
};
use gristmill_protocol::{JobId, JobState, Reason, Timestamp};
use serde::Serialize;
use sqlx::{Row, SqlitePool, sqlite::SqliteRow};

use super::session::{Session, json};
use crate::store::{StoreError, job::JobCounts};

/// The columns of a job, in the order in which `record` reads them.
macro_rules! job_columns {
    () => {
        "j.id, j.seq, j.tenant, j.phase, j.class, j.priority, j.retries, j.retry_on, j.attempt, j.guest_retries,
         j.infrastructure_losses, j.reason, j.trap_kind, j.message, j.exit_code, j.usage, j.node, j.zone,
         j.created_at, j.started_at, j.finished_at, j.cancel_requested_at, j.not_before, j.queue_timeout_at,
         j.deadline_at, j.output_count, j.output_bytes, j.version"
    };
}

pub(super) fn parse<T>(text: &str) -> Result<T, StoreError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error| StoreError::Inconsistent(format!("{text:?}: {error}")))
}

pub(super) fn parse_opt<T>(text: Option<String>) -> Result<Option<T>, StoreError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.map(|text| parse(&text)).transpose()
}

pub(super) fn time(us: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_microsecond(us).map_err(StoreError::inconsistent)
}

pub(super) fn time_opt(us: Option<i64>) -> Result<Option<Timestamp>, StoreError> {
    us.map(time).transpose()
}

pub(super) fn us(at: Option<Timestamp>) -> Option<i64> {
    at.map(Timestamp::as_microsecond)
}

pub(super) fn usage(text: Option<String>) -> Result<Option<gristmill_protocol::Usage>, StoreError> {
    text.map(|text| serde_json::from_str(&text).map_err(StoreError::inconsistent)).transpose()
}

fn number(value: i64) -> u64 {
    value.unsigned_abs()
}

pub(super) use job_columns;

pub(super) fn record(row: &SqliteRow, with_document: bool) -> Result<JobRecord, StoreError> {
    let retry_on: &str = row.try_get(7)?;
    Ok(JobRecord {
        id: parse(row.try_get(0)?)?,
        seq: number(row.try_get(1)?),
        tenant: row.try_get(2)?,
        phase: parse(row.try_get(3)?)?,
        class: row.try_get(4)?,
        priority: row.try_get(5)?,
        retries: row.try_get(6)?,
        retry_on: retry_on
            .split(',')
            .filter(|text| !text.is_empty())
            .map(parse::<Reason>)
            .collect::<Result<_, _>>()?,
        attempt: row.try_get(8)?,
        guest_retries: row.try_get(9)?,
        infrastructure_losses: row.try_get(10)?,
        reason: parse_opt(row.try_get(11)?)?,
        trap_kind: parse_opt(row.try_get(12)?)?,
        message: row.try_get(13)?,
        exit_code: row.try_get(14)?,
        usage: usage(row.try_get(15)?)?,
        node: parse_opt(row.try_get(16)?)?,
        zone: row.try_get(17)?,
        created_at: time(row.try_get(18)?)?,
        started_at: time_opt(row.try_get(19)?)?,
        finished_at: time_opt(row.try_get(20)?)?,
        cancel_requested_at: time_opt(row.try_get(21)?)?,
        not_before: time_opt(row.try_get(22)?)?,
        queue_timeout_at: time_opt(row.try_get(23)?)?,
        deadline_at: time_opt(row.try_get(24)?)?,
        output_count: number(row.try_get(25)?),
        output_bytes: number(row.try_get(26)?),
        version: number(row.try_get(27)?),
        document: if with_document { Some(row.try_get::<String, _>(28)?.into()) } else { None },
    })
}

/// Loads the jobs that commands name, and those of the attempts that they name.
pub(super) async fn job_load(
    session: &mut Session,
    needs: &Needs,
    set: &mut WorkingSet<'_>,
) -> Result<(), StoreError> {
    let ids: std::collections::BTreeSet<JobId> =
        needs.jobs.iter().copied().chain(needs.attempts.iter().map(|(job, _)| *job)).collect();
    let rows = session
        .select(
            concat!(
                "/* job_load */ SELECT ",
                job_columns!(),
                " FROM jsonb_each(?1) w CROSS JOIN jobs j ON j.id = w.value WHERE ?2 = 0"
            ),
            &ids,
            0,
        )
        .await?;
    for row in &rows {
        set.put_job(record(row, false)?);
    }
    Ok(())
}

/// Loads the first ready jobs of each class that a claim can take, without their documents: classes
/// are as many as users make different jobs, and documents may be large.
pub(super) async fn job_load_ready(
    session: &mut Session,
    needs: &Needs,
    set: &mut WorkingSet<'_>,
) -> Result<(), StoreError> {
    let classes: Vec<_> = needs.ready.keys().collect();
    let depth = needs.ready.values().copied().max().unwrap_or(0).min(4_096);
    let rows = session
        .select(
            concat!(
                "/* job_load_ready */ SELECT ",
                job_columns!(),
                " FROM jobs j WHERE j.seq IN (
                     SELECT c.seq FROM jsonb_each(?1) w CROSS JOIN jobs c ON c.seq IN (
                         SELECT r.seq FROM jobs r WHERE r.phase = 'ready' AND r.class = w.value
                         ORDER BY r.priority DESC, r.seq LIMIT ?2)
                     ORDER BY c.priority DESC, c.seq LIMIT 4096)"
            ),
            &classes,
            i64::from(depth),
        )
        .await?;
    for row in &rows {
        set.put_ready_job(record(row, false)?);
    }
    Ok(())
}

/// What changes of a job after its submit, as written.
#[derive(Serialize)]
struct JobChange<'a> {
    id: JobId,
    phase: &'static str,
    attempt: u32,
    guest_retries: u32,
    infrastructure_losses: u32,
    reason: Option<Reason>,
    trap_kind: Option<&'static str>,
    message: Option<&'a str>,
    exit_code: Option<i32>,
    usage: Option<String>,
    node: Option<String>,
    zone: Option<&'a str>,
    started_at: Option<i64>,
    finished_at: Option<i64>,
    cancel_requested_at: Option<i64>,
    not_before: Option<i64>,
    output_count: u64,
    output_bytes: u64,
    version: u64,
}

/// All of a new job, as written.
#[derive(Serialize)]
struct JobRow<'a> {
    #[serde(flatten)]
    change: JobChange<'a>,
    seq: u64,
    tenant: &'a str,
    class: i64,
    priority: i32,
    retries: u32,
    retry_on: String,
    created_at: i64,
    queue_timeout_at: Option<i64>,
    deadline_at: Option<i64>,
}

fn job_change(job: &JobRecord) -> Result<JobChange<'_>, StoreError> {
    Ok(JobChange {
        id: job.id,
        phase: job.phase.as_str(),
        attempt: job.attempt,
        guest_retries: job.guest_retries,
        infrastructure_losses: job.infrastructure_losses,
        reason: job.reason,
        trap_kind: job.trap_kind.map(gristmill_protocol::TrapKind::as_str),
        message: job.message.as_deref(),
        exit_code: job.exit_code,
        usage: job.usage.as_ref().map(json).transpose()?,
        node: job.node.map(|node| node.to_string()),
        zone: job.zone.as_deref(),
        started_at: us(job.started_at),
        finished_at: us(job.finished_at),
        cancel_requested_at: us(job.cancel_requested_at),
        not_before: us(job.not_before),
        output_count: job.output_count,
        output_bytes: job.output_bytes,
        version: job.version,
    })
}

/// Writes what does not change of new jobs.
pub(super) async fn job_document_insert(
    session: &mut Session,
    set: &WorkingSet<'_>,
) -> Result<(), StoreError> {
    let rows: Vec<_> = set
        .jobs
        .values()
        .filter(|job| job.is_new)
        .map(|job| (job.row.seq, job.row.document.as_deref()))
        .collect();
    session
        .change_each(
            "/* job_document_insert */ INSERT INTO job_documents (seq, document)
             SELECT value ->> 0, value ->> 1 FROM jsonb_each(?1)",
            &rows,
        )
        .await
}

pub(super) async fn job_insert(session: &mut Session, set: &WorkingSet<'_>) -> Result<(), StoreError> {
    let rows = set
        .jobs
        .values()
        .filter(|job| job.is_new)
        .map(|job| {
            let job = &job.row;
            let reasons: Vec<_> = job.retry_on.iter().map(|reason| reason.as_str()).collect();
            Ok(JobRow {
                change: job_change(job)?,
                seq: job.seq,
                tenant: &job.tenant,
                class: job.class,
                priority: job.priority,
                retries: job.retries,
                retry_on: reasons.join(","),
                created_at: job.created_at.as_microsecond(),
                queue_timeout_at: us(job.queue_timeout_at),
                deadline_at: us(job.deadline_at),
            })
        })
        .collect::<Result<Vec<_>, StoreError>>()?;
    session
        .change_each(
            "/* job_insert */ INSERT INTO jobs (seq, id, tenant, phase, class, priority, retries, retry_on, attempt,
                 guest_retries, infrastructure_losses, reason, trap_kind, message, exit_code, usage, node, zone,
                 created_at, started_at, finished_at, cancel_requested_at, not_before, queue_timeout_at,
                 deadline_at, output_count, output_bytes, version)
             SELECT value ->> 'seq', value ->> 'id', value ->> 'tenant', value ->> 'phase', value ->> 'class',
                 value ->> 'priority', value ->> 'retries', value ->> 'retry_on', value ->> 'attempt',
                 value ->> 'guest_retries', value ->> 'infrastructure_losses', value ->> 'reason',
                 value ->> 'trap_kind', value ->> 'message', value ->> 'exit_code', value ->> 'usage',
                 value ->> 'node', value ->> 'zone', value ->> 'created_at', value ->> 'started_at',
                 value ->> 'finished_at', value ->> 'cancel_requested_at', value ->> 'not_before',
                 value ->> 'queue_timeout_at', value ->> 'deadline_at', value ->> 'output_count',
                 value ->> 'output_bytes', value ->> 'version'
             FROM jsonb_each(?1)",
            &rows,
        )
        .await
}

/// Writes changed jobs. Each must still have the version that it had when it was loaded.
pub(super) async fn job_update(session: &mut Session, set: &WorkingSet<'_>) -> Result<(), StoreError> {
    let rows = set
        .jobs
        .values()
        .filter(|job| job.is_changed && !job.is_new)
        .map(|job| job_change(&job.row))
        .collect::<Result<Vec<_>, StoreError>>()?;
    session
        .change_each(
            "/* job_update */ UPDATE jobs SET phase = c.phase, attempt = c.attempt, guest_retries = c.guest_retries,
                 infrastructure_losses = c.infrastructure_losses, reason = c.reason, trap_kind = c.trap_kind,
                 message = c.message, exit_code = c.exit_code, usage = c.usage, node = c.node, zone = c.zone,
                 started_at = c.started_at, finished_at = c.finished_at,
                 cancel_requested_at = c.cancel_requested_at, not_before = c.not_before,
                 output_count = c.output_count, output_bytes = c.output_bytes, version = c.version
             FROM (SELECT value ->> 'id' AS id, value ->> 'phase' AS phase, value ->> 'attempt' AS attempt,
                 value ->> 'guest_retries' AS guest_retries,
                 value ->> 'infrastructure_losses' AS infrastructure_losses, value ->> 'reason' AS reason,
                 value ->> 'trap_kind' AS trap_kind, value ->> 'message' AS message,
                 value ->> 'exit_code' AS exit_code, value ->> 'usage' AS usage, value ->> 'node' AS node,
                 value ->> 'zone' AS zone, value ->> 'started_at' AS started_at,
                 value ->> 'finished_at' AS finished_at, value ->> 'cancel_requested_at' AS cancel_requested_at,
                 value ->> 'not_before' AS not_before, value ->> 'output_count' AS output_count,
                 value ->> 'output_bytes' AS output_bytes, value ->> 'version' AS version
                 FROM jsonb_each(?1)) c
             WHERE jobs.id = c.id AND jobs.version = c.version - 1",
            &rows,
        )
        .await
}

pub(super) async fn job_get(reads: &SqlitePool, id: JobId) -> Result<Option<JobRecord>, StoreError> {
    let row = sqlx::query(concat!(
        "/* job_get */ SELECT ",
        job_columns!(),
        ", d.document FROM jobs j JOIN job_documents d ON d.seq = j.seq WHERE j.id = ?1"
    ))
    .bind(id.to_string())
    .fetch_optional(reads)
    .await?;
    row.map(|row| record(&row, true)).transpose()
}

pub(super) async fn job_document(reads: &SqlitePool, id: JobId) -> Result<Option<String>, StoreError> {
    Ok(sqlx::query_scalar("/* job_document */ SELECT d.document FROM jobs j JOIN job_documents d ON d.seq = j.seq WHERE j.id = ?1")
        .bind(id.to_string())
        .fetch_optional(reads)
        .await?)
}

/// Gives granted leases the documents of their jobs that were not at hand, with one read.
pub(super) async fn job_documents_fill(
    reads: &SqlitePool,
    granted: &mut [LeaseGranted],
) -> Result<(), StoreError> {
    let bare: Vec<JobId> =
        granted.iter().filter(|lease| lease.document.is_none()).map(|lease| lease.job).collect();
    if bare.is_empty() {
        return Ok(());
    }
    let rows: Vec<(String, String)> = sqlx::query_as(
        "/* job_documents_fill */ SELECT j.id, d.document FROM jsonb_each(?1) w
         CROSS JOIN jobs j ON j.id = w.value CROSS JOIN job_documents d ON d.seq = j.seq",
    )
    .bind(json(&bare)?)
    .fetch_all(reads)
    .await?;
    let mut documents: HashMap<String, String> = rows.into_iter().collect();
    for lease in granted.iter_mut().filter(|lease| lease.document.is_none()) {
        lease.document = documents.remove(&lease.job.to_string()).map(Into::into);
    }
    Ok(())
}

pub(super) async fn job_due(
    reads: &SqlitePool,
    due: JobDue,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<JobId>, StoreError> {
    let sql = match due {
        JobDue::QueueTimeout => {
            "/* job_due */ SELECT id FROM jobs WHERE phase IN ('ready', 'backing_off')
             AND queue_timeout_at IS NOT NULL AND started_at IS NULL AND queue_timeout_at <= ?1
             ORDER BY queue_timeout_at LIMIT ?2"
        }
        JobDue::Deadline => {
            "/* job_due */ SELECT id FROM jobs WHERE phase IN ('ready', 'backing_off', 'leased', 'running')
             AND deadline_at IS NOT NULL AND deadline_at <= ?1 ORDER BY deadline_at LIMIT ?2"
        }
        JobDue::Backoff => {
            "/* job_due */ SELECT id FROM jobs WHERE phase = 'backing_off' AND not_before <= ?1
             ORDER BY not_before LIMIT ?2"
        }
    };
    let ids: Vec<String> =
        sqlx::query_scalar(sql).bind(now.as_microsecond()).bind(limit).fetch_all(reads).await?;
    ids.iter().map(|id| parse(id)).collect()
}

pub(super) async fn job_counts(reads: &SqlitePool) -> Result<JobCounts, StoreError> {
    let rows = sqlx::query(
        "/* job_counts */ SELECT 'queued' AS state, 1 AS waiting, c.spec ->> '$.zone' AS zone, sum(w.n) AS n
         FROM (SELECT class, count(*) AS n FROM jobs WHERE phase = 'ready' GROUP BY class
               UNION ALL SELECT class, count(*) FROM jobs INDEXED BY jobs_backing_off
               WHERE phase = 'backing_off' GROUP BY class) AS w
         JOIN placement_classes AS c ON c.id = w.class GROUP BY zone
         UNION ALL SELECT iif(state = 'leased', 'queued', state), 0, NULL, count(*) FROM attempts
         WHERE state IN ('leased', 'running') GROUP BY state",
    )
    .fetch_all(reads)
    .await?;
    let mut counts = JobCounts::default();
    let mut active = std::collections::BTreeMap::<JobState, u64>::new();
    for row in rows {
        let count = number(row.try_get("n")?);
        if row.try_get("waiting")? {
            counts.queue_depth += count;
            counts.waiting_by_zone.insert(row.try_get("zone")?, count);
        } else {
            counts.leases += count;
        }
        *active.entry(parse(row.try_get("state")?)?).or_default() += count;
    }
    // The waiting job with the smallest number is the oldest one.
    counts.oldest_waiting = sqlx::query_scalar::<_, Option<i64>>(
        "/* job_oldest */ SELECT created_at FROM jobs WHERE seq = (
             SELECT min(seq) FROM (SELECT min(seq) AS seq FROM jobs INDEXED BY jobs_ready WHERE phase = 'ready'
                                   UNION ALL SELECT min(seq) FROM jobs INDEXED BY jobs_backing_off
                                   WHERE phase = 'backing_off'))",
    )
    .fetch_optional(reads)
    .await?
    .flatten()
    .map(time)
    .transpose()?;
    counts.active = active.into_iter().filter(|(_, count)| *count > 0).collect();
    Ok(counts)
}
