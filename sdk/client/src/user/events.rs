//! Events: read once, waited for, or followed over broken connections and restarts of the server.

use std::time::Duration;

use gristmill_protocol::event::{EventFilter, EventView, EventsView};

use super::{Client, ClientError, request::wait_text, sse::Stream};

/// Events in order, each exactly once.
#[derive(Debug)]
pub struct EventFollower {
    stream: Stream,
    position: Option<u64>,
}

impl Client {
    /// Events after the one with the id `after`, oldest first; without it, what happens from now on.
    /// With `wait`, the server holds its answer while there is none, at most that long. Pass `next`
    /// of the answer as `after` to go on. Fails with `events_gone` when they are no longer kept.
    pub async fn event_list(
        &self,
        filter: &EventFilter,
        after: Option<u64>,
        wait: Option<Duration>,
    ) -> Result<EventsView, ClientError> {
        let mut query = query(filter, after);
        query.extend(wait.map(|wait| ("wait".to_owned(), wait_text(wait))));
        self.get_with(&["events"], &query).await
    }

    /// Follows events as they happen, from after the one with the id `after`; with 0 from the oldest
    /// that is kept, without it from now on. Nothing is sent before the first call of
    /// [`EventFollower::next`].
    pub fn event_follow(&self, filter: &EventFilter, after: Option<u64>) -> EventFollower {
        EventFollower { stream: Stream::new(self, &["events"], query(filter, after)), position: after }
    }
}

fn query(filter: &EventFilter, after: Option<u64>) -> Vec<(String, String)> {
    let EventFilter { job, module, label, zone, kind, state } = filter.clone();
    let job = job.map(|job| job.to_string());
    let after = after.map(|after| after.to_string());
    [
        ("job", job),
        ("module", module),
        ("label", label),
        ("zone", zone),
        ("kind", kind),
        ("state", state),
        ("after", after),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?)))
    .collect()
}

impl EventFollower {
    /// The next event. A broken connection is made again where it broke, as patiently as the client
    /// is. It may be cancelled without losing an event. Fails with `events_gone` when the follower was
    /// away for so long that what comes next is no longer kept.
    pub async fn next(&mut self) -> Result<EventView, ClientError> {
        let message = self.stream.next().await?;
        let event: EventView = self.stream.read(&message)?;
        self.position = Some(event.id);
        Ok(event)
    }

    /// After which event a later follower goes on; absent before the first one.
    pub fn position(&self) -> Option<u64> {
        self.position
    }
}
