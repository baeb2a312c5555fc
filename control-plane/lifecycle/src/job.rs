//! The life of a job: its phases, what may follow each, and who notices if nothing does.

use std::{fmt, str::FromStr};

use gristmill_protocol::JobState;

/// Why a running job has to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopCause {
    /// A user asked for it. The job ends as cancelled, whatever the guest does.
    Cancel,
    /// Its deadline passed. The job ends as failed, whatever the guest does.
    Deadline,
}

/// Where a job is, finer than the state that users see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobPhase {
    /// Queued: any fitting node may lease it. Set by submit, release and the end of a backoff;
    /// followed by a lease or an end. Waits for ever without a queue timeout or deadline.
    Ready,
    /// Queued: not leased before a time. Set by the end of an attempt that is tried again; the sweep
    /// ends it.
    BackingOff,
    /// Queued: a node holds the lease and has not started. The sweep notices when the lease ends.
    Leased,
    /// Running: an attempt runs. The sweep notices when the lease ends.
    Running,
    /// Running, but the node was told to stop. The sweep notices when the lease ends.
    Stopping(StopCause),
    /// Final: outputs are visible.
    Succeeded,
    /// Final: ended without a result.
    Failed,
    /// Final: ended because a user asked for it.
    Cancelled,
}

/// What happens to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobEvent {
    /// A node got the lease.
    Leased,
    /// The attempt started.
    Started,
    /// The attempt was given back before its start.
    Released,
    /// The attempt ended well and its outputs are accepted.
    AttemptSucceeded,
    /// The attempt ended and is not tried again.
    AttemptFailed,
    /// The attempt ended and is tried again after a backoff.
    AttemptRetried,
    /// The backoff is over.
    BackoffOver,
    /// A user asked to cancel.
    CancelAsked,
    /// It waited longer than its queue timeout.
    QueueTimedOut,
    /// Its deadline passed.
    DeadlinePassed,
}

/// An event that cannot happen in a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{event} cannot happen to a {kind} that is {state}")]
pub struct InvalidTransition {
    /// `job` or `attempt`.
    pub kind: &'static str,
    /// The state it was in.
    pub state: String,
    /// What was to happen.
    pub event: String,
}

impl JobPhase {
    /// Every phase.
    pub const ALL: &'static [Self] = &[
        Self::Ready,
        Self::BackingOff,
        Self::Leased,
        Self::Running,
        Self::Stopping(StopCause::Cancel),
        Self::Stopping(StopCause::Deadline),
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The phase after an event. Terminal phases accept no event.
    pub fn apply(self, event: JobEvent) -> Result<Self, InvalidTransition> {
        use JobEvent as E;
        let next = match self {
            Self::Ready => match event {
                E::Leased => Some(Self::Leased),
                E::CancelAsked => Some(Self::Cancelled),
                E::QueueTimedOut | E::DeadlinePassed => Some(Self::Failed),
                E::Started
                | E::Released
                | E::AttemptSucceeded
                | E::AttemptFailed
                | E::AttemptRetried
                | E::BackoffOver => None,
            },
            Self::BackingOff => match event {
                E::BackoffOver => Some(Self::Ready),
                E::CancelAsked => Some(Self::Cancelled),
                E::QueueTimedOut | E::DeadlinePassed => Some(Self::Failed),
                E::Leased
                | E::Started
                | E::Released
                | E::AttemptSucceeded
                | E::AttemptFailed
                | E::AttemptRetried => None,
            },
            Self::Leased => match event {
                E::Started => Some(Self::Running),
                E::Released => Some(Self::Ready),
                E::AttemptRetried => Some(Self::BackingOff),
                E::CancelAsked => Some(Self::Cancelled),
                E::AttemptFailed | E::DeadlinePassed => Some(Self::Failed),
                E::Leased | E::AttemptSucceeded | E::BackoffOver | E::QueueTimedOut => None,
            },
            Self::Running => match event {
                E::AttemptSucceeded => Some(Self::Succeeded),
                E::AttemptFailed => Some(Self::Failed),
                E::AttemptRetried => Some(Self::BackingOff),
                E::CancelAsked => Some(Self::Stopping(StopCause::Cancel)),
                E::DeadlinePassed => Some(Self::Stopping(StopCause::Deadline)),
                E::Leased | E::Started | E::Released | E::BackoffOver | E::QueueTimedOut => None,
            },
            Self::Stopping(cause) => match event {
                E::AttemptSucceeded | E::AttemptFailed | E::AttemptRetried => Some(match cause {
                    StopCause::Cancel => Self::Cancelled,
                    StopCause::Deadline => Self::Failed,
                }),
                E::CancelAsked => Some(Self::Stopping(StopCause::Cancel)),
                E::DeadlinePassed => Some(self),
                E::Leased | E::Started | E::Released | E::BackoffOver | E::QueueTimedOut => None,
            },
            Self::Succeeded | Self::Failed | Self::Cancelled => None,
        };
        next.ok_or_else(|| InvalidTransition {
            kind: "job",
            state: self.to_string(),
            event: format!("{event:?}"),
        })
    }

    /// The state that users see.
    pub fn state(self) -> JobState {
        match self {
            Self::Ready | Self::BackingOff | Self::Leased => JobState::Queued,
            Self::Running | Self::Stopping(_) => JobState::Running,
            Self::Succeeded => JobState::Succeeded,
            Self::Failed => JobState::Failed,
            Self::Cancelled => JobState::Cancelled,
        }
    }

    /// Whether nothing can follow.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
            Self::Ready | Self::BackingOff | Self::Leased | Self::Running | Self::Stopping(_) => false,
        }
    }

    /// Whether the job waits, and so counts in the queue's depth.
    pub fn is_waiting(self) -> bool {
        match self {
            Self::Ready | Self::BackingOff => true,
            Self::Leased
            | Self::Running
            | Self::Stopping(_)
            | Self::Succeeded
            | Self::Failed
            | Self::Cancelled => false,
        }
    }

    /// Whether a node holds a lease on the job.
    pub fn is_leased(self) -> bool {
        match self {
            Self::Leased | Self::Running | Self::Stopping(_) => true,
            Self::Ready | Self::BackingOff | Self::Succeeded | Self::Failed | Self::Cancelled => false,
        }
    }

    /// The text under which a store keeps it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::BackingOff => "backing_off",
            Self::Leased => "leased",
            Self::Running => "running",
            Self::Stopping(StopCause::Cancel) => "stopping_cancel",
            Self::Stopping(StopCause::Deadline) => "stopping_deadline",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for JobPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A stored text that names no phase.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no phase")]
pub struct UnknownPhase(pub String);

impl FromStr for JobPhase {
    type Err = UnknownPhase;

    fn from_str(text: &str) -> Result<Self, UnknownPhase> {
        Self::ALL
            .iter()
            .copied()
            .find(|phase| phase.as_str() == text)
            .ok_or_else(|| UnknownPhase(text.to_owned()))
    }
}

impl JobEvent {
    /// Every event.
    pub const ALL: &'static [Self] = &[
        Self::Leased,
        Self::Started,
        Self::Released,
        Self::AttemptSucceeded,
        Self::AttemptFailed,
        Self::AttemptRetried,
        Self::BackoffOver,
        Self::CancelAsked,
        Self::QueueTimedOut,
        Self::DeadlinePassed,
    ];
}
