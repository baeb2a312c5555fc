//! The record of who changed what, as it is kept.

use std::net::IpAddr;

use async_trait::async_trait;
use gristmill_lifecycle::command::{CancelReply, SubmitReply};
use gristmill_protocol::{
    Digest, JobId, Timestamp,
    audit::{AuditOperation, AuditOutcome, AuditView},
    module::{ModuleVersionView, ModuleView},
    tenancy::TenantView,
};

use super::{
    Changed, StoreError,
    module::ModuleVersionPut,
    node::{NodeRecord, Redeemed},
    retention::Step,
    token::{Revoked, TokenPut},
    upload::UploadPut,
    zone::ZonePut,
};

/// Who does what, as it is known before it is done. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditNote {
    /// The id of a token, of a join token or of a node, or `server`.
    pub actor: String,
    /// Whom the token acts for.
    pub tenant: Option<String>,
    /// The address that the request came from.
    pub peer: Option<IpAddr>,
    /// Finds the request in the log.
    pub request_id: Option<String>,
    /// What is done.
    pub operation: AuditOperation,
    /// To what.
    pub object: String,
    /// The object's version as the request found it.
    pub version_before: Option<u64>,
}

impl AuditNote {
    /// What the server does by itself.
    pub fn of_server(operation: AuditOperation, object: impl std::fmt::Display) -> Self {
        Self {
            actor: "server".into(),
            tenant: None,
            peer: None,
            request_id: None,
            operation,
            object: object.to_string(),
            version_before: None,
        }
    }

    /// Adds the version that the request found.
    #[must_use]
    pub fn found(mut self, version: Option<u64>) -> Self {
        self.version_before = version;
        self
    }
}

/// Which entries to read, newest first; all given conditions hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Only of this actor.
    pub actor: Option<String>,
    /// Only of this tenant.
    pub tenant: Option<String>,
    /// Only this operation.
    pub operation: Option<AuditOperation>,
    /// Only about this object.
    pub object: Option<String>,
    /// Only at this time or later.
    pub since: Option<Timestamp>,
    /// Only before this time.
    pub until: Option<Timestamp>,
    /// Only what came before this entry.
    pub before_seq: Option<u64>,
    /// Most entries to return.
    pub limit: u32,
}

/// Reads the record. It is written by [`super::Store::audited`].
#[async_trait]
pub trait AuditStore {
    /// Changes nothing, and writes the note of [`super::Store::audited`] down as refused.
    async fn audit_refusal(&self) -> Result<(), StoreError>;

    /// Entries of the record.
    async fn audit_list(&self, query: AuditQuery) -> Result<Vec<AuditView>, StoreError>;
}

/// What a change means for the record: its outcome, and the version afterwards.
pub type Verdict = (AuditOutcome, Option<u64>);

/// The answer to a change, as the record sees it. `None` when there is nothing to record.
pub trait Audited {
    /// The outcome, and the version afterwards.
    fn verdict(&self) -> Option<Verdict>;

    /// The same for each object of a change to many, with its name; `None` as a name stands for the
    /// object of the note.
    fn verdicts(&self) -> Vec<(Option<String>, Verdict)> {
        self.verdict().map(|verdict| (None, verdict)).into_iter().collect()
    }
}

const DONE: Option<Verdict> = Some((AuditOutcome::Done, None));
const REFUSED: Option<Verdict> = Some((AuditOutcome::Refused, None));

impl Audited for () {
    fn verdict(&self) -> Option<Verdict> {
        DONE
    }
}

impl Audited for bool {
    fn verdict(&self) -> Option<Verdict> {
        if *self { DONE } else { REFUSED }
    }
}

impl Audited for u64 {
    fn verdict(&self) -> Option<Verdict> {
        (*self > 0).then_some((AuditOutcome::Done, None))
    }
}

impl<T: Audited> Audited for Option<T> {
    fn verdict(&self) -> Option<Verdict> {
        self.as_ref().map_or(REFUSED, Audited::verdict)
    }
}

impl<T: Audited> Audited for Changed<T> {
    fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Done(changed) => changed.verdict(),
            Self::Stale(version) => Some((AuditOutcome::Refused, Some(*version))),
            Self::Absent => REFUSED,
        }
    }

    fn verdicts(&self) -> Vec<(Option<String>, Verdict)> {
        match self {
            Self::Done(changed) => changed.verdicts(),
            Self::Stale(_) | Self::Absent => {
                self.verdict().map(|verdict| (None, verdict)).into_iter().collect()
            }
        }
    }
}

/// A limit that is reached changes nothing, and would fill the record.
impl Audited for UploadPut {
    fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Done(_) => DONE,
            Self::Stale => REFUSED,
            Self::TooMany(_) | Self::TooMuch(_) => None,
        }
    }
}

impl Audited for Step<u64> {
    fn verdict(&self) -> Option<Verdict> {
        self.removed.verdict()
    }
}

/// Pieces of a log that were removed, and where more of their bytes lie.
impl Audited for (u64, Vec<String>) {
    fn verdict(&self) -> Option<Verdict> {
        self.0.verdict()
    }
}

/// Blobs that were removed, with their sizes.
impl Audited for Vec<(Digest, u64)> {
    fn verdict(&self) -> Option<Verdict> {
        (self.len() as u64).verdict()
    }
}

/// A tenant that has too many would fill the record.
impl Audited for TokenPut {
    fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Done => DONE,
            Self::NoTenant | Self::MakerEnded => REFUSED,
            Self::TooMany => None,
        }
    }
}

impl Audited for Revoked {
    fn verdict(&self) -> Option<Verdict> {
        DONE
    }

    fn verdicts(&self) -> Vec<(Option<String>, Verdict)> {
        let names = self.with_it.iter().map(|token| Some(token.to_string()));
        std::iter::once(None).chain(names).map(|name| (name, (AuditOutcome::Done, None))).collect()
    }
}

impl Audited for TenantView {
    fn verdict(&self) -> Option<Verdict> {
        Some((AuditOutcome::Done, Some(self.version)))
    }
}

impl Audited for ModuleView {
    fn verdict(&self) -> Option<Verdict> {
        DONE
    }
}

impl Audited for ModuleVersionView {
    fn verdict(&self) -> Option<Verdict> {
        DONE
    }
}

impl Audited for NodeRecord {
    fn verdict(&self) -> Option<Verdict> {
        Some((AuditOutcome::Done, Some(self.version)))
    }
}

impl Audited for ModuleVersionPut {
    fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Created(_) | Self::Same(_) => DONE,
            Self::Other(_) => REFUSED,
        }
    }
}

impl Audited for Redeemed {
    fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Enrolled(node) => node.verdict(),
            Self::OtherName(_) | Self::KeyInUse | Self::Invalid => REFUSED,
            // A repeated answer changes nothing.
            Self::Again(_) => None,
        }
    }
}

impl Audited for ZonePut {
    fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Done(zone) => Some((AuditOutcome::Done, Some(zone.version))),
            Self::Stale(zone) => Some((AuditOutcome::Refused, Some(zone.version))),
            Self::Exists | Self::Absent => REFUSED,
        }
    }
}

/// A refused submit changes nothing, and a queue that is full would fill the record.
impl Audited for SubmitReply {
    fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Created(job) => Some((AuditOutcome::Done, Some(job.version))),
            Self::Existing(_) | Self::KeyMismatch | Self::TenantQueueFull { .. } | Self::QueueFull { .. } => {
                None
            }
        }
    }
}

impl Audited for CancelReply {
    fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Job(job) => Some((AuditOutcome::Done, Some(job.version))),
            Self::Stale(version) => Some((AuditOutcome::Refused, Some(*version))),
            Self::NotFound => None,
        }
    }
}

impl Audited for Vec<SubmitReply> {
    fn verdict(&self) -> Option<Verdict> {
        None
    }

    fn verdicts(&self) -> Vec<(Option<String>, Verdict)> {
        let of = |reply: &SubmitReply| match reply {
            SubmitReply::Created(job) => Some((Some(job.id.to_string()), reply.verdict()?)),
            _ => None,
        };
        self.iter().filter_map(of).collect()
    }
}

/// Jobs that were changed, with their versions afterwards.
impl Audited for Vec<(JobId, u64)> {
    fn verdict(&self) -> Option<Verdict> {
        None
    }

    fn verdicts(&self) -> Vec<(Option<String>, Verdict)> {
        self.iter()
            .map(|(job, version)| (Some(job.to_string()), (AuditOutcome::Done, Some(*version))))
            .collect()
    }
}
