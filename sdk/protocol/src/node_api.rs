//! The node protocol: what a node and the server say to each other, over plain HTTPS/1.1.
//!
//! Every call but `enroll` is signed by the node's Ed25519 key as an HTTP message signature
//! (RFC 9421). Every call about an attempt is authorised by that attempt's current lease: the header
//! [`LEASE_HEADER`] carries its token, and a token that is no longer current gets 409 `lease_lost`.
//! Nodes send durations, never times. Every call may be repeated when its answer got lost.
//!
//! | call | what it does |
//! |---|---|
//! | `POST /v1/node/enroll` | redeem a join token ([`EnrollRequest`] → [`EnrollGrant`]) |
//! | `POST /v1/node/heartbeat` | say that the node lives ([`HeartbeatRequest`] → [`HeartbeatGrant`]) |
//! | `POST /v1/node/leases/acquire` | ask for work, held up to `wait_ms` ([`AcquireRequest`] → [`AcquireGrant`]) |
//! | `POST /v1/node/leases/renew` | prolong leases ([`RenewRequest`] → [`RenewGrant`]) |
//! | `POST /v1/node/leases/watch` | wait for cancels of held leases, and tell what lasts ([`WatchRequest`] → [`WatchGrant`]) |
//! | `POST /v1/node/updates` | report starts, ends and releases in one batch ([`UpdatesRequest`] → [`UpdatesGrant`]) |
//! | `GET /v1/node/attempts/{job}/{n}/blobs/{digest}` | fetch the module, stdin or an input; Range works |
//! | `HEAD, PUT /v1/node/attempts/{job}/{n}/outputs/{digest}` | store an output's bytes; HEAD 200 means it is stored |
//! | `PUT /v1/node/attempts/{job}/{n}/logs/{stream}?offset=N&elapsed_us=T` | append log bytes at an offset |

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::{
    Digest, JobId, LeaseToken, Limits, NodeId, Outcome,
    attempt::{LogStream, WorkPhase},
    job::{InputKind, InputMode, OutputEntry},
    limits::SlotSize,
    module::ModuleWorld,
    node::NodeCapabilities,
    reason::closed_list,
};

pub use crate::node_signature::{
    CONTENT_DIGEST_HEADER, LEASE_HEADER, SIGNATURE_HEADER, SIGNATURE_INPUT_HEADER, SIGNATURE_SKEW_SECONDS,
    SignatureParams, parse_signature_params, signature_base, signature_params,
};

/// Redeems a join token.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct EnrollRequest {
    /// Versions of the node protocol that the node speaks, smallest and largest.
    pub protocol_versions: (u32, u32),
    /// The secret `gmj_…`.
    pub join_token: String,
    /// The node's Ed25519 public key, 32 bytes in standard base64.
    pub public_key: String,
    /// A name for people; `[a-z0-9][a-z0-9.-]{0,62}`.
    #[schemars(regex(pattern = crate::schema::NODE_NAME_PATTERN))]
    pub name: String,
    /// Labels that jobs may ask for.
    #[schemars(transform = crate::schema::labels)]
    pub labels: BTreeMap<String, String>,
    /// What the node has and can do.
    pub capabilities: NodeCapabilities,
}

/// What a node learns at enrolment.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct EnrollGrant {
    /// The node's id from now on.
    pub node: NodeId,
    /// The zone it belongs to.
    pub zone: String,
    /// Version of the node protocol to speak.
    pub protocol_version: u32,
    /// The server's clock, milliseconds since 1970.
    pub server_unix_ms: i64,
}

/// Says that the node lives. It renews no lease.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HeartbeatRequest {
    /// Random per start of the node process.
    #[schemars(length(min = 1, max = 128))]
    pub incarnation: String,
    /// Rises with every heartbeat of one incarnation.
    pub sequence: u64,
    /// Whether the node itself is draining (SIGTERM).
    pub draining: bool,
    /// Labels that jobs may ask for.
    #[schemars(transform = crate::schema::labels)]
    pub labels: BTreeMap<String, String>,
    /// What the node has and can do.
    pub capabilities: NodeCapabilities,
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HeartbeatGrant {
    /// Whether an operator asked the node to drain.
    pub drain: bool,
    /// When to send the next heartbeat, in milliseconds.
    pub next_ms: u64,
    /// The server's clock, milliseconds since 1970.
    pub server_unix_ms: i64,
}

/// Asks for work.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AcquireRequest {
    /// Random per start of the node process. Leases of an earlier incarnation end at once.
    #[schemars(length(min = 1, max = 128))]
    pub incarnation: String,
    /// CPU that is free, in thousandths of a core.
    pub cpus_milli_free: u32,
    /// Memory that is free, in bytes.
    pub memory_bytes_free: u64,
    /// Most leases to grant.
    pub leases_max: u32,
    /// How long to hold the call while there is no work, in milliseconds; at most 25,000.
    pub wait_ms: u64,
    /// Only this job (`node run-once --job`); `not_found` if it is none that may come into the node's zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
}

/// Leases granted; empty when the wait ended without work.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct AcquireGrant {
    /// The attempts to run.
    pub leases: Vec<LeaseGrant>,
    /// Whether an operator asked the node to drain.
    #[serde(default)]
    pub drain: bool,
}

/// The right to run one attempt, and all that the node needs for it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct LeaseGrant {
    /// The job.
    pub job: JobId,
    /// The attempt's number.
    pub attempt: u32,
    /// The attempt's fence.
    pub fence: u64,
    /// Proof of the lease.
    pub lease_token: LeaseToken,
    /// How long the lease lasts from the server's sending, in milliseconds.
    pub ttl_ms: u64,
    /// How often to renew, in milliseconds.
    pub renew_ms: u64,
    /// The guest must have stopped this long after the last granted renewal was *asked for*, in
    /// milliseconds; smaller than `ttl_ms`.
    pub stop_ms: u64,
    /// Who the job belongs to.
    pub tenant: String,
    /// The module's digest.
    pub module: Digest,
    /// The module's size in bytes.
    pub module_size: u64,
    /// The module's contract.
    pub world: ModuleWorld,
    /// `argv[0]`: the module's name, or `module` when the job named a digest.
    pub program: String,
    /// Arguments after the program's name.
    pub args: Vec<String>,
    /// The job's own environment.
    pub env: BTreeMap<String, String>,
    /// The guest sees the job's own environment alone.
    #[serde(default)]
    pub bare_env: bool,
    /// Standard input; empty when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<BlobGrant>,
    /// Files and trees, `/in/params.json` among them.
    pub inputs: Vec<InputGrant>,
    /// Ceilings.
    pub limits: Limits,
    /// Exit codes beside 0 that mean success.
    pub success_exit_codes: Vec<i32>,
    /// Reproducible mode.
    pub reproducible: bool,
    /// Time left until the job's deadline, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_left_ms: Option<u64>,
    /// The job's deadline as RFC 3339 text for the guest's `GRISTMILL_DEADLINE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_text: Option<String>,
    /// W3C trace context for the guest's `TRACEPARENT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// A blob that the attempt may fetch.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct BlobGrant {
    /// The bytes' digest.
    pub digest: Digest,
    /// The bytes' number.
    pub size: u64,
}

/// An input that the attempt may fetch, and where the guest sees it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct InputGrant {
    /// Absolute guest path.
    pub guest_path: String,
    /// The bytes.
    pub blob: BlobGrant,
    /// A file or a tree.
    pub kind: InputKind,
    /// Read-only or a writable copy.
    pub mode: InputMode,
}

/// Names one held lease in a batch.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct LeaseRef {
    /// The job.
    pub job: JobId,
    /// The attempt's number.
    pub attempt: u32,
    /// Proof of the lease.
    pub lease_token: LeaseToken,
}

/// Prolongs leases.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RenewRequest {
    /// The leases to prolong.
    #[schemars(length(max = 4_096))]
    pub leases: Vec<LeaseRef>,
}

/// One verdict for each lease of the request, in its order.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RenewGrant {
    /// The verdicts.
    pub leases: Vec<LeaseVerdict>,
}

/// What became of one lease.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum LeaseVerdict {
    /// Still held; prolonged by its full time when this answers a renewal.
    Held {
        /// How long the lease lasts from the server's sending, in milliseconds.
        ttl_ms: u64,
        /// The job is cancelled: stop the guest, then report.
        cancel: bool,
    },
    /// No longer held: stop the guest, report nothing.
    Lost,
}

/// Waits until one of the leases is cancelled or lost.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct WatchRequest {
    /// The leases held.
    #[schemars(length(max = 4_096))]
    pub leases: Vec<LeaseRef>,
    /// How long to hold the call, in milliseconds; at most 25,000.
    pub wait_ms: u64,
    /// What the node does for those of the leases for which it has done so for a while. Those that are
    /// missing are staged until they have started, and run from then on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4_096))]
    pub phases: Vec<PhaseNote>,
}

/// What a node does for an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PhaseNote {
    /// The job.
    pub job: JobId,
    /// The attempt's number.
    pub attempt: u32,
    /// What the node does.
    pub phase: WorkPhase,
    /// For how long it has, in milliseconds.
    pub elapsed_ms: u64,
}

/// The leases to stop; empty when the wait ended without news.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct WatchGrant {
    /// Cancelled: stop the guest, then report.
    pub cancelled: Vec<(JobId, u32)>,
    /// No longer held: stop the guest, report nothing.
    pub lost: Vec<(JobId, u32)>,
    /// Whether an operator asked the node to drain.
    #[serde(default)]
    pub drain: bool,
}

/// A batch of attempt updates, applied in order.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct UpdatesRequest {
    /// The updates; at most 256.
    #[schemars(length(max = 256))]
    pub updates: Vec<AttemptUpdate>,
}

/// One verdict for each update of the request, in its order.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct UpdatesGrant {
    /// The verdicts.
    pub verdicts: Vec<UpdateVerdict>,
}

/// What happened to one attempt.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AttemptUpdate {
    /// The lease that authorises it.
    #[serde(flatten)]
    pub lease: LeaseRef,
    /// What happened.
    pub change: AttemptChange,
}

/// What happened to an attempt.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AttemptChange {
    /// The attempt started.
    Started,
    /// The attempt was given back before its start.
    Released,
    /// The attempt ended.
    Finished(Box<AttemptReport>),
}

/// Read without serde's copy of what is tagged, in which an error would lose its place and a struct could be an
/// array.
impl<'de> Deserialize<'de> for AttemptChange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Kind {
            Started,
            Released,
            Finished,
        }
        #[derive(Deserialize)]
        struct Change {
            kind: Kind,
            outcome: Option<Outcome>,
            outputs: Option<Vec<OutputEntry>>,
            #[serde(default)]
            log_tail: Vec<LogChunk>,
            #[serde(default)]
            log_truncated: bool,
        }
        let Change { kind, outcome, outputs, log_tail, log_truncated } = Change::deserialize(deserializer)?;
        Ok(match kind {
            Kind::Started => Self::Started,
            Kind::Released => Self::Released,
            Kind::Finished => Self::Finished(Box::new(AttemptReport {
                outcome: outcome.ok_or_else(|| D::Error::missing_field("outcome"))?,
                outputs: outputs.ok_or_else(|| D::Error::missing_field("outputs"))?,
                log_tail,
                log_truncated,
            })),
        })
    }
}

/// How an attempt ended, its outputs, and the end of its log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AttemptReport {
    /// How it ended.
    pub outcome: Outcome,
    /// Outputs whose bytes the node has stored before; empty unless succeeded.
    pub outputs: Vec<OutputEntry>,
    /// Log bytes that were not sent before.
    #[serde(default)]
    pub log_tail: Vec<LogChunk>,
    /// Whether a stream was cut at the log limit.
    #[serde(default)]
    pub log_truncated: bool,
}

/// A piece of one log stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogChunk {
    /// The stream.
    pub stream: LogStream,
    /// Where the piece starts in its stream, in bytes.
    pub offset: u64,
    /// When it was written, in microseconds after the attempt's start.
    pub elapsed_us: u64,
    /// The raw bytes in standard base64; at most 64 KiB when decoded.
    pub base64: String,
}

closed_list! {
    /// What the server made of an update.
    UpdateVerdict {
        /// Recorded, now or by an earlier copy of the same update.
        Accepted = "accepted",
        /// The lease is no longer held: stop the guest, report nothing more.
        LeaseLost = "lease_lost",
        /// The job is cancelled: stop the guest, then report.
        Cancelled = "cancelled",
        /// The update is malformed; repeating it does not help.
        Rejected = "rejected",
    }
}

/// What a node that is smaller than one standard slot offers instead.
pub fn reduced_slot(cpus_milli: u32, memory_bytes: u64) -> SlotSize {
    let standard = SlotSize::default();
    SlotSize {
        cpus_milli: standard.cpus_milli.min(cpus_milli),
        memory_bytes: standard.memory_bytes.min(memory_bytes),
    }
}
