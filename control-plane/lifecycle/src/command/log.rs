//! A node sends a piece of an attempt's log.

use gristmill_protocol::{NodeId, attempt::LogStream, node_api::LeaseRef};

use super::{Command, append_piece, held};
use crate::{
    job::InvalidTransition,
    record::LogBody,
    working_set::{Needs, Tally, WorkingSet},
};

/// A piece of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPiece {
    /// The stream.
    pub stream: LogStream,
    /// Where it starts in its stream, in bytes.
    pub offset: u64,
    /// When it was written, in microseconds after the attempt's start.
    pub elapsed_us: u64,
    /// Its bytes, or where they are.
    pub body: LogBody,
    /// Its length in bytes, when the bytes are elsewhere.
    pub stored_len: u64,
}

impl LogPiece {
    /// Its length, in bytes.
    pub fn len(&self) -> u64 {
        match &self.body {
            LogBody::Inline(bytes) => bytes.len() as u64,
            LogBody::Stored { .. } => self.stored_len,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its body without the first `skip` bytes.
    pub fn body_after(&self, skip: u64) -> LogBody {
        match &self.body {
            LogBody::Inline(bytes) => {
                LogBody::Inline(bytes.get(skip as usize..).unwrap_or_default().to_vec())
            }
            LogBody::Stored { key, skip: before } => {
                LogBody::Stored { key: key.clone(), skip: before + skip }
            }
        }
    }
}

/// Adds a piece to a live attempt's log.
#[derive(Debug, Clone)]
pub struct AppendLog {
    /// The node, by its credential.
    pub node: NodeId,
    /// The lease.
    pub lease: LeaseRef,
    /// The piece.
    pub piece: LogPiece,
}

/// What became of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendReply {
    /// It is stored, now or by an earlier copy.
    Appended {
        /// Bytes of the stream stored so far.
        stored: u64,
    },
    /// Bytes before it are missing.
    Gap {
        /// Bytes of the stream stored so far.
        stored: u64,
    },
    /// The lease is not held.
    LeaseLost,
}

impl Command for AppendLog {
    type Reply = AppendReply;

    fn needs(&self, _tally: &Tally, needs: &mut Needs) {
        needs.attempts.insert((self.lease.job, self.lease.attempt));
    }

    fn decide(&self, set: &mut WorkingSet<'_>) -> Result<AppendReply, InvalidTransition> {
        let key = (self.lease.job, self.lease.attempt);
        let live = held(set, self.node, key, &self.lease.lease_token).is_some_and(|row| row.phase.is_live());
        Ok(if live { append_piece(set, key, &self.piece) } else { AppendReply::LeaseLost })
    }
}
