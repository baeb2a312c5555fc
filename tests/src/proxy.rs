//! A proxy between a node or client and the server that can be told, once, to do something at a
//! named step: when a certain request arrives, or when its answer is on the way back. Whatever was
//! in flight is then lost, exactly as if a process had died at that step.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::TryStreamExt;
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::{Request, Response, body::Frame, body::Incoming, header, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// At which step of an exchange a trap closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The request has arrived and was not passed on.
    Request,
    /// The server has answered, and the answer was not passed on.
    Answer,
}

/// What to wait for. An empty text fits anything; bodies are looked at only where they are JSON.
#[derive(Debug, Clone)]
pub struct Trap {
    /// The step.
    pub step: Step,
    /// The request's method.
    pub method: &'static str,
    /// Part of the request's path.
    pub path: &'static str,
    /// Part of the request's body.
    pub request: &'static str,
    /// Part of the answer's body; empty at [`Step::Request`].
    pub answer: &'static str,
}

struct Seen<'a> {
    step: Step,
    method: &'a str,
    path: &'a str,
    request: &'a [u8],
    answer: &'a [u8],
}

impl Trap {
    fn fits(&self, seen: &Seen<'_>) -> bool {
        let within = |part: &str, body: &[u8]| {
            part.is_empty() || body.windows(part.len()).any(|window| window == part.as_bytes())
        };
        self.step == seen.step
            && (self.method.is_empty() || self.method == seen.method)
            && seen.path.contains(self.path)
            && within(self.request, seen.request)
            && within(self.answer, seen.answer)
    }
}

type OnTrap = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Armed {
    trap: Option<(Trap, OnTrap, oneshot::Sender<()>)>,
    requests: Vec<String>,
}

/// A running proxy on a free port; ends when dropped.
pub struct Proxy {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    armed: Arc<Mutex<Armed>>,
    stop: CancellationToken,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Proxy {
    /// Starts a proxy in front of `upstream`, a URL without a path.
    ///
    /// # Panics
    /// When no port can be bound.
    pub async fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address: SocketAddr = listener.local_addr().expect("a bound listener has an address");
        let armed = Arc::<Mutex<Armed>>::default();
        let stop = CancellationToken::new();
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build();
        let exchange =
            Exchange { upstream: upstream.to_owned(), http: http.expect("a client"), armed: armed.clone() };
        let tracker = TaskTracker::new();
        let connections = tracker.clone();
        let stopped = stop.clone();
        tracker.spawn(async move {
            while let Some(Ok((stream, _))) = stopped.run_until_cancelled(listener.accept()).await {
                let exchange = exchange.clone();
                let stopped = stopped.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| exchange.clone().pass(request));
                    let serve = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service);
                    // A lost answer ends the connection with an error: that is the point of it.
                    let _ = stopped.run_until_cancelled(serve).await;
                });
            }
        });
        Self { url: format!("http://{address}"), armed, stop }
    }

    /// Sets the trap; `then` runs once, when it closes. The receiver hears of it afterwards.
    pub fn arm(&self, trap: Trap, then: impl FnOnce() + Send + 'static) -> oneshot::Receiver<()> {
        let (closed, hear) = oneshot::channel();
        lock(&self.armed).trap = Some((trap, Box::new(then), closed));
        hear
    }

    /// Method and path of every request so far, in order.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.armed).requests.clone()
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Waits until a trap has closed.
///
/// # Panics
/// When it has not after `limit`.
pub async fn closed(hear: oneshot::Receiver<()>, limit: Duration) {
    let heard = tokio::time::timeout(limit, hear).await;
    assert!(matches!(heard, Ok(Ok(()))), "the step at which to act was not reached within {limit:?}");
}

fn lock(armed: &Mutex<Armed>) -> std::sync::MutexGuard<'_, Armed> {
    armed.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone)]
struct Exchange {
    upstream: String,
    http: reqwest::Client,
    armed: Arc<Mutex<Armed>>,
}

fn is_json(headers: &hyper::HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|text| text.contains("json"))
}

fn lost(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, why)
}

type Body =
    Either<Full<Bytes>, StreamBody<futures_util::stream::BoxStream<'static, io::Result<Frame<Bytes>>>>>;

impl Exchange {
    /// Closes the trap if this is the step it waits for.
    fn springs(&self, seen: &Seen<'_>) -> bool {
        let mut armed = lock(&self.armed);
        if seen.step == Step::Request {
            armed.requests.push(format!("{} {}", seen.method, seen.path));
        }
        let fits = armed.trap.as_ref().is_some_and(|(trap, ..)| trap.fits(seen));
        let sprung = if fits { armed.trap.take() } else { None };
        drop(armed);
        match sprung {
            Some((_, then, hear)) => {
                then();
                let _ = hear.send(());
                true
            }
            None => false,
        }
    }

    async fn pass(self, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let (parts, body) = request.into_parts();
        let method = parts.method.as_str().to_owned();
        let path = parts.uri.path_and_query().map_or("/", |text| text.as_str()).to_owned();
        let (sent, outgoing) = if is_json(&parts.headers) {
            let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
            (bytes.clone(), reqwest::Body::from(bytes))
        } else {
            (Bytes::new(), reqwest::Body::wrap_stream(body.into_data_stream()))
        };
        let at = |step, answer| Seen { step, method: &method, path: &path, request: &sent, answer };
        if self.springs(&at(Step::Request, &[])) {
            return Err(lost("the request was lost"));
        }
        let mut headers = parts.headers;
        headers.remove(header::CONNECTION);
        let has_body =
            headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING);
        let mut forward =
            self.http.request(parts.method, format!("{}{path}", self.upstream)).headers(headers);
        if has_body {
            forward = forward.body(outgoing);
        }
        let Ok(answer) = forward.send().await else {
            return Ok(bad_gateway());
        };
        let mut response = Response::builder().status(answer.status());
        for (name, value) in answer.headers() {
            if name != header::CONNECTION && name != header::TRANSFER_ENCODING {
                response = response.header(name, value);
            }
        }
        let body = if is_json(answer.headers()) {
            let bytes = answer.bytes().await.map_err(io::Error::other)?;
            if self.springs(&at(Step::Answer, &bytes)) {
                return Err(lost("the answer was lost"));
            }
            Either::Left(Full::new(bytes))
        } else {
            if self.springs(&at(Step::Answer, &[])) {
                return Err(lost("the answer was lost"));
            }
            let frames = answer.bytes_stream().map_ok(Frame::data).map_err(io::Error::other);
            Either::Right(StreamBody::new(Box::pin(frames) as futures_util::stream::BoxStream<'static, _>))
        };
        response.body(body).map_err(io::Error::other)
    }
}

fn bad_gateway() -> Response<Body> {
    let page = Full::new(Bytes::from_static(b"<html>upstream is away</html>"));
    let mut response = Response::new(Either::Left(page));
    *response.status_mut() = hyper::StatusCode::BAD_GATEWAY;
    response
}
