//! One line in the log for every request, written when its answer has been sent or given up.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::{Method, StatusCode},
    response::Response,
};
use gristmill_protocol::Timestamp;
use http_body::{Frame, SizeHint};

use super::context::{Caller, Context};
use crate::app::App;

/// What is written of a request. It is written by the drop, so that a request whose client went away
/// has its line too; and what the request holds is given back then.
pub(super) struct Line {
    app: Arc<App>,
    span: tracing::Span,
    traced: tracing::Span,
    context: Arc<Context>,
    method: Method,
    started_at: Timestamp,
    status: Option<StatusCode>,
    bytes: u64,
    is_sent: bool,
}

impl Line {
    /// A request that begins now, with its span in the log and the one that is exported.
    pub(super) fn new(
        app: Arc<App>,
        (span, traced): (tracing::Span, tracing::Span),
        context: Arc<Context>,
        method: Method,
    ) -> Self {
        let started_at = app.clock.now();
        Self { app, span, traced, context, method, started_at, status: None, bytes: 0, is_sent: false }
    }

    /// Follows the answer to its end.
    pub(super) fn follow(mut self, response: Response) -> Response {
        self.status = Some(response.status());
        self.is_sent = self.method == Method::HEAD || response.body().is_end_stream();
        response.map(|body| Body::new(Followed { body, line: self }))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let elapsed_us = self.app.clock.now().duration_since(self.started_at).as_micros() as u64;
        let (token, tenant, node) = match self.context.caller.get() {
            Some(Caller::User { token, tenant }) => (Some(token), Some(tenant.as_str()), None),
            Some(Caller::Node(node)) => (None, None, Some(node)),
            None => (None, None, None),
        };
        self.traced.record("gristmill.tenant", tenant);
        self.traced.record("gristmill.node.id", node.map(tracing::field::display));
        self.traced.record("http.response.status_code", self.status.map(|status| status.as_u16()));
        if self.status.is_some_and(|status| status.is_server_error()) {
            self.traced.record("otel.status_code", "ERROR");
        }
        let is_read = self.method == Method::GET || self.method == Method::HEAD;
        // What users change is part of the story that an operator reads; the rest is for a closer look.
        let is_told = !is_read && node.is_none() && self.status.is_some_and(|status| status.is_success());
        let _entered = self.span.enter();
        macro_rules! write_line {
            ($level:ident) => {
                tracing::$level!(
                    route = self.context.route,
                    status = self.status.map(|status| status.as_u16()),
                    elapsed_us,
                    bytes = self.bytes,
                    is_sent = self.is_sent,
                    token = token.map(tracing::field::display),
                    tenant,
                    node = node.map(tracing::field::display),
                    peer = self.context.origin.peer.map(tracing::field::display),
                    "request"
                )
            };
        }
        if is_told {
            write_line!(info);
        } else {
            write_line!(debug);
        }
    }
}

/// An answer's body, counted.
struct Followed {
    body: Body,
    line: Line,
}

impl HttpBody for Followed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.line.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                self.line.is_sent = self.body.is_end_stream();
            }
            Poll::Ready(None) => self.line.is_sent = true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
