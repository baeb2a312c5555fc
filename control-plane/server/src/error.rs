//! The one error that operations return: a public code and text, and a source that only the log sees.

use gristmill_inspect::Refusal;
use gristmill_protocol::{ErrorCode, FieldError};

/// A refused or failed request. The code, detail, hint and field errors are public; the source is
/// logged with the request id and never sent.
#[derive(Debug, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct ApiError {
    /// The machine-readable code; it decides the HTTP status.
    pub code: ErrorCode,
    /// What went wrong in this one case. It never holds a host path or a secret.
    pub detail: String,
    /// What to do next.
    pub hint: Option<String>,
    /// Each field that is wrong.
    pub errors: Vec<FieldError>,
    /// Value of `Retry-After`, in seconds.
    pub retry_after_s: Option<u64>,
    /// The registered type of the problem, where there is one.
    pub registered: Option<Box<RegisteredProblem>>,
    /// The cause, for the log.
    #[source]
    pub source: Option<anyhow::Error>,
}

/// A problem type that a specification names (RFC 9457 `type`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredProblem {
    /// Its URI.
    pub uri: &'static str,
    /// The members that it adds to the document.
    pub members: Vec<(&'static str, u64)>,
}

impl ApiError {
    /// A public error without a hidden cause.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            hint: None,
            errors: Vec::new(),
            retry_after_s: None,
            registered: None,
            source: None,
        }
    }

    /// `not_found`, the same for what is absent and for what is not visible.
    pub fn not_found(what: &str) -> Self {
        Self::new(ErrorCode::NotFound, format!("there is no such {what}, or this token may not see it"))
    }

    /// `invalid_request` about one field.
    pub fn field(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let (pointer, detail) = (pointer.into(), detail.into());
        let mut error = Self::new(ErrorCode::InvalidRequest, format!("{pointer}: {detail}"));
        error.errors.push(FieldError { pointer, detail });
        error
    }

    /// `not_found` about one field of the request that names something.
    pub fn absent(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let mut error = Self::field(pointer, detail);
        error.code = ErrorCode::NotFound;
        error
    }

    /// `conflict`: the body of a `PUT` names another thing than its path. RFC 9110, section 9.3.4, suggests 409.
    pub fn renamed(things: &str) -> Self {
        let mut error =
            Self::field("/name", format!("must be the name in the path; {things} are not renamed"));
        error.code = ErrorCode::Conflict;
        error.with_hint("give the name that is in the path")
    }

    /// `precondition_failed`: what `If-Match` names is not the present version.
    pub fn stale(what: &str, version: u64) -> Self {
        let detail = format!("the {what} was changed meanwhile; its ETag is \"{version}\"");
        Self::new(ErrorCode::PreconditionFailed, detail)
            .with_hint("read it again, apply the change to that, and repeat")
    }

    /// `internal`, with the cause for the log.
    pub fn internal(source: impl Into<anyhow::Error>) -> Self {
        let mut error = Self::new(ErrorCode::Internal, "the server failed to handle the request");
        error.hint = Some("the request id finds the cause in the server's log".into());
        error.source = Some(source.into());
        error
    }

    /// Says that this is a problem of a registered type.
    #[must_use]
    pub fn registered(mut self, uri: &'static str, members: Vec<(&'static str, u64)>) -> Self {
        self.registered = Some(Box::new(RegisteredProblem { uri, members }));
        self
    }

    /// Adds what to do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code, refusal.detail).with_hint(refusal.hint)
    }
}
