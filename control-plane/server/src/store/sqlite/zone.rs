//! The table `zones`.

use async_trait::async_trait;
use gristmill_protocol::{
    Timestamp,
    zone::{ZoneSpec, ZoneView},
};

use super::{
    SqliteStore,
    convert::{failed, from_json, micros, time, to_json},
};
use crate::store::{
    StoreError,
    zone::{ZonePut, ZoneStore},
};

type ZoneRow = (String, String, String, i64, i64);

fn view((name, description, policy, created_at, version): ZoneRow) -> Result<ZoneView, StoreError> {
    Ok(ZoneView {
        name,
        description,
        policy: from_json(&policy)?,
        created_at: time(created_at)?,
        version: version.unsigned_abs(),
    })
}

#[async_trait]
impl ZoneStore for SqliteStore {
    async fn zone_create(&self, spec: ZoneSpec, at: Timestamp) -> Result<ZonePut, StoreError> {
        let policy = to_json(&spec.policy)?;
        self.write("zone_create", move |connection| {
            Box::pin(async move {
                let row = sqlx::query_as::<_, ZoneRow>(
                    "/* zone_create */ INSERT INTO zones (name, description, policy, created_at, version)
                     VALUES (?, ?, ?, ?, 1) ON CONFLICT DO NOTHING
                     RETURNING name, description, policy, created_at, version",
                )
                .bind(spec.name)
                .bind(spec.description)
                .bind(policy)
                .bind(micros(at))
                .fetch_optional(connection)
                .await
                .map_err(failed("zone_create"))?;
                row.map_or(Ok(ZonePut::Exists), |row| view(row).map(ZonePut::Done))
            })
        })
        .await
    }

    async fn zone_replace(&self, spec: ZoneSpec, if_version: Option<u64>) -> Result<ZonePut, StoreError> {
        let policy = to_json(&spec.policy)?;
        self.write("zone_replace", move |connection| {
            Box::pin(async move {
                let row = sqlx::query_as::<_, ZoneRow>(
                    "/* zone_replace */ UPDATE zones
                     SET description = ?1, policy = ?2, version = version + 1
                     WHERE name = ?3 AND (?4 IS NULL OR version = ?4)
                     RETURNING name, description, policy, created_at, version",
                )
                .bind(spec.description)
                .bind(policy)
                .bind(&spec.name)
                .bind(if_version.map(|version| version as i64))
                .fetch_optional(&mut *connection)
                .await
                .map_err(failed("zone_replace"))?;
                if let Some(row) = row {
                    return view(row).map(ZonePut::Done);
                }
                let present = sqlx::query_as::<_, ZoneRow>(
                    "/* zone_replace */ SELECT name, description, policy, created_at, version
                     FROM zones WHERE name = ?",
                )
                .bind(&spec.name)
                .fetch_optional(connection)
                .await
                .map_err(failed("zone_replace"))?;
                present.map_or(Ok(ZonePut::Absent), |row| view(row).map(ZonePut::Stale))
            })
        })
        .await
    }

    async fn zone_list(&self) -> Result<Vec<ZoneView>, StoreError> {
        sqlx::query_as::<_, ZoneRow>(
            "/* zone_list */ SELECT name, description, policy, created_at, version FROM zones ORDER BY name",
        )
        .fetch_all(self.reads())
        .await
        .map_err(failed("zone_list"))?
        .into_iter()
        .map(view)
        .collect()
    }
}
