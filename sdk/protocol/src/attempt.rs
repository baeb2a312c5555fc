//! Attempts: one try at a job on one node.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{NodeId, Reason, Timestamp, TrapKind, Usage, reason::closed_list};

closed_list! {
    /// Where an attempt is in its life.
    AttemptState {
        /// A node holds the lease and prepares.
        Leased = "leased",
        /// The guest runs.
        Running = "running",
        /// The guest succeeded and its outputs were accepted.
        Succeeded = "succeeded",
        /// The guest or a limit ended it.
        Failed = "failed",
        /// A time limit ended it.
        TimedOut = "timed_out",
        /// Its lease ran out.
        Lost = "lost",
        /// It was stopped because the job was cancelled.
        Cancelled = "cancelled",
        /// It was given back before its start; it does not count as an attempt.
        Released = "released",
    }
}

impl AttemptState {
    /// Whether the attempt still holds its lease.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Leased | Self::Running)
    }
}

closed_list! {
    /// What a node does for an attempt that is under way.
    WorkPhase {
        /// It brings the module and the inputs.
        Staging = "staging",
        /// It compiles the module.
        Compiling = "compiling",
        /// The guest runs.
        Running = "running",
        /// It collects the outputs and sends them.
        Collecting = "collecting",
    }
}

/// An attempt as the API shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AttemptView {
    /// From 1; rises with every lease of the job.
    pub number: u32,
    /// Rises with every lease and is never reused, also not after a restore.
    pub fence: u64,
    /// Where it is in its life.
    pub state: AttemptState,
    /// What its node does for it; absent once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<WorkPhase>,
    /// Since when its node does that, as far as the node has said; a short phase is not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase_since: Option<Timestamp>,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// How the guest trapped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trap_kind: Option<TrapKind>,
    /// A short text about this one case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The guest's exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The node that holds or held the lease.
    pub node: NodeId,
    /// That node's zone.
    pub zone: String,
    /// When the lease was granted.
    pub leased_at: Timestamp,
    /// When the guest's attempt started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// What it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Bytes of stdout stored so far.
    pub stdout_bytes: u64,
    /// Bytes of stderr stored so far.
    pub stderr_bytes: u64,
    /// Whether a stream was cut at the log limit.
    pub log_truncated: bool,
}

closed_list! {
    /// A stream of an attempt's log.
    LogStream {
        /// Standard output, raw.
        Stdout = "stdout",
        /// Standard error, raw.
        Stderr = "stderr",
    }
}

/// A piece of a followed log: the data of the messages `log` of a log's stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogPieceView {
    /// The stream.
    pub stream: LogStream,
    /// Where it starts in its stream, in bytes.
    pub offset: u64,
    /// When it was written, in microseconds after the attempt's start.
    pub elapsed_us: u64,
    /// The bytes, if they are UTF-8 by themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The bytes otherwise, in standard base64.
    #[schemars(regex(pattern = crate::schema::BASE64_PATTERN))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

/// The end of a followed log: the data of the message `end`, which comes last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogEndView {
    /// How the attempt ended.
    pub state: AttemptState,
    /// Bytes of its stdout.
    pub stdout_bytes: u64,
    /// Bytes of its stderr.
    pub stderr_bytes: u64,
    /// Whether a stream was cut at the log limit.
    pub log_truncated: bool,
}
