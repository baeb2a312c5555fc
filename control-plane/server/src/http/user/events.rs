//! `/v1/events`.

use std::sync::Arc;

use axum::{
    extract::State,
    http::HeaderMap,
    response::{Response, sse::Event},
};
use gristmill_protocol::{
    JobId,
    event::{EventFilter, EventView},
};

use super::jobs::WAIT_MAX;
use crate::{
    app::App,
    error::ApiError,
    http::{
        extract::{Query, User, json, wait},
        openapi::words,
        sse::{self, Next, Source},
    },
    ops::{self, EventReader},
    paging::{PAGE_SIZE_MAX, page_size},
};

/// Events that are taken from the reader at a time.
const PIECE_MAX: u32 = 256;

/// Which events, and how to wait for them.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct EventQuery {
    /// Only events after this id; `0` begins with the oldest after which none is missing, absent with what happens from now on.
    after: Option<u64>,
    /// How long to wait for an event; at most 50 s, a longer wait is cut to that.
    #[schemars(with = "Option<words::Wait>")]
    wait: Option<String>,
    /// Events in an answer; 1,000 when absent.
    #[schemars(range(min = 1, max = 1_000))]
    page_size: Option<u32>,
    /// Only events of this job.
    job: Option<JobId>,
    /// Only events of jobs that named this module.
    module: Option<String>,
    /// Only events of jobs with this label, as `key:value`.
    #[schemars(with = "Option<words::LabelPair>")]
    label: Option<String>,
    /// Only events that name this zone; those of a job before its first lease name none.
    zone: Option<String>,
    /// Only events of these kinds, separated by commas.
    #[schemars(with = "Option<words::EventKinds>")]
    kind: Option<String>,
    /// Only events after which the job or attempt is in one of these states, separated by commas.
    #[schemars(with = "Option<words::EventStates>")]
    state: Option<String>,
}

/// `GET /v1/events`: with `Accept: text/event-stream` a stream, which a client resumes with
/// `Last-Event-ID`; otherwise JSON, with `?wait=` as a long poll.
pub(in crate::http) async fn read(
    State(app): State<Arc<App>>,
    User(principal): User,
    Query(query): Query<EventQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let filter = EventFilter {
        job: query.job,
        module: query.module,
        label: query.label,
        zone: query.zone,
        kind: query.kind,
        state: query.state,
    };
    // A client that comes again repeats its address, and says in the header how far it got.
    let after = sse::last_event_id(&headers)?.or(query.after);
    if sse::is_asked_for(&headers) {
        let reader = EventReader::open(&app, &principal, filter, after).await?;
        return Ok(sse::answer(&app, &principal, &headers, reader));
    }
    let size = page_size(query.page_size.or(Some(PAGE_SIZE_MAX)))?;
    let wait = wait("wait", query.wait.as_deref(), WAIT_MAX)?.unwrap_or_default();
    Ok(json(&ops::list_events(&app, &principal, filter, after, size, wait).await?, None))
}

impl Source for EventReader {
    async fn next(&mut self) -> Result<Next, ApiError> {
        loop {
            let events = self.read(PIECE_MAX).await?;
            if !events.is_empty() {
                return events.iter().map(message).collect::<Result<_, _>>().map(Next::Messages);
            }
            self.changed().await;
        }
    }

    fn position(&self) -> String {
        EventReader::position(self).to_string()
    }
}

fn message(event: &EventView) -> Result<Event, ApiError> {
    Event::default()
        .id(event.id.to_string())
        .event(event.kind.as_str())
        .json_data(event)
        .map_err(ApiError::internal)
}
