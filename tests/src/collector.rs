//! A collector of traces: takes OTLP over HTTP and reads the protobuf by itself.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, sync::DropGuard, task::TaskTracker};

/// A span as it came.
#[derive(Debug, Clone, Default)]
pub struct CollectedSpan {
    /// Its trace, in hex.
    pub trace: String,
    /// Its id, in hex.
    pub id: String,
    /// Its parent's id, in hex; empty when it has none.
    pub parent: String,
    /// What was done.
    pub name: String,
    /// 1 within a process, 2 for a request that was answered.
    pub kind: u64,
    /// When it began and ended, in nanoseconds since 1970.
    pub times_ns: (u64, u64),
    /// Attributes, numbers as text.
    pub attributes: BTreeMap<String, String>,
    /// The attributes of the process that made it.
    pub resource: BTreeMap<String, String>,
}

/// A collector on this machine. It ends when dropped.
#[derive(Debug)]
pub struct Collector {
    /// `http://127.0.0.1:PORT`.
    pub endpoint: String,
    bodies: Arc<Mutex<Vec<Bytes>>>,
    _stop: DropGuard,
}

impl Collector {
    /// Starts one.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let bodies: Arc<Mutex<Vec<Bytes>>> = Arc::default();
        let stop = CancellationToken::new();
        TaskTracker::new()
            .spawn(stop.clone().run_until_cancelled_owned(serve(listener, Arc::clone(&bodies))));
        Self { endpoint, bodies, _stop: stop.drop_guard() }
    }

    /// All that came.
    pub fn bodies(&self) -> Vec<Bytes> {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The spans that came.
    ///
    /// # Panics
    /// When something else came.
    pub fn spans(&self) -> Vec<CollectedSpan> {
        self.bodies().iter().flat_map(|body| read_request(body)).collect()
    }
}

async fn serve(listener: TcpListener, bodies: Arc<Mutex<Vec<Bytes>>>) {
    let connections = TaskTracker::new();
    while let Ok((stream, _)) = listener.accept().await {
        let bodies = Arc::clone(&bodies);
        let answer = service_fn(move |request: Request<Incoming>| {
            let bodies = Arc::clone(&bodies);
            async move {
                let is_right = request.uri().path() == "/v1/traces"
                    && request
                        .headers()
                        .get("content-type")
                        .is_some_and(|kind| kind == "application/x-protobuf");
                let body = request.into_body().collect().await?.to_bytes();
                let mut response = Response::new(Empty::<Bytes>::new());
                if is_right {
                    bodies.lock().unwrap_or_else(PoisonError::into_inner).push(body);
                } else {
                    *response.status_mut() = hyper::StatusCode::BAD_REQUEST;
                }
                Ok::<_, hyper::Error>(response)
            }
        });
        let http = hyper::server::conn::http1::Builder::new();
        connections.spawn(http.serve_connection(TokioIo::new(stream), answer));
    }
}

/// A field of a protobuf message: its number, and what it holds.
enum Held<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn varint(rest: &mut &[u8]) -> u64 {
    let mut value = 0;
    for place in 0.. {
        let (byte, after) = rest.split_first().expect("a whole number");
        *rest = after;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

fn fields(mut rest: &[u8]) -> Vec<(u64, Held<'_>)> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let key = varint(&mut rest);
        let size = match key & 7 {
            0 => {
                found.push((key >> 3, Held::Number(varint(&mut rest))));
                continue;
            }
            1 => 8,
            2 => varint(&mut rest) as usize,
            5 => 4,
            other => panic!("a field of the form {other}"),
        };
        let (bytes, after) = rest.split_at(size);
        rest = after;
        let held = match key & 7 {
            2 => Held::Bytes(bytes),
            _ => Held::Number(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))),
        };
        found.push((key >> 3, held));
    }
    found
}

/// The messages, texts or bytes in the fields of this number.
fn held(message: &[u8], number: u64) -> Vec<&[u8]> {
    let bytes = |(at, held)| match held {
        Held::Bytes(bytes) if at == number => Some(bytes),
        _ => None,
    };
    fields(message).into_iter().filter_map(bytes).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn attributes(message: &[u8], number: u64) -> BTreeMap<String, String> {
    let read = |pair: &[u8]| {
        let value = held(pair, 2).into_iter().flat_map(fields).next().expect("a value");
        let value = match value {
            (1, Held::Bytes(bytes)) => text(bytes),
            (2 | 3, Held::Number(value)) => value.to_string(),
            (other, _) => panic!("an attribute of the kind {other}"),
        };
        (text(held(pair, 1)[0]), value)
    };
    held(message, number).into_iter().map(read).collect()
}

fn read_request(body: &[u8]) -> Vec<CollectedSpan> {
    let mut found = Vec::new();
    for of_resource in held(body, 1) {
        let resource: BTreeMap<_, _> =
            held(of_resource, 1).into_iter().flat_map(|resource| attributes(resource, 1)).collect();
        for span in held(of_resource, 2).into_iter().flat_map(|of_scope| held(of_scope, 2)) {
            found.push(CollectedSpan { resource: resource.clone(), ..read_span(span) });
        }
    }
    found
}

fn read_span(message: &[u8]) -> CollectedSpan {
    let mut span = CollectedSpan { attributes: attributes(message, 9), ..CollectedSpan::default() };
    for field in fields(message) {
        match field {
            (1, Held::Bytes(id)) => span.trace = hex::encode(id),
            (2, Held::Bytes(id)) => span.id = hex::encode(id),
            (4, Held::Bytes(id)) => span.parent = hex::encode(id),
            (5, Held::Bytes(name)) => span.name = text(name),
            (6, Held::Number(kind)) => span.kind = kind,
            (7, Held::Number(began)) => span.times_ns.0 = began,
            (8, Held::Number(ended)) => span.times_ns.1 = ended,
            _ => {}
        }
    }
    span
}
