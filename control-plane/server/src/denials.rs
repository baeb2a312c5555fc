//! Requests that were refused for want of rights or of room: counted for monitoring, and logged now and
//! then, since a stranger can cause as many as he likes.

use std::sync::atomic::{AtomicU64, Ordering};

use gristmill_protocol::{ErrorCode, Timestamp};

use crate::{error::ApiError, principal::Origin, seldom::Seldom};

/// What is counted. `unavailable` is a server whose room is all taken, or that starts or stops.
const COUNTED: [ErrorCode; 7] = [
    ErrorCode::Unauthenticated,
    ErrorCode::ClockSkew,
    ErrorCode::Forbidden,
    ErrorCode::RateLimited,
    ErrorCode::QueueFull,
    ErrorCode::UploadLimit,
    ErrorCode::Unavailable,
];
/// Of these, what is logged too: somebody wants what he may not have. The others are daily business.
const LOGGED: [ErrorCode; 4] =
    [ErrorCode::Unauthenticated, ErrorCode::ClockSkew, ErrorCode::Forbidden, ErrorCode::RateLimited];

/// Counts since the server's start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DenialCounts {
    /// Requests that were denied, for each code that counts.
    pub requests: Vec<(ErrorCode, u64)>,
    /// Connections that were closed at once, because there were too many.
    pub connections: u64,
}

/// Counts refusals since the server's start.
#[derive(Debug, Default)]
pub struct Denials {
    requests: [AtomicU64; COUNTED.len()],
    connections: AtomicU64,
    seldom: Seldom,
}

impl Denials {
    /// Notes an error, if it is one of rights or of too much.
    pub(crate) fn note(&self, error: &ApiError, origin: &Origin, route: &str, now: Timestamp) {
        let Some(place) = COUNTED.iter().position(|code| *code == error.code) else { return };
        let total = self.requests[place].fetch_add(1, Ordering::Relaxed) + 1;
        if !LOGGED.contains(&error.code) {
            return;
        }
        let Some(unlogged) = self.seldom.due(now) else { return };
        tracing::warn!(
            code = %error.code,
            detail = %error.detail,
            route,
            request_id = %origin.request_id,
            peer = origin.peer.map(tracing::field::display),
            unlogged,
            total,
            "a request was denied"
        );
    }

    /// Notes a connection that was closed at once.
    pub(crate) fn note_connection(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn counts(&self) -> DenialCounts {
        let counts = self.requests.iter().map(|count| count.load(Ordering::Relaxed));
        DenialCounts {
            requests: COUNTED.into_iter().zip(counts).collect(),
            connections: self.connections.load(Ordering::Relaxed),
        }
    }
}
