//! What was removed because it was too old, added up for monitoring.

use std::sync::atomic::{AtomicU64, Ordering};

/// What can be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgedKind {
    /// Jobs that had ended, with their attempts and outputs.
    Job,
    /// Pieces of logs.
    LogPiece,
    /// Events.
    Event,
    /// Placement classes that no job referred to.
    PlacementClass,
    /// Entries of the record of who changed what.
    AuditEntry,
    /// Idempotency keys.
    IdempotencyKey,
    /// Blobs that nothing referred to.
    Blob,
    /// Bytes that belonged to nobody.
    Leftover,
}

impl PurgedKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Job,
        Self::LogPiece,
        Self::Event,
        Self::PlacementClass,
        Self::AuditEntry,
        Self::IdempotencyKey,
        Self::Blob,
        Self::Leftover,
    ];

    /// Its name in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::LogPiece => "log_piece",
            Self::Event => "event",
            Self::PlacementClass => "placement_class",
            Self::AuditEntry => "audit_entry",
            Self::IdempotencyKey => "idempotency_key",
            Self::Blob => "blob",
            Self::Leftover => "leftover",
        }
    }
}

/// Counts since the server's start.
#[derive(Debug, Default)]
pub struct Purged {
    counts: [AtomicU64; PurgedKind::ALL.len()],
    bytes: AtomicU64,
}

impl Purged {
    /// Counts what was removed.
    pub fn note(&self, kind: PurgedKind, count: u64) {
        self.counts[kind as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// Counts bytes that were removed.
    pub fn note_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How many of each kind.
    pub fn counts(&self) -> Vec<(PurgedKind, u64)> {
        PurgedKind::ALL.map(|kind| (kind, self.counts[kind as usize].load(Ordering::Relaxed))).to_vec()
    }

    /// How many bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}
