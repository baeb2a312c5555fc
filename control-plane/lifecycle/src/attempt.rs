//! The life of an attempt.

use std::{fmt, str::FromStr};

use gristmill_protocol::AttemptState;

use crate::job::{InvalidTransition, UnknownPhase};

/// Where an attempt is; the same list as [`AttemptState`], closed here so that every match is total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptPhase {
    /// A node holds the lease and prepares. Ends by report, release, cancel, or the sweep.
    Leased,
    /// The guest runs. Ends by report, or the sweep.
    Running,
    /// The guest succeeded and its outputs were accepted.
    Succeeded,
    /// The guest or a limit ended it.
    Failed,
    /// A time limit ended it.
    TimedOut,
    /// Its lease ran out, or its node gave it up.
    Lost,
    /// It was stopped because the job was cancelled.
    Cancelled,
    /// It was given back before its start.
    Released,
}

/// What happens to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptEvent {
    /// It started.
    Started,
    /// It was given back before its start.
    Released,
    /// It was reported as succeeded.
    Succeeded,
    /// It was reported as failed.
    Failed,
    /// A time limit ended it.
    TimedOut,
    /// It ended because the job was cancelled.
    Cancelled,
    /// Its lease ended without a report.
    Lost,
}

impl AttemptPhase {
    /// Every phase.
    pub const ALL: &'static [Self] = &[
        Self::Leased,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::TimedOut,
        Self::Lost,
        Self::Cancelled,
        Self::Released,
    ];

    /// The phase after an event. Ended attempts accept no event.
    pub fn apply(self, event: AttemptEvent) -> Result<Self, InvalidTransition> {
        use AttemptEvent as E;
        let next = match self {
            Self::Leased => match event {
                E::Started => Some(Self::Running),
                E::Released => Some(Self::Released),
                E::Failed => Some(Self::Failed),
                E::TimedOut => Some(Self::TimedOut),
                E::Cancelled => Some(Self::Cancelled),
                E::Lost => Some(Self::Lost),
                E::Succeeded => None,
            },
            Self::Running => match event {
                E::Succeeded => Some(Self::Succeeded),
                E::Failed => Some(Self::Failed),
                E::TimedOut => Some(Self::TimedOut),
                E::Cancelled => Some(Self::Cancelled),
                E::Lost => Some(Self::Lost),
                E::Started | E::Released => None,
            },
            Self::Succeeded
            | Self::Failed
            | Self::TimedOut
            | Self::Lost
            | Self::Cancelled
            | Self::Released => None,
        };
        next.ok_or_else(|| InvalidTransition {
            kind: "attempt",
            state: self.to_string(),
            event: format!("{event:?}"),
        })
    }

    /// Whether the attempt holds its lease.
    pub fn is_live(self) -> bool {
        match self {
            Self::Leased | Self::Running => true,
            Self::Succeeded
            | Self::Failed
            | Self::TimedOut
            | Self::Lost
            | Self::Cancelled
            | Self::Released => false,
        }
    }

    /// The state that users see.
    pub fn state(self) -> AttemptState {
        match self {
            Self::Leased => AttemptState::Leased,
            Self::Running => AttemptState::Running,
            Self::Succeeded => AttemptState::Succeeded,
            Self::Failed => AttemptState::Failed,
            Self::TimedOut => AttemptState::TimedOut,
            Self::Lost => AttemptState::Lost,
            Self::Cancelled => AttemptState::Cancelled,
            Self::Released => AttemptState::Released,
        }
    }
}

impl fmt::Display for AttemptPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.state().as_str())
    }
}

impl FromStr for AttemptPhase {
    type Err = UnknownPhase;

    fn from_str(text: &str) -> Result<Self, UnknownPhase> {
        Self::ALL
            .iter()
            .copied()
            .find(|phase| phase.state().as_str() == text)
            .ok_or_else(|| UnknownPhase(text.to_owned()))
    }
}

impl AttemptEvent {
    /// Every event.
    pub const ALL: &'static [Self] = &[
        Self::Started,
        Self::Released,
        Self::Succeeded,
        Self::Failed,
        Self::TimedOut,
        Self::Cancelled,
        Self::Lost,
    ];
}
