//! Table `attempts`: the leases.

use std::{collections::HashMap, time::Duration};

use gristmill_lifecycle::{
    WorkingSet,
    record::{AttemptKey, AttemptRecord},
    working_set::Needs,
};
use gristmill_protocol::{JobId, LeaseToken, NodeId, Timestamp};
use serde::Serialize;
use sqlx::{Row, SqliteConnection, SqlitePool, sqlite::SqliteRow};

use super::{
    job::{parse, parse_opt, time, time_opt, us, usage},
    session::{Session, json},
};
use crate::store::{StoreError, job::LeaseState};

/// The columns of an attempt, in the order in which `record` reads them.
macro_rules! attempt_columns {
    () => {
        "a.job, a.number, a.fence, a.token, a.state, a.node, a.zone, a.incarnation, a.cpus_milli, a.memory_bytes,
         a.leased_at, a.expires_at, a.started_at, a.ended_at, a.reason, a.trap_kind, a.message, a.exit_code,
         a.usage, a.report, a.stdout_bytes, a.stderr_bytes, a.log_truncated"
    };
}

fn record(row: &SqliteRow) -> Result<AttemptRecord, StoreError> {
    Ok(AttemptRecord {
        job: parse(row.try_get(0)?)?,
        number: row.try_get(1)?,
        fence: row.try_get::<i64, _>(2)?.unsigned_abs(),
        token: LeaseToken::from_text(row.try_get::<String, _>(3)?),
        phase: parse(row.try_get(4)?)?,
        node: parse(row.try_get(5)?)?,
        zone: row.try_get(6)?,
        incarnation: row.try_get(7)?,
        cpus_milli: row.try_get(8)?,
        memory_bytes: row.try_get::<i64, _>(9)?.unsigned_abs(),
        leased_at: time(row.try_get(10)?)?,
        expires_at: time(row.try_get(11)?)?,
        started_at: time_opt(row.try_get(12)?)?,
        ended_at: time_opt(row.try_get(13)?)?,
        reason: parse_opt(row.try_get(14)?)?,
        trap_kind: parse_opt(row.try_get(15)?)?,
        message: row.try_get(16)?,
        exit_code: row.try_get(17)?,
        usage: usage(row.try_get(18)?)?,
        report: parse_opt(row.try_get(19)?)?,
        stdout_bytes: row.try_get::<i64, _>(20)?.unsigned_abs(),
        stderr_bytes: row.try_get::<i64, _>(21)?.unsigned_abs(),
        log_truncated: row.try_get(22)?,
    })
}

/// Loads the attempts that commands name, and the live ones of the jobs that they name.
pub(super) async fn attempt_load(
    session: &mut Session,
    needs: &Needs,
    set: &mut WorkingSet<'_>,
) -> Result<(), StoreError> {
    let rows = session
        .select(
            concat!(
                "/* attempt_load */ SELECT ",
                attempt_columns!(),
                " FROM json_each(?1, '$.attempts') w
                  CROSS JOIN attempts a ON a.job = w.value ->> 0 AND a.number = w.value ->> 1 WHERE ?2 = 0
                 UNION ALL SELECT ",
                attempt_columns!(),
                " FROM json_each(?1, '$.jobs') w
                  CROSS JOIN attempts a ON a.job = w.value AND a.state IN ('leased', 'running')"
            ),
            &serde_json::json!({"attempts": needs.attempts, "jobs": needs.jobs}),
            0,
        )
        .await?;
    for row in &rows {
        set.put_attempt(record(row)?);
    }
    Ok(())
}

/// What changes of an attempt after its lease, as written.
#[derive(Serialize)]
struct AttemptChange<'a> {
    job: JobId,
    number: u32,
    fence: u64,
    token: &'a str,
    state: &'static str,
    expires_at: i64,
    started_at: Option<i64>,
    ended_at: Option<i64>,
    reason: Option<gristmill_protocol::Reason>,
    trap_kind: Option<&'static str>,
    message: Option<&'a str>,
    exit_code: Option<i32>,
    usage: Option<String>,
    report: Option<String>,
    stdout_bytes: u64,
    stderr_bytes: u64,
    log_truncated: bool,
}

/// All of a new attempt, as written.
#[derive(Serialize)]
struct AttemptRow<'a> {
    #[serde(flatten)]
    change: AttemptChange<'a>,
    node: String,
    zone: &'a str,
    incarnation: &'a str,
    cpus_milli: u32,
    memory_bytes: u64,
    leased_at: i64,
}

fn attempt_change(row: &AttemptRecord) -> Result<AttemptChange<'_>, StoreError> {
    Ok(AttemptChange {
        job: row.job,
        number: row.number,
        fence: row.fence,
        token: row.token.as_str(),
        state: row.phase.state().as_str(),
        expires_at: row.expires_at.as_microsecond(),
        started_at: us(row.started_at),
        ended_at: us(row.ended_at),
        reason: row.reason,
        trap_kind: row.trap_kind.map(gristmill_protocol::TrapKind::as_str),
        message: row.message.as_deref(),
        exit_code: row.exit_code,
        usage: row.usage.as_ref().map(json).transpose()?,
        report: row.report.map(|digest| digest.to_string()),
        stdout_bytes: row.stdout_bytes,
        stderr_bytes: row.stderr_bytes,
        log_truncated: row.log_truncated,
    })
}

pub(super) async fn attempt_insert(session: &mut Session, set: &WorkingSet<'_>) -> Result<(), StoreError> {
    let rows = set
        .attempts
        .values()
        .filter(|attempt| attempt.is_new)
        .map(|attempt| {
            let row = &attempt.row;
            Ok(AttemptRow {
                change: attempt_change(row)?,
                node: row.node.to_string(),
                zone: &row.zone,
                incarnation: &row.incarnation,
                cpus_milli: row.cpus_milli,
                memory_bytes: row.memory_bytes,
                leased_at: row.leased_at.as_microsecond(),
            })
        })
        .collect::<Result<Vec<_>, StoreError>>()?;
    session
        .change_each(
            "/* attempt_insert */ INSERT INTO attempts (job, number, fence, token, state, node, zone, incarnation,
                 cpus_milli, memory_bytes, leased_at, expires_at, started_at, ended_at, reason, trap_kind,
                 message, exit_code, usage, report, stdout_bytes, stderr_bytes, log_truncated)
             SELECT value ->> 'job', value ->> 'number', value ->> 'fence', value ->> 'token', value ->> 'state',
                 value ->> 'node', value ->> 'zone', value ->> 'incarnation', value ->> 'cpus_milli',
                 value ->> 'memory_bytes', value ->> 'leased_at', value ->> 'expires_at', value ->> 'started_at',
                 value ->> 'ended_at', value ->> 'reason', value ->> 'trap_kind', value ->> 'message',
                 value ->> 'exit_code', value ->> 'usage', value ->> 'report', value ->> 'stdout_bytes',
                 value ->> 'stderr_bytes', value ->> 'log_truncated'
             FROM jsonb_each(?1)",
            &rows,
        )
        .await
}

/// Writes changed attempts. Each must still be live under the same fence and token.
pub(super) async fn attempt_update(session: &mut Session, set: &WorkingSet<'_>) -> Result<(), StoreError> {
    let rows = set
        .attempts
        .values()
        .filter(|attempt| attempt.is_changed && !attempt.is_new)
        .map(|attempt| attempt_change(&attempt.row))
        .collect::<Result<Vec<_>, StoreError>>()?;
    session
        .change_each(
            "/* attempt_update */ UPDATE attempts SET state = c.state, expires_at = c.expires_at,
                 started_at = c.started_at, ended_at = c.ended_at, reason = c.reason, trap_kind = c.trap_kind,
                 message = c.message, exit_code = c.exit_code, usage = c.usage, report = c.report,
                 stdout_bytes = c.stdout_bytes, stderr_bytes = c.stderr_bytes, log_truncated = c.log_truncated
             FROM (SELECT value ->> 'job' AS job, value ->> 'number' AS number, value ->> 'fence' AS fence,
                 value ->> 'token' AS token, value ->> 'state' AS state, value ->> 'expires_at' AS expires_at,
                 value ->> 'started_at' AS started_at, value ->> 'ended_at' AS ended_at,
                 value ->> 'reason' AS reason, value ->> 'trap_kind' AS trap_kind, value ->> 'message' AS message,
                 value ->> 'exit_code' AS exit_code, value ->> 'usage' AS usage, value ->> 'report' AS report,
                 value ->> 'stdout_bytes' AS stdout_bytes, value ->> 'stderr_bytes' AS stderr_bytes,
                 value ->> 'log_truncated' AS log_truncated
                 FROM jsonb_each(?1)) c
             WHERE attempts.job = c.job AND attempts.number = c.number AND attempts.fence = c.fence
                 AND attempts.token = c.token AND attempts.state IN ('leased', 'running')",
            &rows,
        )
        .await
}

/// Gives every live lease its full time from now on; none gets shorter. Leases from before a restore
/// get none: their nodes may have gone on elsewhere.
pub(super) async fn lease_grace_on(
    conn: &mut SqliteConnection,
    now: Timestamp,
    ttl: Duration,
) -> Result<u64, StoreError> {
    let expires_at = now.as_microsecond().saturating_add(i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX));
    let changed = sqlx::query(
        "/* lease_grace */ UPDATE attempts SET expires_at = max(expires_at, ?1)
         WHERE state IN ('leased', 'running')
             AND fence >> 32 >= (SELECT value FROM meta WHERE name = 'generation')",
    )
    .bind(expires_at)
    .execute(conn)
    .await?;
    Ok(changed.rows_affected())
}

/// As [`lease_grace_on`], when the store is opened.
pub(super) async fn lease_grace(
    session: &mut Session,
    now: Timestamp,
    ttl: Duration,
) -> Result<u64, StoreError> {
    lease_grace_on(session.conn(), now, ttl).await
}

fn key(row: &SqliteRow) -> Result<AttemptKey, StoreError> {
    Ok((parse(row.try_get(0)?)?, row.try_get(1)?))
}

pub(super) async fn lease_due(
    reads: &SqlitePool,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<AttemptKey>, StoreError> {
    let rows = sqlx::query(
        "/* lease_due */ SELECT job, number FROM attempts
         WHERE state IN ('leased', 'running') AND expires_at <= ?1 ORDER BY expires_at LIMIT ?2",
    )
    .bind(now.as_microsecond())
    .bind(limit)
    .fetch_all(reads)
    .await?;
    rows.iter().map(key).collect()
}

pub(super) async fn lease_of_node(
    reads: &SqlitePool,
    node: NodeId,
) -> Result<Vec<(AttemptKey, String)>, StoreError> {
    let rows = sqlx::query(
        "/* lease_of_node */ SELECT job, number, incarnation FROM attempts
         WHERE state IN ('leased', 'running') AND node = ?1",
    )
    .bind(node.to_string())
    .fetch_all(reads)
    .await?;
    rows.iter().map(|row| Ok((key(row)?, row.try_get(2)?))).collect()
}

pub(super) async fn lease_states(
    reads: &SqlitePool,
    keys: &[AttemptKey],
) -> Result<HashMap<AttemptKey, LeaseState>, StoreError> {
    let rows = sqlx::query(concat!(
        "/* lease_states */ SELECT ",
        attempt_columns!(),
        ", j.phase, j.tenant FROM jsonb_each(?1) w
         CROSS JOIN attempts a ON a.job = w.value ->> 0 AND a.number = w.value ->> 1
         JOIN jobs j ON j.id = a.job"
    ))
    .bind(json(&keys)?)
    .fetch_all(reads)
    .await?;
    rows.iter()
        .map(|row| {
            let attempt = record(row)?;
            let phase: &str = row.try_get(23)?;
            let state = LeaseState { stop: phase.starts_with("stopping"), tenant: row.try_get(24)?, attempt };
            Ok((state.attempt.key(), state))
        })
        .collect()
}

pub(super) async fn lease_loads(reads: &SqlitePool) -> Result<HashMap<NodeId, (u32, u64)>, StoreError> {
    let rows = sqlx::query(
        "/* lease_loads */ SELECT node, sum(cpus_milli), sum(memory_bytes) FROM attempts
         WHERE state IN ('leased', 'running') GROUP BY node",
    )
    .fetch_all(reads)
    .await?;
    rows.iter()
        .map(|row| {
            let cpus = u32::try_from(row.try_get::<i64, _>(1)?).unwrap_or(u32::MAX);
            Ok((parse(row.try_get(0)?)?, (cpus, row.try_get::<i64, _>(2)?.unsigned_abs())))
        })
        .collect()
}

pub(super) async fn attempt_list(reads: &SqlitePool, job: JobId) -> Result<Vec<AttemptRecord>, StoreError> {
    let rows = sqlx::query(concat!(
        "/* attempt_list */ SELECT ",
        attempt_columns!(),
        " FROM attempts a WHERE a.job = ?1 ORDER BY a.number"
    ))
    .bind(job.to_string())
    .fetch_all(reads)
    .await?;
    rows.iter().map(record).collect()
}

pub(super) async fn attempt_get(
    reads: &SqlitePool,
    job: JobId,
    number: u32,
) -> Result<Option<AttemptRecord>, StoreError> {
    let row = sqlx::query(concat!(
        "/* attempt_get */ SELECT ",
        attempt_columns!(),
        " FROM attempts a WHERE a.job = ?1 AND a.number = ?2"
    ))
    .bind(job.to_string())
    .bind(number)
    .fetch_optional(reads)
    .await?;
    row.map(|row| record(&row)).transpose()
}
