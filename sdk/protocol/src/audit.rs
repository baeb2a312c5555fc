//! The record of who changed what.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Timestamp, reason::closed_list};

closed_list! {
    /// What was done.
    AuditOperation {
        /// Bytes were stored.
        BlobPut = "blob_put",
        /// A version of a module was published.
        ModulePublish = "module_publish",
        /// A module was shown to others, or hidden.
        ModuleChange = "module_change",
        /// A version of a module was deprecated, or no longer.
        ModuleVersionChange = "module_version_change",
        /// A job was submitted.
        JobSubmit = "job_submit",
        /// A job was cancelled.
        JobCancel = "job_cancel",
        /// A job that had ended was submitted again.
        JobRetry = "job_retry",
        /// A tenant was made.
        TenantCreate = "tenant_create",
        /// A tenant got another depth of its queue, or keeps other things.
        TenantReplace = "tenant_replace",
        /// A user token was made.
        TokenCreate = "token_create",
        /// A user token was taken back.
        TokenRevoke = "token_revoke",
        /// A zone was made.
        ZoneCreate = "zone_create",
        /// A zone got another description or policy.
        ZoneReplace = "zone_replace",
        /// A join token was made.
        JoinTokenCreate = "join_token_create",
        /// A node enrolled with a join token.
        NodeEnroll = "node_enroll",
        /// A node was asked to drain.
        NodeDrain = "node_drain",
        /// A node was asked to take work again.
        NodeResume = "node_resume",
        /// A node's identity was taken back.
        NodeRevoke = "node_revoke",
        /// An upload was begun.
        UploadCreate = "upload_create",
        /// An upload was thrown away: on request, because its bytes are not what was declared, or expired.
        UploadDelete = "upload_delete",
        /// A node used a lease that it never got. Each job counts once in ten minutes.
        LeaseForge = "lease_forge",
        /// Things of one kind that are kept no longer were removed, in one transaction.
        RetentionPurge = "retention_purge",
        /// A backup was restored: a new generation of leases began.
        BackupRestore = "backup_restore",
        /// The database was brought up to date.
        SchemaMigrate = "schema_migrate",
    }
}

closed_list! {
    /// What came of it.
    AuditOutcome {
        /// It is done, or was so before.
        Done = "done",
        /// The state of things did not allow it; nothing was changed.
        Refused = "refused",
    }
}

/// One entry of the record. It is written in the transaction of the change itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditView {
    /// Rises with every entry of this server.
    pub seq: u64,
    /// When it was done, by the server's clock.
    pub at: Timestamp,
    /// Who did it: the id of a token, of a join token or of a node, or `server`.
    pub actor: String,
    /// The tenant that the token acts for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The address that the request came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// Finds the request in the server's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// What was done.
    pub operation: AuditOperation,
    /// To what: an id, a digest, a name or a kind of things.
    pub object: String,
    /// What came of it.
    pub outcome: AuditOutcome,
    /// The object's version, its ETag, as the request found it, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_before: Option<u64>,
    /// The object's version afterwards, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_after: Option<u64>,
}

/// Filters and page of `GET /v1/audit`; all given ones hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditFilter {
    /// Only what this token, join token or node did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Only what was done for this tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Only this operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<AuditOperation>,
    /// Only what was done to this object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Only what was done at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Only what was done before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Entries in a page, 1 to 1,000; 50 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000))]
    pub page_size: Option<u32>,
    /// `next_page_token` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_token: Option<String>,
}
