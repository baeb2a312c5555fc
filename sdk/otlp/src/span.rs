//! A span that has ended.

use std::borrow::Cow;

use gristmill_protocol::TraceContext;

/// Whom a span serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Work within the process.
    Internal,
    /// The answer to a request.
    Server,
}

/// What an attribute says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Whole(i64),
    Truth(bool),
}

/// Where a span is in its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) context: TraceContext,
    pub(crate) parent: Option<[u8; 8]>,
    /// Whether the parent is in another process.
    pub(crate) is_parent_remote: bool,
}

/// A span that has ended. Times are nanoseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndedSpan {
    pub(crate) place: Place,
    pub(crate) name: Cow<'static, str>,
    pub(crate) kind: Kind,
    pub(crate) began_ns: u64,
    pub(crate) ended_ns: u64,
    pub(crate) attributes: Vec<(&'static str, Value)>,
    pub(crate) has_failed: bool,
}
