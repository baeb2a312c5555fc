//! Every type that crosses a process boundary of Gristmill: ids, limits, jobs, leases, outcomes,
//! reasons, error codes and the node protocol.
//!
//! This crate holds data only: no I/O, no async, no clock and no randomness. It builds for wasm32.
//! Readers tolerate unknown fields, because nodes in closed zones are upgraded late.

pub mod attempt;
pub mod audit;
pub mod bulk;
pub mod digest;
pub mod error;
pub mod event;
pub mod ids;
pub mod input_place;
pub mod isolation;
pub mod job;
pub mod limits;
pub mod module;
pub mod node;
pub mod node_api;
mod node_signature;
pub mod reason;
pub mod schema;
pub mod tenancy;
pub mod trace;
pub mod units;
pub mod upload;
pub mod usage;
pub mod zone;

pub use attempt::{AttemptState, AttemptView, WorkPhase};
pub use digest::Digest;
pub use error::{ErrorCode, FieldError, Problem};
pub use ids::{JobId, JoinTokenId, LeaseToken, NodeId, TokenId, UploadId};
pub use isolation::{Isolation, OuterLimit};
pub use jiff::Timestamp;
pub use job::{JobSpec, JobState, JobView};
pub use limits::{Limits, LimitsSpec, Metering};
pub use reason::{Outcome, Reason, TrapKind};
pub use trace::{TraceContext, TraceContextError};
pub use usage::Usage;

/// One page of a keyset-paged list, newest first unless the endpoint says otherwise.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[schemars(rename = "PageOf{T}")]
pub struct Page<T> {
    /// The entries of this page.
    pub items: Vec<T>,
    /// Opaque; pass it as `page_token` for the next page. Absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// Version of the node protocol that this build speaks; servers also serve the one before it.
pub const NODE_PROTOCOL_VERSION: u32 = 1;
