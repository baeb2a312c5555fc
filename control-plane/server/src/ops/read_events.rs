//! Read events as they happen, or from where a reader left off.

use std::{sync::Arc, time::Duration};

use gristmill_protocol::{
    AttemptState, ErrorCode, FieldError, JobState,
    event::{EventFilter, EventKind, EventView, EventsView},
    tenancy::Scope,
};

use super::list_jobs::label;
use crate::{
    app::App,
    error::ApiError,
    principal::Principal,
    store::event::{EventPage, EventQuery},
    wake::{Listener, Topic},
};

/// What of an event itself decides whether a reader gets it.
#[derive(Debug, Default)]
struct Wanted {
    /// Of whom; of all for an admin.
    tenant: Option<String>,
    zone: Option<String>,
    kinds: Vec<EventKind>,
    states: Vec<String>,
}

impl Wanted {
    fn takes(&self, event: &EventView) -> bool {
        self.tenant.as_ref().is_none_or(|tenant| *tenant == event.tenant)
            && (self.zone.is_none() || self.zone == event.zone)
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && (self.states.is_empty() || self.states.contains(&event.state))
    }
}

/// Somebody who reads events in order, each exactly once.
#[derive(Debug)]
pub struct EventReader {
    app: Arc<App>,
    wanted: Wanted,
    query: EventQuery,
    changes: Listener,
    /// Whether everything that was there has been read, so that what is new is in memory.
    is_live: bool,
}

/// The parts of a list separated by commas.
fn parts<T>(name: &str, text: Option<&str>, read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, ApiError> {
    let parts = text.into_iter().flat_map(|text| text.split(','));
    let known = |part: &str| {
        read(part).ok_or_else(|| {
            ApiError::field(name, format!("{part:?} is none; write known ones, separated by commas"))
        })
    };
    parts.map(known).collect()
}

fn state(text: &str) -> Option<String> {
    let is_known = text.parse::<JobState>().is_ok() || text.parse::<AttemptState>().is_ok();
    is_known.then(|| text.to_owned())
}

impl EventReader {
    /// A reader of the caller's tenant, or of all tenants for an admin. Needs the scope `read`. It
    /// begins after the event `after`; with 0 at the oldest after which none is missing, without one at
    /// what happens from now on. Where events after `after` were purged, or it is not yet there, that
    /// is `events_gone`.
    pub async fn open(
        app: &Arc<App>,
        who: &Principal,
        filter: EventFilter,
        after: Option<u64>,
    ) -> Result<Self, ApiError> {
        who.require(Scope::Read)?;
        let tenant = (!who.is_admin()).then(|| who.tenant.clone());
        let wanted = Wanted {
            tenant: tenant.clone(),
            zone: filter.zone,
            kinds: parts("kind", filter.kind.as_deref(), |text| text.parse().ok())?,
            states: parts("state", filter.state.as_deref(), state)?,
        };
        let query = EventQuery {
            tenant,
            job: filter.job,
            module: filter.module,
            label: filter.label.as_deref().map(label).transpose()?,
            after: after.unwrap_or(0),
            limit: 1,
        };
        let changes = app.wakes.listen(Topic::Events);
        let mut reader = Self { app: Arc::clone(app), wanted, query, changes, is_live: false };
        let bounds = EventQuery {
            tenant: reader.query.tenant.clone(),
            job: filter.job,
            after: after.unwrap_or(u64::MAX),
            limit: 0,
            ..EventQuery::default()
        };
        let bounds = app.store.event_list(bounds).await?;
        match after {
            None => reader.query.after = bounds.newest,
            Some(0) => reader.query.after = bounds.oldest - 1,
            Some(after) => check_kept(after, &bounds)?,
        }
        Ok(reader)
    }

    /// The id after which the next read goes on.
    pub fn position(&self) -> u64 {
        self.query.after
    }

    /// The next events, at most `limit`; none when all that have happened were read. Fails with
    /// `events_gone` when the reader was so slow that what comes next is no longer kept. It may be
    /// cancelled without losing an event.
    pub async fn read(&mut self, limit: u32) -> Result<Vec<EventView>, ApiError> {
        loop {
            let (events, is_end) = match self.read_live(limit).await? {
                Some(read) => read,
                None => self.read_stored(limit).await?,
            };
            if !events.is_empty() || is_end {
                return Ok(events);
            }
        }
    }

    /// Waits until something may have happened since the last read began.
    pub async fn changed(&mut self) {
        self.changes.woken().await;
    }

    /// Reads what is in memory; `None` when that does not reach back far enough or does not tell
    /// enough.
    async fn read_live(&mut self, limit: u32) -> Result<Option<(Vec<EventView>, bool)>, ApiError> {
        if !self.is_live || self.query.module.is_some() || self.query.label.is_some() {
            return Ok(None);
        }
        let (job, wanted) = (self.query.job, &self.wanted);
        let takes = |event: &EventView| job.is_none_or(|job| job == event.job) && wanted.takes(event);
        let (store, after) = (&*self.app.store, self.query.after);
        let Some(slice) = self.app.feed.read(store, after, limit as usize, takes).await? else {
            self.is_live = false;
            return Ok(None);
        };
        self.query.after = slice.next;
        let events = slice.events.iter().map(|event| EventView::clone(event)).collect();
        Ok(Some((events, slice.is_end)))
    }

    async fn read_stored(&mut self, limit: u32) -> Result<(Vec<EventView>, bool), ApiError> {
        self.query.limit = limit;
        let page = self.app.store.event_list(self.query.clone()).await?;
        check_kept(self.query.after, &page)?;
        self.query.after = page.next;
        self.is_live = page.next == page.newest;
        let events = page.events.into_iter().filter(|event| self.wanted.takes(event)).collect();
        Ok((events, self.is_live))
    }
}

/// Fails with `events_gone` when events after `after` are missing from a page.
fn check_kept(after: u64, page: &EventPage) -> Result<(), ApiError> {
    let (oldest, newest) = (page.oldest, page.newest);
    let (detail, hint) = if after + 1 < oldest {
        (
            format!("of the events up to {} some are no longer kept", oldest - 1),
            format!("read the jobs themselves, then go on with after={}", oldest - 1),
        )
    } else if after > newest {
        (
            format!("there is no event {after} yet; the newest is {newest}"),
            format!("this server's data is older than what was read; go on with after={newest}"),
        )
    } else {
        return Ok(());
    };
    let mut error = ApiError::new(ErrorCode::EventsGone, detail).with_hint(hint);
    let detail = format!("must be from {} to {newest}", oldest - 1);
    error.errors.push(FieldError { pointer: "after".into(), detail });
    Err(error)
}

/// The events after `after` that the filter wants, at most `limit`: at once if there are any, else as
/// soon as one happens, the time is over or the server stops. See [`EventReader::open`].
pub async fn list_events(
    app: &Arc<App>,
    who: &Principal,
    filter: EventFilter,
    after: Option<u64>,
    limit: u32,
    wait: Duration,
) -> Result<EventsView, ApiError> {
    let mut reader = EventReader::open(app, who, filter, after).await?;
    let deadline = tokio::time::Instant::now() + wait;
    loop {
        let events = reader.read(limit).await?;
        let is_over =
            !events.is_empty() || app.shutdown.is_cancelled() || tokio::time::Instant::now() >= deadline;
        if is_over {
            return Ok(EventsView { events, next: reader.position() });
        }
        tokio::select! {
            () = reader.changed() => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = app.shutdown.cancelled() => {}
        }
    }
}
