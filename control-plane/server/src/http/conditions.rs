//! Conditions of requests that read (RFC 9110 section 13): `If-Match` names what the caller expects, and
//! `If-None-Match` what it has already. Decided in one place for whatever has an entity tag.

use axum::{
    body::{Body, HttpBody},
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use gristmill_protocol::ErrorCode;

use crate::error::ApiError;

/// What the conditions of a request say about what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is to be sent, or a part of it.
    Send,
    /// The caller has it already.
    Known,
    /// The caller expects something else.
    Unexpected,
}

/// Reads the conditions against the tag of what is there, if that has one. What has none is never what
/// the caller expects or has.
pub(super) fn verdict(headers: &HeaderMap, etag: Option<&str>) -> Verdict {
    let is_same = |tag: &str| Some(tag) == etag;
    if headers.contains_key(header::IF_MATCH) && !names(headers, &header::IF_MATCH, is_same) {
        return Verdict::Unexpected;
    }
    let is_alike = |tag: &str| etag.is_some_and(|etag| tag.trim_start_matches("W/") == etag);
    if etag.is_some() && names(headers, &header::IF_NONE_MATCH, is_alike) {
        return Verdict::Known;
    }
    Verdict::Send
}

/// Whether a header, which may be there several times, names a tag for which this holds, or `*`.
fn names(headers: &HeaderMap, name: &HeaderName, holds: impl Fn(&str) -> bool) -> bool {
    let lists = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(str::trim).any(|tag| tag == "*" || holds(tag))
}

/// The refusal of a request that expects something else than is there.
pub(super) fn unexpected(etag: Option<&str>) -> ApiError {
    let error =
        ApiError::new(ErrorCode::PreconditionFailed, "the content is another one than If-Match names");
    match etag {
        Some(etag) => error.with_hint(format!("its ETag is {etag}")),
        None => error.with_hint("it still grows, and has no ETag before it is complete"),
    }
}

/// The layer that turns an answer with an entity tag into the one that the conditions ask for. Bodies that
/// are read as they are sent are not read for that.
pub(super) async fn apply(request: Request, next: Next) -> Response {
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    let asked = reads.then(|| request.headers().clone());
    let response = next.run(request).await;
    let Some(asked) = asked.filter(|_| response.status().is_success()) else { return response };
    let etag = response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok());
    match etag.map(|etag| (verdict(&asked, Some(etag)), etag)) {
        None | Some((Verdict::Send, _)) => response,
        Some((Verdict::Known, _)) => not_modified(response),
        Some((Verdict::Unexpected, etag)) => unexpected(Some(etag)).into_response(),
    }
}

/// The same head, as it is without the condition, and no body.
fn not_modified(response: Response) -> Response {
    let (mut head, body) = response.into_parts();
    head.status = StatusCode::NOT_MODIFIED;
    if let Some(size) = body.size_hint().exact() {
        head.headers.entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from(size));
    }
    Response::from_parts(head, Body::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(conditions: &[(HeaderName, &'static str)], etag: Option<&str>) -> Verdict {
        let mut headers = HeaderMap::new();
        for (name, value) in conditions {
            headers.append(name, HeaderValue::from_static(value));
        }
        verdict(&headers, etag)
    }

    #[test]
    fn what_is_expected_is_decided_before_what_is_known() {
        use Verdict::{Known, Send, Unexpected};
        let (expects, knows) = (header::IF_MATCH, header::IF_NONE_MATCH);
        assert_eq!(of(&[], Some("\"a\"")), Send);
        for (value, expected, known) in [
            ("\"a\"", Send, Known),
            ("\"b\", \"a\"", Send, Known),
            ("*", Send, Known),
            ("W/\"a\"", Unexpected, Known),
            ("\"b\"", Unexpected, Send),
            ("a", Unexpected, Send),
            ("", Unexpected, Send),
        ] {
            assert_eq!(of(&[(expects.clone(), value)], Some("\"a\"")), expected, "If-Match: {value}");
            assert_eq!(of(&[(knows.clone(), value)], Some("\"a\"")), known, "If-None-Match: {value}");
        }
        let both = [(expects.clone(), "\"b\""), (knows.clone(), "\"a\"")];
        assert_eq!(of(&both, Some("\"a\"")), Unexpected);
        let twice = [(knows.clone(), "\"b\""), (knows.clone(), "\"a\"")];
        assert_eq!(of(&twice, Some("\"a\"")), Known, "the header may be there twice");
        assert_eq!(of(&[(expects.clone(), "\"a\"")], None), Unexpected);
        assert_eq!(of(&[(expects, "*"), (knows, "*")], None), Send, "what has no tag is there nevertheless");
    }
}
