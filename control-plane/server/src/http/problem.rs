//! Errors on the wire (RFC 9457), and what every answer carries: a request id, the server's time
//! and headers that keep browsers from guessing.

use std::{any::Any, sync::Arc};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use gristmill_protocol::{ErrorCode, FieldError, Problem, Timestamp};
use tracing::{Instrument, debug, error, info_span};

use super::{
    access::Line,
    body,
    context::{Context, subject},
    traced,
};
use crate::{
    app::App,
    error::ApiError,
    gates::{Allowance, Kind},
    listener::Reach,
};

/// Longest request target, in bytes: the path of an output may have 4,096, each percent-encoded.
const TARGET_BYTES_MAX: usize = 16 << 10;
/// Most characters of a text that may quote the request.
const TEXT_CHARS_MAX: usize = 1_000;
/// Most wrong fields that are named.
const FIELDS_MAX: usize = 100;
/// Headers of a refusal that its handler decides.
const KEPT: [&str; 9] = [
    "allow",
    "content-range",
    "etag",
    "location",
    "tus-resumable",
    "tus-version",
    "upload-complete",
    "upload-limit",
    "upload-offset",
];
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status(self.code);
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

fn status(code: ErrorCode) -> StatusCode {
    StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Turns a caught panic of a handler into an answer.
#[expect(clippy::needless_pass_by_value, reason = "the layer hands the panic over")]
pub(super) fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words");
    ApiError::internal(anyhow::anyhow!("a handler panicked: {text}")).into_response()
}

/// No route has this path.
pub(super) async fn unknown_path(request: Request) -> ApiError {
    let path = request.uri().path();
    let hint = match *path.split('/').collect::<Vec<_>>() {
        ["", "v1", "jobs", _, "logs"] => "each attempt has its own: /v1/jobs/{id}/attempts/{number}/logs",
        _ => "the API is below /v1",
    };
    ApiError::new(ErrorCode::NotFound, format!("there is nothing at {}", shown(path))).with_hint(hint)
}

/// A route has this path but not this method.
pub(super) async fn unknown_method(request: Request) -> ApiError {
    let detail = format!("{} does not take {}", shown(request.uri().path()), request.method());
    ApiError::new(ErrorCode::MethodNotAllowed, detail).with_hint("the header Allow names what it takes")
}

fn shown(path: &str) -> String {
    path.chars().take(200).collect()
}

/// The outermost layer: gives the request its id and its room, renders errors and logs what happened.
pub(super) async fn frame(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let request_id = format!("req_{}", hex::encode(app.entropy.bytes::<10>()));
    let context = Context::new(&request_id, &request);
    let (job, attempt) = subject(request.uri().path());
    let method = counted(request.method());
    let traced = traced::span(&request, &context, method);
    let span = info_span!(
        parent: &traced, "request", request_id = %request_id, method = %request.method(), path = %shown(request.uri().path()),
        job = job.map(display), attempt,
    );
    let spans = (span.clone(), traced.clone());
    let line = Line::new(Arc::clone(&app), spans, Arc::clone(&context), request.method().clone());
    request.extensions_mut().insert(Arc::clone(&context));
    let started_at = app.clock.now();
    let entered =
        check_host(&request).and_then(|()| check_target(&request)).and_then(|()| enter(&app, &context));
    let mut response = match entered {
        Ok(()) => {
            let request = request.map(|body| body::paced(body, app.gates.pace()));
            next.run(request).instrument(span.clone()).instrument(traced).await
        }
        Err(error) => error.into_response(),
    };
    let now = app.clock.now();
    if let Some(error) = response.extensions_mut().remove::<Arc<ApiError>>() {
        span.in_scope(|| {
            log(&error);
            app.denials.note(&error, &context.origin, &context.route, now);
        });
        response = render(&error, &request_id, response.headers());
    }
    let elapsed = now.duration_since(started_at).unsigned_abs();
    app.requests
        .note((context.route.clone(), method, response.status().as_u16()), elapsed.as_micros() as u64);
    decorate(response.headers_mut(), &request_id, now);
    if let Some(allowance) = context.allowance.get() {
        tell_allowance(response.headers_mut(), *allowance);
    }
    // A connection that is kept for nodes is soon free for the next one.
    if context.reach == Reach::Reserve && !response.status().is_success() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    line.follow(response)
}

/// Takes room for the request, held until its answer is sent.
fn enter(app: &App, context: &Context) -> Result<(), ApiError> {
    let Some(kind) = context.kind else { return Ok(()) };
    match context.reach {
        Reach::Nodes if kind != Kind::Node => {
            return Err(ApiError::new(ErrorCode::Forbidden, "this address serves only nodes")
                .with_hint("users have an address of their own; ask who runs the server"));
        }
        Reach::Reserve if kind != Kind::Node => {
            let mut error = ApiError::new(ErrorCode::Unavailable, "the connections for users are all taken")
                .with_hint("use one connection for many requests, and repeat this one in a moment");
            error.retry_after_s = Some(1);
            return Err(error);
        }
        Reach::Everybody | Reach::Nodes | Reach::Reserve => {}
    }
    context.hold(app.gates.enter(kind)?);
    Ok(())
}

fn check_target(request: &Request) -> Result<(), ApiError> {
    let length = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if length <= TARGET_BYTES_MAX {
        return Ok(());
    }
    let detail = format!("the request target has {length} bytes; {TARGET_BYTES_MAX} are allowed");
    Err(ApiError::new(ErrorCode::TargetTooLong, detail)
        .with_hint("send long values in the body of the request"))
}

/// The method as it is counted: like the route's template, it does not grow with what clients send.
fn counted(method: &Method) -> &'static str {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    known.into_iter().find(|known| method.as_str() == *known).unwrap_or("other")
}

/// HTTP/1.1 asks for exactly one `Host`; a proxy on the way may have read another than we would.
fn check_host(request: &Request) -> Result<(), ApiError> {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if hosts == 1 || (hosts == 0 && request.version() != Version::HTTP_11) {
        return Ok(());
    }
    let detail = if hosts == 0 { "the header Host is missing" } else { "the header Host is there twice" };
    Err(ApiError::field("Host", detail).with_hint("send the header Host once, as HTTP/1.1 asks for"))
}

fn log(error: &ApiError) {
    match &error.source {
        Some(source) if error.code.status() >= 500 => {
            error!(code = %error.code, detail = %error.detail, cause = format!("{source:#}"), "failed");
        }
        Some(source) => {
            debug!(code = %error.code, detail = %error.detail, cause = format!("{source:#}"), "refused");
        }
        None => debug!(code = %error.code, detail = %error.detail, "refused"),
    }
}

/// Cuts a text that may quote the request at length.
fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What to do next when nothing better was said.
fn hint(error: &ApiError) -> &'static str {
    if error.code == ErrorCode::InvalidRequest && !error.errors.is_empty() {
        return "nothing was done: correct what errors names and send the request again";
    }
    error.code.hint()
}

/// What callers get to read of an error.
pub(super) fn document(error: &ApiError, request_id: Option<String>) -> Problem {
    Problem {
        kind: error.registered.as_ref().map_or("about:blank", |registered| registered.uri).into(),
        title: error.code.title().into(),
        status: error.code.status(),
        detail: cut(&error.detail),
        code: error.code,
        hint: Some(error.hint.clone().unwrap_or_else(|| hint(error).to_owned())),
        request_id,
        errors: error
            .errors
            .iter()
            .take(FIELDS_MAX)
            .map(|field| FieldError { pointer: cut(&field.pointer), detail: cut(&field.detail) })
            .collect(),
    }
}

fn render(error: &ApiError, request_id: &str, earlier: &HeaderMap) -> Response {
    let problem = document(error, Some(request_id.to_owned()));
    let body = match &error.registered {
        None => serde_json::to_vec(&problem),
        Some(registered) => serde_json::to_value(&problem).and_then(|mut document| {
            for (name, value) in &registered.members {
                document[*name] = (*value).into();
            }
            serde_json::to_vec(&document)
        }),
    };
    let body = body.unwrap_or_default();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status(error.code);
    let headers = response.headers_mut();
    for (name, value) in earlier.iter().filter(|(name, _)| KEPT.contains(&name.as_str())) {
        headers.insert(name, value.clone());
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(seconds) = error.retry_after_s {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if error.code == ErrorCode::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"gristmill\""));
    }
    response
}

/// What is left of the token's rate (`RateLimit` header fields for HTTP).
fn tell_allowance(headers: &mut HeaderMap, Allowance { burst, window_s, left }: Allowance) {
    let policy = format!("\"token\";q={burst};w={window_s}");
    let refills_s = u64::from(burst - left.min(burst)) * u64::from(window_s) / u64::from(burst.max(1));
    let state = format!("\"token\";r={left};t={refills_s}");
    for (name, value) in [("ratelimit-policy", policy), ("ratelimit", state)] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

fn decorate(headers: &mut HeaderMap, request_id: &str, now: Timestamp) {
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, value);
    }
    let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    if let Ok(value) = HeaderValue::from_str(&date) {
        headers.insert(header::DATE, value);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_says_what_went_wrong_and_what_to_do_next() {
        for code in ErrorCode::ALL {
            let problem = document(&ApiError::new(*code, "it went wrong"), None);
            let hint = problem.hint.unwrap_or_default();
            assert!(hint.len() > 10 && hint != problem.title, "{code}: {hint:?}");
            assert!((400..600).contains(&problem.status) && !problem.title.is_empty(), "{code}");
        }
        let own = ApiError::new(ErrorCode::NotFound, "it went wrong").with_hint("look elsewhere");
        assert_eq!(document(&own, None).hint.as_deref(), Some("look elsewhere"));
    }

    #[test]
    fn a_wrong_field_is_named_with_its_rule_and_the_hint_speaks_of_it() {
        let problem = document(&ApiError::field("page_size", "must be from 1 to 1000"), None);
        assert_eq!(problem.detail, "page_size: must be from 1 to 1000");
        assert_eq!(problem.errors[0].pointer, "page_size");
        assert!(problem.hint.is_some_and(|hint| hint.contains("errors")));
    }
}
