//! Table `placement_classes`, facts of table `meta`, and the counters that the writer keeps in memory.

use gristmill_lifecycle::{WorkingSet, placement::ClassSpec, record::ClassId, working_set::Tally};
use serde_json::json;
use sqlx::{Row, SqlitePool};

use super::session::{Session, json as to_json};
use crate::store::StoreError;

/// Counts what waits, once, when the store is opened; the writer keeps the counters from then on.
pub(super) async fn tally_load(session: &mut Session) -> Result<Tally, StoreError> {
    let mut tally = Tally::default();
    let generation: i64 =
        sqlx::query_scalar("/* tally_load */ SELECT value FROM meta WHERE name = 'generation'")
            .fetch_one(session.conn())
            .await?;
    tally.generation = u32::try_from(generation).map_err(StoreError::inconsistent)?;
    let next: i64 = sqlx::query_scalar(
        "/* tally_load */ SELECT max(coalesce((SELECT max(seq) FROM jobs), 0), value) + 1
         FROM meta WHERE name = 'purged_seq'",
    )
    .fetch_one(session.conn())
    .await?;
    tally.next_seq = next.unsigned_abs();
    let classes = sqlx::query("/* tally_load */ SELECT id, spec FROM placement_classes")
        .fetch_all(session.conn())
        .await?;
    for row in classes {
        let spec: ClassSpec = serde_json::from_str(row.try_get("spec")?).map_err(StoreError::inconsistent)?;
        let id: ClassId = row.try_get("id")?;
        tally.add_class(id, spec);
    }
    let waiting = sqlx::query(
        "/* tally_load */ SELECT class, 1 AS ready, count(*) AS n FROM jobs WHERE phase = 'ready' GROUP BY class
         UNION ALL SELECT class, 0, count(*) FROM jobs WHERE phase = 'backing_off' GROUP BY class",
    )
    .fetch_all(session.conn())
    .await?;
    for row in waiting {
        let class: ClassId = row.try_get("class")?;
        let count = row.try_get::<i64, _>("n")?.unsigned_abs();
        if row.try_get("ready")? {
            tally.ready_by_class.insert(class, count);
        }
        if let Some(spec) = tally.classes.get(&class) {
            *tally.waiting_by_tenant.entry(spec.tenant.clone()).or_default() += count;
        }
        tally.waiting += count;
    }
    Ok(tally)
}

pub(super) async fn class_insert(session: &mut Session, set: &WorkingSet<'_>) -> Result<(), StoreError> {
    let rows = set
        .change
        .classes
        .iter()
        .map(|(id, spec)| Ok(json!({"id": id, "spec": to_json(spec)?})))
        .collect::<Result<Vec<_>, StoreError>>()?;
    session
        .change_each(
            "/* class_insert */ INSERT INTO placement_classes (id, spec)
             SELECT value ->> 'id', value ->> 'spec' FROM jsonb_each(?1)",
            &rows,
        )
        .await
}

/// Whether there is a class that no job refers to.
pub(super) async fn class_is_any_unused(reads: &SqlitePool) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar(
        "/* class_is_any_unused */ SELECT EXISTS (SELECT 1 FROM placement_classes c
             WHERE NOT EXISTS (SELECT 1 FROM jobs j WHERE j.class = c.id))",
    )
    .fetch_one(reads)
    .await?)
}

/// Removes classes that no job refers to, at most `limit`. Returns their numbers.
pub(super) async fn class_purge(session: &mut Session, limit: u32) -> Result<Vec<ClassId>, StoreError> {
    Ok(sqlx::query_scalar(
        "/* class_purge */ DELETE FROM placement_classes WHERE id IN (SELECT c.id FROM placement_classes c
             WHERE NOT EXISTS (SELECT 1 FROM jobs j WHERE j.class = c.id) LIMIT ?1) RETURNING id",
    )
    .bind(limit)
    .fetch_all(session.conn())
    .await?)
}

pub(super) async fn class_get(reads: &SqlitePool, id: ClassId) -> Result<Option<ClassSpec>, StoreError> {
    let spec: Option<String> =
        sqlx::query_scalar("/* class_get */ SELECT spec FROM placement_classes WHERE id = ?1")
            .bind(id)
            .fetch_optional(reads)
            .await?;
    spec.map(|spec| serde_json::from_str(&spec).map_err(StoreError::inconsistent)).transpose()
}
