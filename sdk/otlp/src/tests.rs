//! Spans on their way to a collector.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use gristmill_protocol::trace::SPAN_TARGET;
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::HeaderMap,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;
use tracing::{field::Empty as NotYet, info_span};
use tracing_subscriber::layer::SubscriberExt as _;

use crate::{
    open,
    span::{EndedSpan, Kind, Value},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const SUBMIT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-1111111111111111-01";
const LEASE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-2222222222222222-01";
const REQUEST: &str = "POST /v1/jobs";
const NOWHERE: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");

/// Variables that have these values.
pub(crate) fn variables<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
    |name| set.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned())
}

/// Lets `work` make spans while the layer is in force. One test at a time: which spans anybody wants is
/// remembered for the whole process.
fn traced(layer: crate::BoxedLayer, work: impl FnOnce()) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
}

/// The spans that the work leaves in the queue.
fn queued(set: &[(&str, &str)], work: impl FnOnce()) -> Vec<EndedSpan> {
    let set = [&[NOWHERE], set].concat();
    let (layer, mut sending) = open(&variables(&set), "gristmill").expect("an export");
    traced(layer, work);
    sending.queued()
}

fn request(traceparent: Option<&str>) -> tracing::Span {
    info_span!(
        target: SPAN_TARGET, parent: None, "request", otel.name = REQUEST, otel.kind = "server",
        otel.parent = traceparent, otel.status_code = NotYet, http.response.status_code = NotYet,
    )
}

fn submit(parent: Option<&str>) -> tracing::Span {
    let span = info_span!(target: SPAN_TARGET, "submit", otel.context = NotYet, otel.parent = NotYet);
    span.record("otel.context", SUBMIT);
    span.record("otel.parent", parent);
    span
}

fn lease() -> tracing::Span {
    info_span!(target: SPAN_TARGET, "lease", otel.context = LEASE, otel.parent = SUBMIT)
}

#[track_caller]
fn named<'a>(spans: &'a [EndedSpan], name: &str) -> &'a EndedSpan {
    let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "{name} in {spans:#?}");
    found[0]
}

#[test]
fn spans_of_a_job_are_in_the_callers_trace_below_each_other() {
    let spans = queued(&[], || {
        let span = request(Some(CALLER));
        span.in_scope(|| {
            // A span of the log is no part of the trace, wherever it is.
            let of_log = info_span!("request", id = "req_1");
            of_log.in_scope(|| submit(Some(CALLER)));
        });
        span.record("http.response.status_code", 503_u16);
        span.record("otel.status_code", "ERROR");
        drop(span);
        let attempt = info_span!(target: SPAN_TARGET, "attempt", otel.parent = LEASE, gristmill.attempt = 1);
        attempt.in_scope(|| info_span!(target: SPAN_TARGET, "phase", otel.name = "running"));
        lease();
    });
    assert_eq!(spans.len(), 5, "{spans:#?}");
    let (request, submit, lease) = (named(&spans, REQUEST), named(&spans, "submit"), named(&spans, "lease"));
    let (attempt, running) = (named(&spans, "attempt"), named(&spans, "running"));
    for span in &spans {
        assert_eq!(span.place.context.trace_id(), TRACE, "{span:#?}");
        assert!(span.began_ns > 0 && span.ended_ns >= span.began_ns, "{span:#?}");
        assert!(span.attributes.iter().all(|(key, _)| !key.starts_with("otel.")), "{span:#?}");
    }
    let parent = |span: &EndedSpan| span.place.parent.map(hex::encode).expect("a parent");
    assert_eq!((parent(request).as_str(), request.place.is_parent_remote), ("00f067aa0ba902b7", true));
    assert_eq!((request.kind, request.has_failed), (Kind::Server, true));
    assert!(request.attributes.contains(&("http.response.status_code", Value::Whole(503))));
    assert_eq!(submit.place.parent, Some(request.place.context.span()), "it is nearer than the caller");
    assert_eq!(submit.place.context.span(), [0x11; 8]);
    assert_eq!((lease.place.parent, lease.place.context.span()), (Some([0x11; 8]), [0x22; 8]));
    assert_eq!((attempt.place.parent, attempt.place.is_parent_remote), (Some([0x22; 8]), true));
    assert_eq!(attempt.attributes, [("gristmill.attempt", Value::Whole(1))]);
    assert_eq!(running.place.parent, Some(attempt.place.context.span()));
    assert!(!running.place.is_parent_remote && !running.has_failed);
}

#[test]
fn a_call_for_work_is_in_no_jobs_trace() {
    let spans = queued(&[], || {
        request(None).in_scope(lease);
    });
    let call = named(&spans, REQUEST);
    assert!(call.place.parent.is_none() && call.place.context.trace_id() != TRACE, "{call:#?}");
    assert_eq!(named(&spans, "lease").place.parent, Some([0x11; 8]));
}

#[test]
fn a_request_without_a_trace_begins_that_of_its_job() {
    let spans = queued(&[], || {
        request(None).in_scope(|| submit(None));
    });
    let (request, submit) = (named(&spans, REQUEST), named(&spans, "submit"));
    assert_eq!((request.place.context.trace_id().as_str(), request.place.parent), (TRACE, None));
    assert_eq!(submit.place.parent, Some(request.place.context.span()));
}

#[test]
fn what_is_not_sampled_is_not_sent() {
    let unrecorded = CALLER.replace("-01", "-00");
    let child = || info_span!(target: SPAN_TARGET, "child");
    let by_default = queued(&[], || drop(request(Some(&unrecorded)).in_scope(child)));
    assert!(by_default.is_empty(), "{by_default:#?}");
    let off = queued(&[("OTEL_TRACES_SAMPLER", "always_off")], || drop((request(Some(CALLER)), lease())));
    assert!(off.is_empty(), "{off:#?}");
    let on = [("OTEL_TRACES_SAMPLER", "always_on")];
    let on = queued(&on, || drop(request(Some(&unrecorded)).in_scope(child)));
    assert_eq!(on.len(), 2, "{on:#?}");
}

#[test]
fn spans_and_events_of_others_are_not_exported() {
    let spans = queued(&[], || {
        info_span!("something").in_scope(|| tracing::error!(target: SPAN_TARGET, "an event"));
    });
    assert!(spans.is_empty(), "{spans:#?}");
}

/// A collector that answers as it is told to.
struct Collector {
    endpoint: String,
    taken: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
}

impl Collector {
    /// The first request is answered with the first status, and so on; later ones with the last.
    async fn start(statuses: &'static [u16], delay: Duration) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let taken: Arc<Mutex<Vec<(HeaderMap, Bytes)>>> = Arc::default();
        let of_server = Arc::clone(&taken);
        let tasks = TaskTracker::new();
        let connections = tasks.clone();
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let taken = Arc::clone(&of_server);
                let answer = service_fn(move |request: Request<Incoming>| {
                    let taken = Arc::clone(&taken);
                    async move {
                        assert_eq!(request.uri().path(), "/v1/traces");
                        let headers = request.headers().clone();
                        let body = request.into_body().collect().await?.to_bytes();
                        let before = {
                            let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
                            taken.push((headers, body));
                            taken.len() - 1
                        };
                        tokio::time::sleep(delay).await;
                        let status = statuses[before.min(statuses.len() - 1)];
                        let mut response = Response::new(Empty::<Bytes>::new());
                        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
                        Ok::<_, hyper::Error>(response)
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                connections.spawn(connection.serve_connection(TokioIo::new(stream), answer));
            }
        });
        Self { endpoint, taken }
    }

    fn taken(&self) -> Vec<(HeaderMap, Bytes)> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many spans have come, each request counted by its name.
    fn spans(&self) -> usize {
        let in_body =
            |body: &Bytes| body.windows(REQUEST.len()).filter(|part| *part == REQUEST.as_bytes()).count();
        self.taken().iter().map(|(_, body)| in_body(body)).sum()
    }

    /// An export to it, and the layer in force for `work`, which makes spans.
    fn open(&self, set: &[(&str, &str)], count: usize) -> crate::Sending {
        let set = [&[("OTEL_EXPORTER_OTLP_ENDPOINT", self.endpoint.as_str())], set].concat();
        let (layer, sending) = open(&variables(&set), "gristmill").expect("an export");
        traced(layer, || {
            let began = Instant::now();
            for _ in 0..count {
                drop(request(None));
            }
            assert!(began.elapsed() < Duration::from_secs(5), "nobody waits: {:?}", began.elapsed());
        });
        sending
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_sends_what_is_left_in_batches_with_the_headers() {
    let collector = Collector::start(&[200], Duration::ZERO).await;
    let set = [
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-team=mills%20and%20more"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2"),
    ];
    let sending = collector.open(&set, 5);
    let dropped = sending.dropped();
    sending.start().finish().await;
    let taken = collector.taken();
    assert_eq!((taken.len(), collector.spans(), dropped.load(Ordering::Relaxed)), (3, 5, 0));
    for (headers, _) in taken {
        assert_eq!(headers["content-type"], "application/x-protobuf");
        assert_eq!(headers["x-team"], "mills and more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_are_sent_when_the_delay_is_over() {
    let collector = Collector::start(&[200], Duration::ZERO).await;
    let running = collector.open(&[("OTEL_BSP_SCHEDULE_DELAY", "50")], 5).start();
    let began = Instant::now();
    while collector.spans() < 5 {
        assert!(began.elapsed() < Duration::from_secs(20), "{} came", collector.spans());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.finish().await;
    assert_eq!(collector.spans(), 5, "none twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_has_no_room_is_asked_again_and_one_that_refuses_is_not() {
    let busy = Collector::start(&[503, 200], Duration::ZERO).await;
    let sending = busy.open(&[], 1);
    let dropped = sending.dropped();
    sending.start().finish().await;
    assert_eq!((busy.taken().len(), dropped.load(Ordering::Relaxed)), (2, 0));

    let strict = Collector::start(&[403], Duration::ZERO).await;
    let sending = strict.open(&[("OTEL_BSP_MAX_QUEUE_SIZE", "3")], 5);
    let dropped = sending.dropped();
    assert_eq!(dropped.load(Ordering::Relaxed), 2, "the queue holds three");
    sending.start().finish().await;
    assert_eq!((strict.taken().len(), dropped.load(Ordering::Relaxed)), (1, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_does_not_hold_up_the_end() {
    let collector = Collector::start(&[200], Duration::from_secs(3_600)).await;
    let running = collector.open(&[("OTEL_BSP_MAX_QUEUE_SIZE", "10")], 10_000).start();
    let ending = Instant::now();
    running.finish().await;
    assert!(ending.elapsed() < Duration::from_secs(8), "{:?}", ending.elapsed());
}
