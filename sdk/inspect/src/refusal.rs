//! Why a module is not accepted.

use gristmill_protocol::ErrorCode;

/// A module that is not accepted. The texts are for its publisher; they name no host path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// One of `module_invalid`, `module_too_complex`, `module_no_entry`, `import_not_allowed` and
    /// `unsupported_feature`.
    pub code: ErrorCode,
    /// What is wrong with the module.
    pub detail: String,
    /// What to do about it.
    pub hint: String,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), hint: hint.into() }
    }
}

/// Why the inspection of a file gave no metadata.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The module is at fault.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The file could not be read.
    #[error("the module cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
}
