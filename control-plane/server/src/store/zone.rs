//! Zones as they are kept.

use async_trait::async_trait;
use gristmill_protocol::{
    Timestamp,
    zone::{ZoneSpec, ZoneView},
};

use super::StoreError;

/// What became of a change to a zone.
#[derive(Debug, Clone)]
pub enum ZonePut {
    /// It was made or changed.
    Done(ZoneView),
    /// There is one of that name already.
    Exists,
    /// There is none of that name.
    Absent,
    /// Its version is not the one that the caller knows.
    Stale(ZoneView),
}

/// Keeps zones.
#[async_trait]
pub trait ZoneStore {
    /// Makes a zone: `Done` or `Exists`.
    async fn zone_create(&self, spec: ZoneSpec, at: Timestamp) -> Result<ZonePut, StoreError>;

    /// Replaces description and policy: `Done`, `Absent`, or `Stale` when `if_version` is given and
    /// is not the present version.
    async fn zone_replace(&self, spec: ZoneSpec, if_version: Option<u64>) -> Result<ZonePut, StoreError>;

    /// Every zone, by name.
    async fn zone_list(&self) -> Result<Vec<ZoneView>, StoreError>;
}
