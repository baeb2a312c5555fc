//! How a call to the server can fail.

use std::time::Duration;

use gristmill_protocol::{ErrorCode, Problem};

use crate::ConnectionFault;

/// A call that brought no success.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server itself refused the call and said why.
    #[error("{} ({}){}", .problem.detail, .problem.code, hint(.problem))]
    Refused {
        /// What the server said.
        problem: Box<Problem>,
        /// How long it asked to wait before the call is repeated.
        retry_after: Option<Duration>,
    },
    /// No connection came about, and none will until somebody changes an address, a certificate or a
    /// setting. The call had no effect.
    #[error("cannot connect to the server: {fault}; {}", .fault.hint())]
    Connection {
        /// What is wrong.
        fault: ConnectionFault,
    },
    /// There was no answer, or none that the server can have given (a proxy's page, a cut body).
    /// The call may or may not have taken effect; repeat it.
    #[error("no answer from the server: {detail}")]
    Unknown {
        /// What happened instead.
        detail: String,
    },
}

fn hint(problem: &Problem) -> String {
    problem.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default()
}

impl CallError {
    pub(crate) fn unknown(detail: impl Into<String>) -> Self {
        Self::Unknown { detail: detail.into() }
    }

    /// The server's error code, if the answer was the server's.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { problem, .. } => Some(problem.code),
            Self::Connection { .. } | Self::Unknown { .. } => None,
        }
    }

    /// What is wrong with the connection, if that is why there was no answer.
    pub fn connection_fault(&self) -> Option<&ConnectionFault> {
        match self {
            Self::Connection { fault } => Some(fault),
            _ => None,
        }
    }

    /// Whether repeating the same call later can help. A node that has work goes on also while its
    /// server shows a wrong certificate: somebody may be about to correct that.
    pub fn is_worth_repeating(&self) -> bool {
        match self {
            Self::Connection { .. } | Self::Unknown { .. } => true,
            Self::Refused { problem, .. } => {
                problem.status >= 500
                    || matches!(
                        problem.code,
                        ErrorCode::RateLimited | ErrorCode::QueueFull | ErrorCode::ClockSkew
                    )
            }
        }
    }

    /// Whether the server no longer accepts this node at all: it was revoked, or is not known.
    pub fn is_identity_refused(&self) -> bool {
        matches!(self.code(), Some(ErrorCode::Forbidden | ErrorCode::Unauthenticated))
    }

    /// How long the server asked to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Connection { .. } | Self::Unknown { .. } => None,
        }
    }
}

impl From<reqwest::Error> for CallError {
    fn from(error: reqwest::Error) -> Self {
        if let Some(fault) = ConnectionFault::of(&error) {
            return Self::Connection { fault };
        }
        // The chain has the cause (refused, certificate, name) that the outer text hides. The URL
        // is left out: it may carry a user name.
        let error = error.without_url();
        let mut detail = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            detail.push_str(": ");
            detail.push_str(&inner.to_string());
            cause = inner.source();
        }
        Self::Unknown { detail }
    }
}
