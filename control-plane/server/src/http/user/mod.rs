//! The users' API.

pub(super) mod audit;
pub(super) mod blobs;
pub(super) mod bulk;
pub(super) mod events;
pub(super) mod jobs;
pub(super) mod logs;
pub(super) mod modules;
pub(super) mod nodes;
pub(super) mod tenancy;
pub(super) mod uploads;
pub(super) mod zones;
