//! Table `events`.

use gristmill_lifecycle::WorkingSet;
use gristmill_protocol::event::EventView;
use serde_json::json;
use sqlx::{Row, SqlitePool, sqlite::SqliteRow};

use super::{
    job::{parse, parse_opt, time},
    session::Session,
};
use crate::store::{
    StoreError,
    event::{EventPage, EventQuery},
};

/// Most rows that are looked at in one read when a filter has to look into the jobs.
const SCAN_MAX: u64 = 20_000;

pub(super) async fn event_insert(session: &mut Session, set: &WorkingSet<'_>) -> Result<(), StoreError> {
    let rows: Vec<_> = set
        .events
        .iter()
        .map(|event| {
            json!({
                "at": event.at.as_microsecond(), "kind": event.kind, "job": event.job,
                "attempt": event.attempt, "fence": event.fence, "node": event.node,
                "actor": event.actor, "state": event.state, "reason": event.reason,
                "tenant": event.tenant, "zone": event.zone, "from": event.from,
            })
        })
        .collect();
    session
        .change_each(
            "/* event_insert */ INSERT INTO events (at, kind, job, attempt, fence, node, actor, state, reason,
                 tenant, zone, from_state)
             SELECT value ->> 'at', value ->> 'kind', value ->> 'job', value ->> 'attempt', value ->> 'fence',
                 value ->> 'node', value ->> 'actor', value ->> 'state', value ->> 'reason',
                 value ->> 'tenant', value ->> 'zone', value ->> 'from'
             FROM jsonb_each(?1) ORDER BY key",
            &rows,
        )
        .await
}

/// The read over one job, one tenant or all; three texts, so that each finds its index.
macro_rules! event_list_sql {
    ($whose:literal) => {
        concat!(
            "/* event_list */ SELECT e.seq, e.at, e.kind, e.job, e.attempt, e.fence, e.node, e.actor, e.state,
                 e.reason, e.tenant, e.zone, e.from_state
             FROM events e WHERE ",
            $whose,
            " AND e.seq > ?3 AND e.seq <= ?4
                 AND (?5 IS NULL OR EXISTS (SELECT 1 FROM jobs j JOIN job_documents d ON d.seq = j.seq
                     WHERE j.id = e.job AND d.module_name = ?5))
                 AND (?6 IS NULL OR EXISTS (SELECT 1 FROM jobs j JOIN job_documents d ON d.seq = j.seq
                     JOIN json_each(d.document, '$.spec.labels') l
                     WHERE j.id = e.job AND l.key = ?6 AND l.value = ?7))
             ORDER BY e.seq LIMIT ?8"
        )
    };
}

pub(super) async fn event_list(reads: &SqlitePool, query: EventQuery) -> Result<EventPage, StoreError> {
    // One transaction, so that rows and bounds are of the same moment.
    let mut snapshot = reads.begin().await?;
    // A job that is kept has all its events.
    let job = query.job.map(|job| job.to_string());
    let (newest, first, purged): (i64, Option<i64>, i64) = sqlx::query_as(
        "/* event_list */ SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0),
             (SELECT min(seq) FROM events),
             CASE WHEN EXISTS (SELECT 1 FROM jobs WHERE id = ?1 AND (?2 IS NULL OR tenant = ?2)) THEN 0
                 ELSE (SELECT value FROM meta WHERE name = 'purged_event') END",
    )
    .bind(&job)
    .bind(&query.tenant)
    .fetch_one(&mut *snapshot)
    .await?;
    let newest = newest.unsigned_abs();
    let oldest = purged.unsigned_abs() + 1;
    let from = query.after.max(first.map_or(newest, |first| first.unsigned_abs() - 1));
    let looks_into_jobs = query.module.is_some() || query.label.is_some();
    let until = if looks_into_jobs { newest.min(from.saturating_add(SCAN_MAX)) } else { newest };
    let sql = match (&query.job, &query.tenant) {
        (Some(_), _) => event_list_sql!("e.job = ?1 AND (?2 IS NULL OR +e.tenant = ?2)"),
        (None, Some(_)) => event_list_sql!("?1 IS NULL AND e.tenant = ?2"),
        (None, None) => event_list_sql!("?1 IS NULL AND ?2 IS NULL"),
    };
    let (key, value) = query.label.unzip();
    let rows = sqlx::query(sql)
        .bind(job)
        .bind(query.tenant)
        .bind(i64::try_from(from).unwrap_or(i64::MAX))
        .bind(i64::try_from(until).unwrap_or(i64::MAX))
        .bind(query.module)
        .bind(key)
        .bind(value)
        .bind(query.limit)
        .fetch_all(&mut *snapshot)
        .await?;
    let events = rows.iter().map(event).collect::<Result<Vec<_>, _>>()?;
    let next = match events.last() {
        Some(last) if events.len() >= query.limit as usize => last.id,
        _ => until.max(query.after.min(newest)),
    };
    Ok(EventPage { events, next, oldest, newest })
}

fn event(row: &SqliteRow) -> Result<EventView, StoreError> {
    Ok(EventView {
        id: row.try_get::<i64, _>(0)?.unsigned_abs(),
        at: time(row.try_get(1)?)?,
        kind: parse(row.try_get(2)?)?,
        job: parse(row.try_get(3)?)?,
        attempt: row.try_get(4)?,
        fence: row.try_get::<Option<i64>, _>(5)?.map(i64::unsigned_abs),
        node: parse_opt(row.try_get(6)?)?,
        actor: row.try_get(7)?,
        state: row.try_get(8)?,
        reason: parse_opt(row.try_get(9)?)?,
        tenant: row.try_get(10)?,
        zone: row.try_get(11)?,
        from: row.try_get(12)?,
    })
}
