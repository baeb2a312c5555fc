//! From the spans of `tracing` to those of OpenTelemetry: each finds its trace and its parent.

use std::{
    borrow::Cow,
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use gristmill_protocol::{TraceContext, trace::Sampling};
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer,
    layer::Context,
    registry::{LookupSpan, SpanRef},
};

use crate::{
    sending::Queue,
    span::{EndedSpan, Kind, Place, Value},
};

/// Puts each span into the queue when it ends.
#[derive(Debug)]
pub(crate) struct SpanLayer {
    queue: Queue,
    sampling: Sampling,
}

/// What is known of a span while it lasts.
#[derive(Debug)]
struct Traced {
    began_ns: u64,
    name: Option<String>,
    kind: Kind,
    has_failed: bool,
    /// The context that others know it by.
    own: Option<TraceContext>,
    /// The context of its parent in another process.
    remote: Option<TraceContext>,
    attributes: Vec<(&'static str, Value)>,
    place: Option<Place>,
}

impl Traced {
    fn begun() -> Self {
        Self {
            began_ns: now_ns(),
            name: None,
            kind: Kind::Internal,
            has_failed: false,
            own: None,
            remote: None,
            attributes: Vec::new(),
            place: None,
        }
    }

    fn attribute(&mut self, field: &Field, value: Value) {
        self.attributes.push((field.name(), value));
    }
}

impl Visit for Traced {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "otel.name" => self.name = Some(value.to_owned()),
            "otel.kind" if value == "server" => self.kind = Kind::Server,
            "otel.status_code" => self.has_failed = value == "ERROR",
            "otel.context" => self.own = value.parse().ok(),
            "otel.parent" => self.remote = value.parse().ok(),
            _ => self.attribute(field, Value::Text(value.to_owned())),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.attribute(field, Value::Whole(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.attribute(field, Value::Whole(i64::try_from(value).unwrap_or(i64::MAX)));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.attribute(field, Value::Truth(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

impl SpanLayer {
    pub(crate) fn new(queue: Queue, sampling: Sampling) -> Self {
        Self { queue, sampling }
    }

    /// Decides where a span is in its trace, and keeps to that. A span that begins a trace, and whose trace
    /// nobody knows yet, begins `wish`, in which a child of it already is.
    fn place<'a, S: LookupSpan<'a>>(
        &self,
        span: &SpanRef<'a, S>,
        wish: Option<TraceContext>,
    ) -> Option<Place> {
        let (own, remote) = {
            let extensions = span.extensions();
            let traced = extensions.get::<Traced>()?;
            if traced.place.is_some() {
                return traced.place;
            }
            (traced.own, traced.remote)
        };
        let local = |wish| span.parent().and_then(|parent| self.place(&parent, wish));
        let place = match (own, remote) {
            (Some(own), remote) => {
                let context = self.sampling.decide(own, remote.is_some());
                let local = local(remote.is_none().then_some(context));
                let local = local.filter(|local| local.context.trace() == own.trace());
                let parent = local.map(|local| local.context).or(remote);
                let parent = parent.map(|parent| parent.span());
                Place { context, parent, is_parent_remote: local.is_none() && remote.is_some() }
            }
            (None, Some(remote)) => {
                let context = self.sampling.decide(remote, true).with_span(rand::random());
                Place { context, parent: Some(remote.span()), is_parent_remote: true }
            }
            (None, None) => {
                let local = local(wish).map(|local| local.context);
                let begun = || self.sampling.decide(TraceContext::of(rand::random(), [0; 8]), false);
                let context = local.or(wish).unwrap_or_else(begun).with_span(rand::random());
                Place { context, parent: local.map(|local| local.span()), is_parent_remote: false }
            }
        };
        span.extensions_mut().get_mut::<Traced>()?.place = Some(place);
        Some(place)
    }
}

impl Traced {
    fn ended(self, name: &'static str, place: Place) -> EndedSpan {
        EndedSpan {
            place,
            name: self.name.map_or(Cow::Borrowed(name), Cow::Owned),
            kind: self.kind,
            began_ns: self.began_ns,
            // The clock may have been set back.
            ended_ns: now_ns().max(self.began_ns),
            attributes: self.attributes,
            has_failed: self.has_failed,
        }
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for SpanLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut traced = Traced::begun();
        attributes.record(&mut traced);
        span.extensions_mut().insert(traced);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(traced) = span.extensions_mut().get_mut::<Traced>() {
            values.record(traced);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(place) = self.place(&span, None).filter(|place| place.context.is_sampled()) else { return };
        let Some(traced) = span.extensions_mut().remove::<Traced>() else { return };
        self.queue.put(traced.ended(span.name(), place));
    }
}
