//! Events.

use gristmill_protocol::{
    ErrorCode::EventsGone,
    event::{EventKind, EventView, EventsView},
    tenancy::Scope,
};

use crate::http::{
    openapi::{Operation, Tag, group, words::EventPosition},
    user::events,
};

pub(super) fn operations() -> Vec<Operation> {
    let operation = Operation::get("/v1/events", events::read)
        .named("readEvents", "Read or follow events", "Everything that happens to the tenant's jobs, or to all for an admin, in order and each event once; all given filters hold. Go on with `next` as `after`; with `wait`, the answer comes when something happens. With `Accept: text/event-stream` a stream, which begins after `after` or after `Last-Event-ID`; a comment keeps it alive. Where events after `after` are no longer kept, that is `events_gone`; of a job that is kept, all are.")
        .needs(Scope::Read)
        .query::<events::EventQuery>()
        .header::<EventPosition>("last-event-id", "The id of the last event that the caller got; stronger than `after`.")
        .answers::<EventsView>(200, "The next events; none when there are none yet.");
    // A message is named after the kind of its event.
    let kinds = EventKind::ALL.iter().map(|kind| kind.as_str());
    let operation = kinds.fold(
        operation.streams("With `Accept: text/event-stream`, events as they happen."),
        Operation::message::<EventView>,
    );
    group(Tag::Events, vec![operation.refuses(&[EventsGone])])
}
