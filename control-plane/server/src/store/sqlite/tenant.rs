//! The table `tenants`.

use async_trait::async_trait;
use gristmill_protocol::tenancy::TenantView;

use super::{
    SqliteStore,
    convert::{failed, micros, time},
};
use crate::store::{StoreError, tenant::TenantStore};

type TenantRow = (String, i64, i64, i64);

fn view((name, queue_depth_max, created_at, version): TenantRow) -> Result<TenantView, StoreError> {
    Ok(TenantView {
        name,
        queue_depth_max: queue_depth_max.unsigned_abs(),
        created_at: time(created_at)?,
        version: version.unsigned_abs(),
    })
}

#[async_trait]
impl TenantStore for SqliteStore {
    async fn tenant_create(&self, tenant: TenantView) -> Result<bool, StoreError> {
        self.write("tenant_create", move |connection| {
            Box::pin(async move {
                let done = sqlx::query(
                    "/* tenant_create */ INSERT INTO tenants (name, queue_depth_max, created_at, version)
                     VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                )
                .bind(tenant.name)
                .bind(tenant.queue_depth_max as i64)
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

    async fn tenant_get(&self, name: &str) -> Result<Option<TenantView>, StoreError> {
        sqlx::query_as::<_, TenantRow>(
            "/* tenant_get */ SELECT name, queue_depth_max, created_at, version FROM tenants WHERE name = ?",
        )
        .bind(name)
        .fetch_optional(self.reads())
        .await
        .map_err(failed("tenant_get"))?
        .map(view)
        .transpose()
    }

    async fn tenant_list(&self, after: Option<String>, limit: u32) -> Result<Vec<TenantView>, StoreError> {
        sqlx::query_as::<_, TenantRow>(
            "/* tenant_list */ SELECT name, queue_depth_max, created_at, version FROM tenants
             WHERE name > ? ORDER BY name LIMIT ?",
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
