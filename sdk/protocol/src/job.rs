//! Jobs: what a user asks for and what the API shows.

use std::{collections::BTreeMap, fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Digest, JobId, Limits, LimitsSpec, OuterLimit, Reason, Timestamp, TraceContext, TrapKind, Usage,
    attempt::WorkPhase, reason::closed_list,
};

closed_list! {
    /// Where a job is in its life.
    JobState {
        /// Waiting for a node, leased but not yet started, or backing off before a retry.
        Queued = "queued",
        /// An attempt runs.
        Running = "running",
        /// Ended; its outputs are visible.
        Succeeded = "succeeded",
        /// Ended without a result.
        Failed = "failed",
        /// Ended because somebody cancelled it.
        Cancelled = "cancelled",
    }
}

impl JobState {
    /// Whether the state is final.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

closed_list! {
    /// How an input's bytes are laid out for the guest.
    InputKind {
        /// One file.
        File = "file",
        /// A directory tree: the blob is an uncompressed tar archive, unpacked on the node.
        Tree = "tree",
    }
}

closed_list! {
    /// Whether the guest may write to an input.
    InputMode {
        /// Read-only, shared between jobs on the node.
        Ro = "ro",
        /// A writable copy, counted in the disk limit.
        Rw = "rw",
    }
}

/// Bytes given with the job: named by digest, or inline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BlobSource {
    /// A blob that the tenant has uploaded before.
    Digest(Digest),
    /// Text, at most 64 KiB.
    Text(String),
    /// Bytes in standard base64, at most 64 KiB when decoded.
    Base64(#[schemars(regex(pattern = crate::schema::BASE64_PATTERN))] String),
}

/// One input of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// A name, seen by the guest at `/in/NAME`, or an absolute guest path such as `/share`.
    #[schemars(length(min = 1, max = 1_024), regex(pattern = crate::schema::INPUT_NAME_PATTERN))]
    pub name: String,
    /// The bytes.
    pub source: BlobSource,
    /// A file (default) or a directory tree.
    #[serde(default = "InputSpec::default_kind")]
    pub kind: InputKind,
    /// Read-only (default) or a writable copy.
    #[serde(default = "InputSpec::default_mode")]
    pub mode: InputMode,
}

impl InputSpec {
    fn default_kind() -> InputKind {
        InputKind::File
    }

    fn default_mode() -> InputMode {
        InputMode::Ro
    }

    /// The absolute path at which the guest sees the input.
    pub fn guest_path(&self) -> String {
        if self.name.starts_with('/') { self.name.clone() } else { format!("/in/{}", self.name) }
    }
}

/// The request to run one module: the body of `POST /v1/jobs`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["module"]))]
pub struct JobSpec {
    /// `NAME`, `NAME@VERSION`, `OWNER:NAME[@VERSION]` or `sha256:…`. Without a version the newest
    /// one that is not deprecated is taken, once, at submit.
    #[schemars(length(min = 1, max = 512))]
    pub module: String,
    /// Arguments after the program's name.
    #[schemars(length(max = 4_096), inner(regex(pattern = crate::schema::WORD_PATTERN)))]
    pub args: Vec<String>,
    /// Environment of the guest. Names starting with `GRISTMILL_` are reserved.
    #[schemars(transform = crate::schema::environment)]
    pub env: BTreeMap<String, String>,
    /// The guest sees these variables alone, without those that tell it of its job.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub bare_env: bool,
    /// Given to the guest as `/in/params.json`; checked against the module's schema if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub params: Option<serde_json::Value>,
    /// Standard input; empty when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<BlobSource>,
    /// Files and directory trees.
    #[schemars(length(max = 1_000))]
    pub inputs: Vec<InputSpec>,
    /// Ceilings of each attempt.
    pub limits: LimitsSpec,
    /// How many times a guest failure that asks for it is tried again, 0 to 100.
    #[schemars(range(max = 100))]
    pub retries: u32,
    /// Reasons beside `retry_requested` that ask for a retry.
    pub retry_on: Vec<Reason>,
    /// Higher runs first; -100 to 100.
    #[schemars(range(min = -100, max = 100))]
    pub priority: i32,
    /// The job runs only on nodes that carry all of these.
    #[schemars(transform = crate::schema::labels)]
    pub labels: BTreeMap<String, String>,
    /// The job runs only in this zone; in any zone that admits it when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = crate::schema::NAME_PATTERN))]
    pub zone: Option<String>,
    /// Weakest outer limit that the job accepts: it runs only on nodes that enforce this level or a
    /// stronger one. Any when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<OuterLimit>,
    /// Exit codes beside 0 that mean success.
    #[schemars(length(max = 256))]
    pub success_exit_codes: Vec<i32>,
    /// Longest time in the queue before the first start, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 315_360_000_000_u64))]
    pub queue_timeout_ms: Option<u64>,
    /// Longest time from submit to a terminal state, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 315_360_000_000_u64))]
    pub deadline_ms: Option<u64>,
    /// Fixed clocks, seeded random numbers and canonical NaNs, for bit-identical outputs.
    pub reproducible: bool,
    /// The trace that the job belongs to; the header `traceparent` of the submit when absent, and a
    /// trace of the job's own without either. Two submits that differ only in it are the same request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<TraceContext>,
}

/// The module of a job, as resolved at submit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModuleRef {
    /// `NAME` or `OWNER:NAME`; absent when the job named a digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The version; absent when the job named a digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The module's identity.
    pub digest: Digest,
}

/// A job as the API shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobView {
    /// The job's id.
    pub id: JobId,
    /// Who it belongs to.
    pub tenant: String,
    /// Where it is in its life.
    pub state: JobState,
    /// Why it ended, or why it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// How the guest trapped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trap_kind: Option<TrapKind>,
    /// One sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// A short text about this one case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The guest's exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The module as resolved at submit.
    pub module: ModuleRef,
    /// What was asked for; inline bytes are replaced by their digests.
    pub spec: JobSpec,
    /// Limits with every default filled in.
    pub limits: Limits,
    /// Number of the newest attempt; 0 before the first lease.
    pub attempt: u32,
    /// What a node does for the attempt that is under way; absent when none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<WorkPhase>,
    /// Since when the node does that, as far as it has said; a short phase is not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase_since: Option<Timestamp>,
    /// The zone of the newest attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The node of the newest attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<crate::NodeId>,
    /// When the job was accepted.
    pub created_at: Timestamp,
    /// When the first attempt started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it reached its terminal state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// When a cancel was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_requested_at: Option<Timestamp>,
    /// While backing off: not leased before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// What the newest finished attempt used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Number of outputs; 0 unless succeeded.
    pub output_count: u64,
    /// Bytes of all outputs.
    pub output_bytes: u64,
    /// Rises with every change but that of the phase; the ETag, with the phase if the node has said it.
    pub version: u64,
}

/// Tells apart what is shown of a job: its version, and its phase once the node has told it. The entity
/// tag is this text in quotes, such as `7` or `7.compiling`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobTag {
    version: u64,
    phase: Option<WorkPhase>,
}

impl JobTag {
    /// The tag of what is shown.
    pub fn of(job: &JobView) -> Self {
        Self { version: job.version, phase: job.phase.filter(|_| job.phase_since.is_some()) }
    }
}

/// Why a text is no tag of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a version, or a version and a phase such as 7.compiling")]
pub struct JobTagError;

impl fmt::Display for JobTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.phase {
            None => write!(f, "{}", self.version),
            Some(phase) => write!(f, "{}.{phase}", self.version),
        }
    }
}

impl FromStr for JobTag {
    type Err = JobTagError;

    fn from_str(text: &str) -> Result<Self, JobTagError> {
        let (version, phase) = match text.split_once('.') {
            None => (text, None),
            Some((version, phase)) => (version, Some(phase.parse().map_err(|_| JobTagError)?)),
        };
        Ok(Self { version: version.parse().map_err(|_| JobTagError)?, phase })
    }
}

/// One output of a succeeded job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OutputEntry {
    /// Path below `/out`, with `/` between parts. Bytes that are not UTF-8 are refused by the node.
    pub path: String,
    /// The bytes' digest.
    pub digest: Digest,
    /// The bytes' number.
    pub size: u64,
}

/// The answer of `GET /v1/jobs/{id}/outputs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OutputsView {
    /// All outputs, sorted by path.
    pub outputs: Vec<OutputEntry>,
}

/// Filters of `GET /v1/jobs`; all given ones must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JobFilter {
    /// Only jobs in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// Only jobs of this module name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// Only jobs whose newest attempt is or was in this zone, or that ask for it and had none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Only jobs with this label, as `key:value`.
    #[schemars(regex(pattern = ":"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Only jobs accepted after this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_after: Option<Timestamp>,
    /// Entries in a page: default 50, at most 1,000.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_size: Option<u32>,
    /// Where the page before ended.
    #[schemars(regex(pattern = "^[A-Za-z0-9_-]+$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_token: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_read_as_it_is_written() {
        for text in ["7", "7.compiling", "18446744073709551615.collecting"] {
            assert_eq!(text.parse::<JobTag>().map(|tag| tag.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "x", "7.", "7.dancing", ".staging", "-1", "7.compiling.8"] {
            assert_eq!(text.parse::<JobTag>(), Err(JobTagError), "{text:?}");
        }
    }
}
