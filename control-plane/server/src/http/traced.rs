//! The span that is exported of a request, and the caller's trace.

use axum::{extract::Request, http::HeaderMap};
use gristmill_protocol::{TraceContext, trace::SPAN_TARGET};
use tracing::{Span, field::Empty, info_span};

use super::context::Context;

/// The caller's trace. The specification asks to ignore a header that is not right, or there twice.
pub(super) fn caller(headers: &HeaderMap) -> Option<TraceContext> {
    let mut values = headers.get_all("traceparent").iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    value.to_str().ok()?.trim().parse().ok()
}

/// The span of a request, until its answer is sent; none for monitoring. The route and `method` are of
/// short lists: what clients write into paths stays out.
pub(super) fn span(request: &Request, context: &Context, method: &str) -> Span {
    if context.kind.is_none() {
        return Span::none();
    }
    let route = &context.route;
    info_span!(
        target: SPAN_TARGET, parent: None, "request",
        otel.name = format!("{method} {route}"), otel.kind = "server", otel.status_code = Empty,
        otel.parent = caller(request.headers()).map(tracing::field::display),
        http.request.method = method, http.route = route.as_str(), http.response.status_code = Empty,
        gristmill.request.id = &*context.origin.request_id,
        gristmill.tenant = Empty, gristmill.node.id = Empty,
    )
}
