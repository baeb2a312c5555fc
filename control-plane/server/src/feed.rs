//! The newest events in memory, so that all who follow them cost one read for each commit together,
//! and none while nothing happens.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use gristmill_protocol::event::EventView;

use crate::{
    store::{Store, StoreError, event::EventQuery},
    wake::{Listener, Topic, Wakes},
};

/// Events that are kept in memory.
const EVENTS_MAX: usize = 4_096;
/// Events that are read from the store at a time.
const READ_MAX: u32 = 1_024;

/// Events without a gap: all those above `start` up to `next`.
#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Arc<EventView>>,
    start: u64,
    next: u64,
    /// Count of the wake-ups up to which the store has nothing more than this.
    seen: Option<u64>,
}

/// The newest events.
#[derive(Debug)]
pub struct Feed {
    changes: Mutex<Listener>,
    ring: tokio::sync::Mutex<Ring>,
}

/// A part of the newest events.
#[derive(Debug)]
pub struct Slice {
    /// The events that were asked for, oldest first.
    pub events: Vec<Arc<EventView>>,
    /// Every event up to this id was looked at.
    pub next: u64,
    /// Whether there was nothing above `next`.
    pub is_end: bool,
}

impl Feed {
    /// An empty one. It reads nothing until somebody asks.
    pub fn new(wakes: &Arc<Wakes>) -> Self {
        Self { changes: Mutex::new(wakes.listen(Topic::Events)), ring: tokio::sync::Mutex::default() }
    }

    /// The events after `after` that are wanted, at most `limit`. Whoever comes first after a commit
    /// reads the store for all. `None` when `after` lies before what is in memory: such a reader has
    /// to catch up from the store. It may be cancelled at any time.
    pub async fn read(
        &self,
        store: &dyn Store,
        after: u64,
        limit: usize,
        is_wanted: impl Fn(&EventView) -> bool,
    ) -> Result<Option<Slice>, StoreError> {
        let mut ring = self.ring.lock().await;
        if after < ring.start {
            return Ok(None);
        }
        if after > ring.next {
            // Nobody has followed for a while.
            *ring = Ring { start: after, next: after, ..Ring::default() };
        }
        let count = self.changes.lock().unwrap_or_else(PoisonError::into_inner).count();
        if ring.seen != Some(count) {
            let query = EventQuery { after: ring.next, limit: READ_MAX, ..EventQuery::default() };
            let page = store.event_list(query).await?;
            if page.oldest > ring.next + 1 || page.newest < ring.next {
                // Events may have gone away unseen: whoever asks learns that from the store.
                *ring = Ring { start: page.newest, next: page.newest, ..Ring::default() };
                return Ok(None);
            }
            ring.next = page.next;
            ring.seen = (page.next == page.newest).then_some(count);
            ring.events.extend(page.events.into_iter().map(Arc::new));
            ring.trim();
        }
        Ok((after >= ring.start).then(|| ring.slice(after, limit, is_wanted)))
    }
}

impl Ring {
    fn trim(&mut self) {
        while self.events.len() > EVENTS_MAX
            && let Some(event) = self.events.pop_front()
        {
            self.start = event.id;
        }
    }

    fn slice(&self, after: u64, limit: usize, is_wanted: impl Fn(&EventView) -> bool) -> Slice {
        let first = self.events.partition_point(|event| event.id <= after);
        let wanted = self.events.range(first..).filter(|event| is_wanted(event)).take(limit);
        let events: Vec<_> = wanted.cloned().collect();
        match events.last() {
            Some(last) if events.len() >= limit => Slice { next: last.id, is_end: false, events },
            _ => Slice { next: self.next, is_end: self.seen.is_some(), events },
        }
    }
}
