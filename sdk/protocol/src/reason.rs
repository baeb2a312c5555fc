//! Why a job or an attempt is in its state: one closed list, and the outcome a node reports.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Usage;

macro_rules! closed_list {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
        #[schemars(transform = $crate::schema::closed_list)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant,)*
        }

        impl $name {
            /// Every value, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The text used in JSON, SQL, logs and on the command line.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::reason::NotInList;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|value| value.as_str() == text)
                    .ok_or_else(|| $crate::reason::NotInList {
                        expected: Self::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>().join(", "),
                    })
            }
        }
    };
}
pub(crate) use closed_list;

/// A text that is not in the closed list it should come from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {expected}")]
pub struct NotInList {
    /// The list, separated by commas.
    pub expected: String,
}

closed_list! {
    /// Why a job or attempt ended, or why it waits.
    Reason {
        /// The guest exited with a code that the job does not count as success.
        ExitCode = "exit_code",
        /// The guest exited with 75 (`EX_TEMPFAIL` of sysexits.h).
        RetryRequested = "retry_requested",
        /// The guest trapped; the trap kind says how.
        Trap = "trap",
        /// The fuel budget is used up.
        FuelExhausted = "fuel_exhausted",
        /// The guest needed more memory than its limit.
        MemoryExceeded = "memory_exceeded",
        /// The attempt ran longer than its wall-time limit.
        WallTimeExceeded = "wall_time_exceeded",
        /// The guest wrote more bytes or files than its disk limit.
        DiskExceeded = "disk_exceeded",
        /// The files below `/out` are larger or more than the output limit.
        OutputTooLarge = "output_too_large",
        /// The guest held more open handles than its limit.
        HandlesExceeded = "handles_exceeded",
        /// Inputs could not be brought to the node within the stage time.
        StageTimeout = "stage_timeout",
        /// Compilation took longer than its limit.
        CompileTimeout = "compile_timeout",
        /// Compilation needed more memory than its limit.
        CompileMemory = "compile_memory",
        /// The compiler crashed on this module.
        CompileCrash = "compile_crash",
        /// The module cannot be linked or instantiated.
        LinkError = "link_error",
        /// The executor process died.
        ExecutorCrashed = "executor_crashed",
        /// An input blob is gone, is no tree though the job says so, or cannot be where the job wants it.
        InputMissing = "input_missing",
        /// Bytes do not have the digest that was recorded for them.
        DigestMismatch = "digest_mismatch",
        /// A policy of the zone or tenant forbids it.
        PolicyDenied = "policy_denied",
        /// The lease ran out before a result arrived.
        LeaseExpired = "lease_expired",
        /// The node drained before the attempt started.
        NodeDrained = "node_drained",
        /// The job waited in the queue longer than its queue timeout.
        QueueTimeout = "queue_timeout",
        /// The job's deadline passed.
        DeadlineExceeded = "deadline_exceeded",
        /// Too many attempts were lost by infrastructure.
        AttemptsExhausted = "attempts_exhausted",
        /// A user cancelled the job.
        CancelledByUser = "cancelled_by_user",
    }
}

impl Reason {
    /// One sentence for the person who reads it: what happened and what to do next.
    pub fn hint(self) -> &'static str {
        match self {
            Self::ExitCode => {
                "the program ended with a failure code; read its log, or declare the code with --success-exit if it means success"
            }
            Self::RetryRequested => {
                "the program exited with 75 and asks for a retry; raise --retries to allow more"
            }
            Self::Trap => "the program crashed inside its sandbox; the trap kind says how",
            Self::FuelExhausted => "the fuel budget is used up; raise --fuel, or look for an endless loop",
            Self::MemoryExceeded => "the program needed more memory than its limit; raise --memory",
            Self::WallTimeExceeded => "the attempt ran longer than its limit; raise --wall-time",
            Self::DiskExceeded => "the program wrote more bytes or files than its limit; raise --disk",
            Self::OutputTooLarge => {
                "the outputs exceed a limit; the message names it, and --output-max raises the bytes"
            }
            Self::HandlesExceeded => "the program held too many open files; close what it no longer needs",
            Self::StageTimeout => {
                "the inputs did not reach the node in time; look at the zone's link to the server"
            }
            Self::CompileTimeout => "compiling the module took too long; look for huge functions",
            Self::CompileMemory => "compiling the module needed too much memory; look for huge functions",
            Self::CompileCrash => {
                "the compiler crashed on this module; please report it with the module's digest"
            }
            Self::LinkError => "the module could not be instantiated; the message names the import or type",
            Self::ExecutorCrashed => {
                "the executor process died or the node failed; the message says which, and the node's log has the details"
            }
            Self::InputMissing => {
                "an input could not be given to the program; the message says why: upload it again if it is gone, else correct the job's inputs, and submit anew"
            }
            Self::DigestMismatch => "stored bytes do not match their digest; upload them again",
            Self::PolicyDenied => "a policy of the zone or tenant forbids this; the explanation names it",
            Self::LeaseExpired => "the node lost contact with the server; the job is tried again elsewhere",
            Self::NodeDrained => {
                "the node was drained before the attempt started; the job goes to another node"
            }
            Self::QueueTimeout => "no node had room in time; raise --queue-timeout or add nodes",
            Self::DeadlineExceeded => "the job's deadline passed; raise --deadline or add nodes",
            Self::AttemptsExhausted => {
                "too many nodes were lost while running this job; the attempts name each"
            }
            Self::CancelledByUser => "somebody cancelled the job; submit or retry it to run it again",
        }
    }

    /// Whether the attempt was lost by infrastructure, so that it is tried again whatever the
    /// job's own retry count says.
    pub fn is_infrastructure(self) -> bool {
        matches!(self, Self::LeaseExpired | Self::ExecutorCrashed | Self::NodeDrained)
    }
}

closed_list! {
    /// How a guest trapped.
    TrapKind {
        /// `unreachable` was executed (an abort or a panic in most languages).
        Unreachable = "unreachable",
        /// A memory or table access out of bounds.
        OutOfBounds = "out_of_bounds",
        /// Integer division by zero or overflow, or a float that fits no integer.
        DivisionByZero = "division_by_zero",
        /// The call stack is full.
        StackOverflow = "stack_overflow",
        /// An indirect call to nothing or to another type.
        IndirectCall = "indirect_call",
        /// A failed cast or a null reference.
        Cast = "cast",
        /// An exception that nothing caught.
        UncaughtException = "uncaught_exception",
        /// Any other trap, such as a value that a component may not pass to its host.
        Other = "other",
    }
}

closed_list! {
    /// The state in which a node reports an attempt's end.
    OutcomeState {
        /// The guest exited with a success code.
        Succeeded = "succeeded",
        /// The guest or a limit ended the attempt.
        Failed = "failed",
        /// A time limit ended the attempt.
        TimedOut = "timed_out",
        /// The guest was stopped because the job was cancelled.
        Cancelled = "cancelled",
    }
}

/// How an attempt ended. It is data: a guest can never cause an error of the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Outcome {
    /// The attempt's end state.
    pub state: OutcomeState,
    /// Why; absent on success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// How the guest trapped, when the reason is `trap`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trap_kind: Option<TrapKind>,
    /// The guest's exit code, all 32 bits of it, when it exited by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// A short text about this one case, at most 1,024 bytes; never a host path or secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What the attempt used.
    #[serde(default)]
    pub usage: Usage,
}

impl Outcome {
    /// A failed outcome with a reason and a short message, and no usage yet.
    pub fn failed(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            state: match reason {
                Reason::WallTimeExceeded | Reason::StageTimeout | Reason::CompileTimeout => {
                    OutcomeState::TimedOut
                }
                Reason::CancelledByUser => OutcomeState::Cancelled,
                _ => OutcomeState::Failed,
            },
            reason: Some(reason),
            trap_kind: None,
            exit_code: None,
            message: Some(message.into()),
            usage: Usage::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_its_text_and_has_a_hint() {
        for &reason in Reason::ALL {
            assert_eq!(reason.as_str().parse::<Reason>(), Ok(reason));
            assert_eq!(serde_json::to_string(&reason).ok(), Some(format!("\"{reason}\"")));
            assert!(!reason.hint().is_empty());
        }
        assert!("gone".parse::<Reason>().is_err());
    }
}
