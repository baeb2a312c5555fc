//! Whether the store can be written.

use async_trait::async_trait;
use gristmill_protocol::Timestamp;

use super::StoreError;

/// Tries the store out.
#[async_trait]
pub trait HealthStore {
    /// Writes something of no meaning, durably.
    async fn store_probe(&self, at: Timestamp) -> Result<(), StoreError>;
}
