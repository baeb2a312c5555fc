//! Lists of jobs: conditions over `jobs` and `job_documents`.

use gristmill_protocol::{JobId, JobState};
use sqlx::{
    Row, Sqlite, SqlitePool,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};

use super::{
    job::{job_columns, parse, record, us},
    session::json,
};
use crate::store::{
    StoreError,
    job::{JobOnly, JobQuery},
};
use gristmill_lifecycle::record::JobRecord;

/// What a query finds, over some jobs, one tenant or all; three texts, so that each finds its index.
macro_rules! job_query_sql {
    ($name:literal, $select:expr, $whose:literal, $end:literal) => {
        concat!(
            "/* ",
            $name,
            " */ SELECT ",
            $select,
            " FROM jobs j CROSS JOIN job_documents d ON d.seq = j.seq WHERE ",
            $whose,
            " AND j.seq < ?2
                 AND (?3 IS NULL OR j.state = ?3)
                 AND (?4 IS NULL OR d.module_name = ?4)
                 AND (?5 IS NULL OR coalesce(j.zone, d.document ->> '$.spec.zone') = ?5)
                 AND (?6 IS NULL OR EXISTS (SELECT 1 FROM json_each(d.document, '$.spec.labels') l
                     WHERE l.key = ?6 AND l.value = ?7))
                 AND (?8 IS NULL OR j.created_at > ?8)
                 AND (?11 IS NULL OR CASE ?11
                     WHEN 'ended' THEN j.phase IN ('succeeded', 'failed', 'cancelled')
                     ELSE j.phase NOT IN ('succeeded', 'failed', 'cancelled', 'stopping_cancel') END)",
            $end
        )
    };
}

/// The text of a query that fits its conditions.
macro_rules! job_query_for {
    ($query:expr, $name:literal, $select:expr, $end:literal) => {
        match (&$query.ids, &$query.tenant) {
            (Some(_), _) => job_query_sql!(
                $name,
                $select,
                "j.id IN (SELECT value FROM json_each(?10)) AND (?1 IS NULL OR +j.tenant = ?1)",
                $end
            ),
            (None, Some(_)) => job_query_sql!($name, $select, "j.tenant = ?1 AND ?10 IS NULL", $end),
            (None, None) => job_query_sql!($name, $select, "?1 IS NULL AND ?10 IS NULL", $end),
        }
    };
}

fn bound(sql: &'static str, query: JobQuery) -> Result<Query<'static, Sqlite, SqliteArguments>, StoreError> {
    let (key, value) = query.label.unzip();
    let only = query.only.map(|only| match only {
        JobOnly::Cancellable => "cancellable",
        JobOnly::Ended => "ended",
    });
    Ok(sqlx::query(sql)
        .bind(query.tenant)
        .bind(query.before_seq.and_then(|seq| i64::try_from(seq).ok()).unwrap_or(i64::MAX))
        .bind(query.state.map(JobState::as_str))
        .bind(query.module)
        .bind(query.zone)
        .bind(key)
        .bind(value)
        .bind(us(query.created_after))
        .bind(query.limit)
        .bind(query.ids.map(|ids| json(&ids)).transpose()?)
        .bind(only))
}

pub(super) async fn job_list(reads: &SqlitePool, query: JobQuery) -> Result<Vec<JobRecord>, StoreError> {
    let sql = job_query_for!(
        query,
        "job_list",
        concat!(job_columns!(), ", d.document"),
        " ORDER BY j.seq DESC LIMIT ?9"
    );
    let rows = bound(sql, query)?.fetch_all(reads).await?;
    rows.iter().map(|row| record(row, true)).collect()
}

pub(super) async fn job_select(reads: &SqlitePool, query: JobQuery) -> Result<Vec<(u64, JobId)>, StoreError> {
    let sql = job_query_for!(query, "job_select", "j.seq, j.id", " ORDER BY j.seq DESC LIMIT ?9");
    let rows = bound(sql, query)?.fetch_all(reads).await?;
    let one = |row: &SqliteRow| Ok((row.try_get::<i64, _>(0)?.unsigned_abs(), parse(row.try_get(1)?)?));
    rows.iter().map(one).collect()
}

pub(super) async fn job_count(reads: &SqlitePool, query: JobQuery) -> Result<u64, StoreError> {
    let sql = job_query_for!(query, "job_count", "count(*)", " AND ?9 IS NOT NULL");
    let row = bound(sql, query)?.fetch_one(reads).await?;
    Ok(row.try_get::<i64, _>(0)?.unsigned_abs())
}
