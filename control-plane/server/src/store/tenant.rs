//! Tenants as they are kept.

use async_trait::async_trait;
use gristmill_protocol::tenancy::TenantView;

use super::StoreError;

/// Keeps tenants.
#[async_trait]
pub trait TenantStore {
    /// Makes a tenant. `false` when there is one of that name.
    async fn tenant_create(&self, tenant: TenantView) -> Result<bool, StoreError>;

    /// One tenant.
    async fn tenant_get(&self, name: &str) -> Result<Option<TenantView>, StoreError>;

    /// Tenants by name, after the given one.
    async fn tenant_list(&self, after: Option<String>, limit: u32) -> Result<Vec<TenantView>, StoreError>;
}
