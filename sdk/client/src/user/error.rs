//! What can go wrong with a call, as something a program can match on and a person can act on.

use gristmill_protocol::{Digest, ErrorCode, Problem};

use crate::ConnectionFault;

/// A failed call of the users' API.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server understood the request and refused it.
    #[error("{}", problem.detail)]
    Api {
        /// The server's problem document.
        problem: Box<Problem>,
        /// Value of `Retry-After`, in seconds, when the server sent one.
        retry_after_s: Option<u64>,
    },
    /// No answer came, also after the retries: the address is wrong, the server is down, or the
    /// network or a proxy stands between.
    #[error("cannot reach {server}: {detail}")]
    Unreachable {
        /// The server's base URL.
        server: String,
        /// The innermost cause.
        detail: String,
    },
    /// No connection comes about, and trying again does not help: the certificate is not trusted, or
    /// the address is http where it should be https.
    #[error("cannot reach {server}: {fault}")]
    Connection {
        /// The server's base URL.
        server: String,
        /// What is wrong.
        fault: ConnectionFault,
    },
    /// Something answered that is not a Gristmill server, or one of another version.
    #[error("{server} gave an answer that is not understood: {detail}")]
    UnexpectedAnswer {
        /// The server's base URL.
        server: String,
        /// The status, or what could not be read.
        detail: String,
    },
    /// Received bytes do not have the digest that they were asked for by.
    #[error("received bytes have digest {found} instead of {expected}")]
    Corrupted {
        /// The digest asked for.
        expected: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// A local file could not be read or written.
    #[error("{what}: {source}")]
    File {
        /// The action and the file.
        what: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The settings of the client cannot be used.
    #[error("{detail}")]
    Settings {
        /// What is wrong with them.
        detail: String,
    },
}

impl ClientError {
    /// The server's code, when the server refused the request.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Api { problem, .. } => Some(problem.code),
            _ => None,
        }
    }

    /// What to do next, in one sentence.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Api { problem, .. } => problem.hint.clone(),
            Self::Unreachable { .. } => {
                Some("check the address and that the server runs; the saved contexts are shown by `gristmill context list`".into())
            }
            Self::Connection { fault, .. } => Some(fault.hint().into()),
            Self::UnexpectedAnswer { .. } => {
                Some("check that the address is a Gristmill server and that no proxy answers in its place".into())
            }
            Self::Corrupted { .. } => Some("repeat the command; if it happens again, the stored bytes are damaged".into()),
            Self::File { .. } | Self::Settings { .. } => None,
        }
    }

    /// Whether the server says that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(ErrorCode::NotFound)
    }

    pub(crate) fn file(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::File { what: what.into(), source }
    }
}
