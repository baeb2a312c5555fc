//! Tenants and user tokens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Timestamp, TokenId, reason::closed_list};

closed_list! {
    /// What a token may do. A token acts for one tenant; `admin` also acts on the whole system.
    Scope {
        /// Read jobs, modules, outputs and logs of the tenant.
        Read = "read",
        /// Submit, cancel and retry jobs, and upload blobs.
        Submit = "submit",
        /// Publish and deprecate modules.
        Publish = "publish",
        /// Read the server's metrics, which add up all tenants.
        Metrics = "metrics",
        /// Everything, for every tenant: zones, nodes, tenants, tokens.
        Admin = "admin",
    }
}

/// Longest time that a tenant may keep jobs, in milliseconds: ten years.
pub const RETENTION_MS_MAX: u64 = 315_360_000_000;

/// What a tenant keeps of its jobs that have ended. Where a field is absent, the server's setting holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TenantRetention {
    /// How long jobs are kept after their end, in milliseconds, with their attempts and outputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 315_360_000_000_u64))]
    pub job_ttl_ms: Option<u64>,
    /// How long logs are kept after the end of their job, in milliseconds; never longer than the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 315_360_000_000_u64))]
    pub log_ttl_ms: Option<u64>,
    /// Most jobs that have ended and are kept; the oldest go first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub jobs_max: Option<u32>,
    /// Most bytes of outputs and logs of jobs that have ended; the oldest jobs go first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 9_223_372_036_854_775_807_u64))]
    pub bytes_max: Option<u64>,
}

impl TenantRetention {
    /// Whether the server's settings hold throughout.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A tenant as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TenantView {
    /// Matches `[a-z][a-z0-9-]{0,62}`.
    #[schemars(regex(pattern = crate::schema::NAME_PATTERN))]
    pub name: String,
    /// Most jobs that may wait in the queue at a time.
    pub queue_depth_max: u64,
    /// What it keeps by a policy of its own; absent when all is as the server's settings say.
    #[serde(default, skip_serializing_if = "TenantRetention::is_default")]
    pub retention: TenantRetention,
    /// When it was made.
    pub created_at: Timestamp,
    /// Rises with every change; the ETag.
    pub version: u64,
}

/// Body of `POST /v1/tenants` and `PUT /v1/tenants/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantSpec {
    /// Matches `[a-z][a-z0-9-]{0,62}`.
    #[schemars(regex(pattern = crate::schema::NAME_PATTERN))]
    pub name: String,
    /// Most jobs that may wait in the queue at a time; the server's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_depth_max: Option<u64>,
    /// What it keeps by a policy of its own; the server's settings hold where nothing is said.
    #[serde(default, skip_serializing_if = "TenantRetention::is_default")]
    pub retention: TenantRetention,
}

/// Body of `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenSpec {
    /// For people, 1 to 100 characters.
    #[schemars(length(min = 1, max = 100), regex(pattern = crate::schema::LINE_PATTERN))]
    pub name: String,
    /// The tenant it acts for; the caller's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = crate::schema::NAME_PATTERN))]
    pub tenant: Option<String>,
    /// What it may do; `read`, `submit` and `publish` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub scopes: Option<Vec<Scope>>,
    /// How long it is valid, in milliseconds; 90 days when absent, at most 10 years. It ends no later
    /// than the token that makes it, unless that is an admin's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 315_360_000_000_u64))]
    pub ttl_ms: Option<u64>,
}

/// A token as the API shows it; never its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenView {
    /// The token's public name.
    pub id: TokenId,
    /// For people, 1 to 100 characters.
    #[schemars(length(min = 1, max = 100), regex(pattern = crate::schema::LINE_PATTERN))]
    pub name: String,
    /// The tenant it acts for.
    pub tenant: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops being valid.
    pub expires_at: Timestamp,
    /// When it was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
}

impl TokenView {
    /// The number in the ETag: it tells what can change, which is the revocation alone.
    pub fn revision(&self) -> u64 {
        1 + u64::from(self.revoked_at.is_some())
    }
}

/// The answer of `POST /v1/tokens`; the only time that the secret is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenCreated {
    /// What the API shows from now on.
    pub token: TokenView,
    /// The secret, `gmu_…`.
    pub secret: String,
}
