//! Durable state behind one trait, so that a second database only plugs in.

pub mod audit;
pub mod blob;
pub mod event;
pub mod health;
pub mod job;
pub mod module;
pub mod node;
pub mod retention;
pub mod sqlite;
pub mod tenant;
pub mod token;
pub mod upload;
pub mod zone;

use std::sync::Arc;

use gristmill_protocol::ErrorCode;

use crate::error::ApiError;

/// Everything that the server keeps. Each part is the trait of one family of tables.
pub trait Store:
    job::JobStore
    + audit::AuditStore
    + blob::BlobRows
    + health::HealthStore
    + module::ModuleStore
    + node::NodeStore
    + retention::RetentionStore
    + tenant::TenantStore
    + token::TokenStore
    + upload::UploadStore
    + zone::ZoneStore
    + Send
    + Sync
    + std::fmt::Debug
    + 'static
{
    /// The same store, for one change: the record of who changed what gets this note in the
    /// transaction of the change, with what came of it.
    fn audited(&self, note: audit::AuditNote) -> Arc<dyn Store>;
}

/// What became of a change to something that may be changed under a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed<T> {
    /// It was changed, or was so before.
    Done(T),
    /// There is no such thing.
    Absent,
    /// Its version is this one and not the one that the caller knows; nothing was changed.
    Stale(u64),
}

impl<T> Changed<T> {
    /// What was changed; `not_found` or `precondition_failed` otherwise.
    pub fn or_refused(self, what: &str) -> Result<T, ApiError> {
        match self {
            Self::Done(changed) => Ok(changed),
            Self::Absent => Err(ApiError::not_found(what)),
            Self::Stale(version) => Err(ApiError::stale(what, version)),
        }
    }
}

/// Why the store did not do what it was asked. Absence and lost races are no errors but answers.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store is closed or closing; nothing was done.
    #[error("the store is closed")]
    Closed,
    /// The database refused or failed; nothing was done. `name` is the operation.
    #[error("failed to {name}")]
    Failed {
        /// The operation.
        name: &'static str,
        /// The database's own words.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The disk is full or broken, or another process holds the database; nothing was done. It can
    /// pass by itself.
    #[error("the database cannot be used now: {source}")]
    Unavailable {
        /// The database's own words.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something stored cannot be understood, or a guarded change hit other rows than it should.
    #[error("stored data is inconsistent: {0}")]
    Inconsistent(String),
}

impl StoreError {
    /// A stored value that cannot be understood.
    pub fn inconsistent(what: impl std::fmt::Display) -> Self {
        Self::Inconsistent(what.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Closed => {
                let mut answer = Self::new(ErrorCode::Unavailable, "the server is stopping")
                    .with_hint("repeat the request in a moment");
                answer.retry_after_s = Some(1);
                answer
            }
            StoreError::Unavailable { .. } => {
                let mut answer = Self::new(ErrorCode::Unavailable, "the server cannot reach its storage now")
                    .with_hint("repeat the request in a moment; nothing was changed");
                answer.retry_after_s = Some(5);
                answer.source = Some(error.into());
                answer
            }
            StoreError::Failed { .. } | StoreError::Inconsistent(_) => Self::internal(error),
        }
    }
}
