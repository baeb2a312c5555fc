//! Tenants as they are kept.

use async_trait::async_trait;
use gristmill_protocol::tenancy::{TenantRetention, TenantView};

use super::{Changed, StoreError};

/// Keeps tenants.
#[async_trait]
pub trait TenantStore {
    /// Makes a tenant. `false` when there is one of that name.
    async fn tenant_create(&self, tenant: TenantView) -> Result<bool, StoreError>;

    /// Gives a tenant another depth of its queue and another retention, if it is at this version or none
    /// is asked for.
    async fn tenant_replace(
        &self,
        name: &str,
        queue_depth_max: u64,
        retention: TenantRetention,
        if_version: Option<u64>,
    ) -> Result<Changed<TenantView>, StoreError>;

    /// One tenant.
    async fn tenant_get(&self, name: &str) -> Result<Option<TenantView>, StoreError>;

    /// Tenants by name, after the given one.
    async fn tenant_list(&self, after: Option<String>, limit: u32) -> Result<Vec<TenantView>, StoreError>;
}
