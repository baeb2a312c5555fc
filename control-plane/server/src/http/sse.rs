//! Streams of server-sent events: kept alive, resumed by the id of the last one, ended in words.

use std::{collections::VecDeque, convert::Infallible, future::Future, sync::Arc, time::Duration};

use axum::response::{
    IntoResponse, Response,
    sse::{Event, Sse},
};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::time::Instant;

use super::extract;
use crate::{
    app::App,
    error::ApiError,
    ops,
    principal::{Origin, Principal},
};

/// How long a client is asked to wait before it comes again.
const RETRY: Duration = Duration::from_millis(500);
/// Tells proxies to pass on at once what they get.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What a stream tells next.
pub(super) enum Next {
    /// These messages; more may follow.
    Messages(VecDeque<Event>),
    /// These messages, and then nothing more.
    Last(VecDeque<Event>),
}

/// Where the messages of a stream come from.
pub(super) trait Source: Send + 'static {
    /// Waits for what comes next. It may be cancelled without losing a message.
    fn next(&mut self) -> impl Future<Output = Result<Next, ApiError>> + Send;

    /// The id with which a client that got every message so far goes on.
    fn position(&self) -> String;
}

/// Whether the caller asks for a stream.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.any(|value| {
        value.split(',').any(|one| {
            one.split(';').next().is_some_and(|one| one.trim().eq_ignore_ascii_case("text/event-stream"))
        })
    })
}

/// The id of the last message that a client got on an earlier connection.
pub(super) fn last_event_id<T: std::str::FromStr>(headers: &HeaderMap) -> Result<Option<T>, ApiError> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let id = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    id.map(Some).ok_or_else(|| {
        ApiError::field("Last-Event-ID", "this is no id of this stream")
            .with_hint("send the id of the last message as it came, or leave the header out")
    })
}

struct Streaming<S> {
    app: Arc<App>,
    source: S,
    /// The token, which is checked again and again: it may be revoked meanwhile.
    secret: Option<String>,
    origin: Origin,
    waiting: VecDeque<Event>,
    /// Set when nothing follows but what waits.
    is_last: bool,
    /// When the message before was handed over.
    handed_at: Instant,
    checked_at: Instant,
}

/// Answers with a stream. Messages are made as fast as the client takes them and no faster: what is
/// kept for a client is one piece of its source. A client that takes too long for a message is cut, after a comment that says so. The stream ends with the server, and with the
/// validity of the token on the request.
pub(super) fn answer<S: Source>(app: &Arc<App>, who: &Principal, headers: &HeaderMap, source: S) -> Response {
    let now = Instant::now();
    let streaming = Streaming {
        app: Arc::clone(app),
        source,
        secret: extract::bearer(headers).map(str::to_owned),
        origin: who.origin.clone(),
        waiting: VecDeque::from([Event::default().retry(RETRY)]),
        is_last: false,
        handed_at: now,
        checked_at: now,
    };
    let messages = futures_util::stream::unfold(streaming, |mut streaming| async move {
        let message = streaming.next().await?;
        streaming.handed_at = Instant::now();
        Some((Ok::<_, Infallible>(message), streaming))
    });
    let mut response = Sse::new(messages).into_response();
    response.headers_mut().insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

impl<S: Source> Streaming<S> {
    async fn next(&mut self) -> Option<Event> {
        if !self.is_last && self.handed_at.elapsed() > self.app.settings.stream_slow_max {
            return Some(self.end("cut: the client was too slow; connect again with Last-Event-ID"));
        }
        let keep_alive = self.app.settings.stream_keep_alive;
        loop {
            if let Some(message) = self.waiting.pop_front() {
                return Some(message);
            }
            if self.is_last {
                return None;
            }
            if self.checked_at.elapsed() >= keep_alive {
                self.checked_at = Instant::now();
                let (secret, origin) = (self.secret.as_deref(), self.origin.clone());
                if ops::authenticate_user(&self.app, secret, origin).await.is_err() {
                    return Some(self.end("the token is no longer valid"));
                }
            }
            tokio::select! {
                biased;
                () = self.app.shutdown.cancelled() => {
                    return Some(self.end("the server stops; connect again with Last-Event-ID"));
                }
                next = self.source.next() => match next {
                    Ok(Next::Messages(messages)) => self.waiting = messages,
                    Ok(Next::Last(messages)) => {
                        self.waiting = messages;
                        self.is_last = true;
                    }
                    Err(error) => {
                        tracing::debug!(error = &error as &dyn std::error::Error, "a stream ended early");
                        return Some(self.end(&format!("{error}; connect again with Last-Event-ID")));
                    }
                },
                () = tokio::time::sleep(keep_alive) => {
                    // An id without data: clients take it over and tell their users nothing.
                    return Some(Event::default().id(self.source.position()).comment("keep-alive"));
                }
            }
        }
    }

    /// The last message of a stream: a comment.
    fn end(&mut self, why: &str) -> Event {
        self.waiting.clear();
        self.is_last = true;
        Event::default().comment(why.replace(['\r', '\n'], " "))
    }
}
