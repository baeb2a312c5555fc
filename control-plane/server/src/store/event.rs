//! The record of transitions, as it is read.

use gristmill_protocol::{JobId, event::EventView};

/// Which events to read: oldest first, all given conditions hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Only events of jobs of this tenant.
    pub tenant: Option<String>,
    /// Only events of this job.
    pub job: Option<JobId>,
    /// Only events of jobs that named this module.
    pub module: Option<String>,
    /// Only events of jobs with this label.
    pub label: Option<(String, String)>,
    /// Only events with a higher id.
    pub after: u64,
    /// Most events to return.
    pub limit: u32,
}

/// A part of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPage {
    /// The events, oldest first.
    pub events: Vec<EventView>,
    /// Every event up to this id was looked at: the next read goes on after it.
    pub next: u64,
    /// From this id on no event is missing; one above the newest when none is kept. Older ones may be
    /// kept, and then are read, but others between them were purged. Of a job that is kept, none is
    /// missing.
    pub oldest: u64,
    /// Id of the newest event; 0 before the first one.
    pub newest: u64,
}
