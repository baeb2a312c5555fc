//! The table `tenants`.

use async_trait::async_trait;
use gristmill_protocol::tenancy::{TenantRetention, TenantView};

use super::{
    SqliteStore,
    convert::{failed, micros, time},
};
use crate::store::{Changed, StoreError, tenant::TenantStore};

#[derive(sqlx::FromRow)]
struct TenantRow {
    name: String,
    queue_depth_max: i64,
    job_ttl_ms: Option<i64>,
    log_ttl_ms: Option<i64>,
    jobs_max: Option<u32>,
    bytes_max: Option<i64>,
    created_at: i64,
    version: i64,
}

fn view(row: TenantRow) -> Result<TenantView, StoreError> {
    Ok(TenantView {
        name: row.name,
        queue_depth_max: row.queue_depth_max.unsigned_abs(),
        retention: TenantRetention {
            job_ttl_ms: row.job_ttl_ms.map(i64::unsigned_abs),
            log_ttl_ms: row.log_ttl_ms.map(i64::unsigned_abs),
            jobs_max: row.jobs_max,
            bytes_max: row.bytes_max.map(i64::unsigned_abs),
        },
        created_at: time(row.created_at)?,
        version: row.version.unsigned_abs(),
    })
}

fn signed(number: Option<u64>) -> Option<i64> {
    number.map(|number| number as i64)
}

#[async_trait]
impl TenantStore for SqliteStore {
    async fn tenant_create(&self, tenant: TenantView) -> Result<bool, StoreError> {
        self.write("tenant_create", move |connection| {
            Box::pin(async move {
                let done = sqlx::query(
                    "/* tenant_create */ INSERT INTO tenants (name, queue_depth_max, job_ttl_ms, log_ttl_ms,
                         jobs_max, bytes_max, created_at, version)
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                )
                .bind(tenant.name)
                .bind(tenant.queue_depth_max as i64)
                .bind(signed(tenant.retention.job_ttl_ms))
                .bind(signed(tenant.retention.log_ttl_ms))
                .bind(tenant.retention.jobs_max)
                .bind(signed(tenant.retention.bytes_max))
                .bind(micros(tenant.created_at))
                .bind(tenant.version as i64)
                .execute(connection)
                .await
                .map_err(failed("tenant_create"))?;
                Ok(done.rows_affected() == 1)
            })
        })
        .await
    }

    async fn tenant_replace(
        &self,
        name: &str,
        queue_depth_max: u64,
        retention: TenantRetention,
        if_version: Option<u64>,
    ) -> Result<Changed<TenantView>, StoreError> {
        let name = name.to_owned();
        self.write("tenant_replace", move |connection| {
            Box::pin(async move {
                let row = sqlx::query_as::<_, TenantRow>(
                    "/* tenant_replace */ UPDATE tenants
                     SET queue_depth_max = ?1, job_ttl_ms = ?2, log_ttl_ms = ?3, jobs_max = ?4, bytes_max = ?5,
                         version = version + 1
                     WHERE name = ?6 AND (?7 IS NULL OR version = ?7) RETURNING *",
                )
                .bind(queue_depth_max as i64)
                .bind(signed(retention.job_ttl_ms))
                .bind(signed(retention.log_ttl_ms))
                .bind(retention.jobs_max)
                .bind(signed(retention.bytes_max))
                .bind(&name)
                .bind(signed(if_version))
                .fetch_optional(&mut *connection)
                .await
                .map_err(failed("tenant_replace"))?;
                if let Some(row) = row {
                    return view(row).map(Changed::Done);
                }
                let present: Option<i64> =
                    sqlx::query_scalar("/* tenant_replace */ SELECT version FROM tenants WHERE name = ?")
                        .bind(&name)
                        .fetch_optional(connection)
                        .await
                        .map_err(failed("tenant_replace"))?;
                Ok(present.map_or(Changed::Absent, |version| Changed::Stale(version.unsigned_abs())))
            })
        })
        .await
    }

    async fn tenant_get(&self, name: &str) -> Result<Option<TenantView>, StoreError> {
        sqlx::query_as::<_, TenantRow>("/* tenant_get */ SELECT * FROM tenants WHERE name = ?")
            .bind(name)
            .fetch_optional(self.reads())
            .await
            .map_err(failed("tenant_get"))?
            .map(view)
            .transpose()
    }

    async fn tenant_list(&self, after: Option<String>, limit: u32) -> Result<Vec<TenantView>, StoreError> {
        sqlx::query_as::<_, TenantRow>(
            "/* tenant_list */ SELECT * FROM tenants WHERE name > ? ORDER BY name LIMIT ?",
        )
        .bind(after.unwrap_or_default())
        .bind(limit)
        .fetch_all(self.reads())
        .await
        .map_err(failed("tenant_list"))?
        .into_iter()
        .map(view)
        .collect()
    }
}
