//! What handlers take from a request, each with errors that name what is wrong.

use std::{fmt::Display, sync::Arc, time::Duration};

use axum::{
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::{HeaderMap, HeaderValue, header, request::Parts},
    response::{IntoResponse, Response},
};
use gristmill_protocol::{ErrorCode, limits::BODY_BYTES_MAX};
use serde::{Serialize, de::DeserializeOwned};

use super::{body, context::Context, json_fault, objects::Objects, openapi::words};
use crate::{app::App, error::ApiError, ops, principal::Principal};

/// The user whose token is on the request.
#[derive(Debug)]
pub(super) struct User(pub(super) Principal);

impl FromRequestParts<Arc<App>> for User {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let context = Context::of(&parts.extensions)?;
        let user = ops::authenticate_user(app, bearer(&parts.headers), context.origin.clone()).await?;
        context.is_of_user(app, &user)?;
        Ok(Self(user))
    }
}

/// The secret of the token on a request.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, secret) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}

/// A JSON body of at most 1 MiB. Unknown fields are refused where the type says so.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &Arc<App>) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        check_json(&parts.headers)?;
        let bytes = body::read(&parts.headers, body, BODY_BYTES_MAX).await?;
        json_fault::check_keys(&bytes)?;
        parse_json(&bytes).map(Self)
    }
}

/// Refuses a body that does not claim to be JSON.
pub(super) fn check_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let media_type = value.split(';').next().unwrap_or("").trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::UnsupportedMediaType, "the body must be JSON")
        .with_hint("send the header Content-Type: application/json"))
}

/// Reads JSON; what is wrong is named by its JSON pointer (RFC 6901).
pub(super) fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if bytes.trim_ascii_start().first().is_some_and(|&byte| byte != b'{') {
        let hint = "send the fields as one object: {\"name\": …}";
        return Err(json_fault::fault(String::new(), "must be a JSON object".into(), Some(hint.into())));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(Objects(&mut reader)).map_err(|error| misread(&error))?;
    reader.end().map_err(|_| {
        let hint = "send one object in each request";
        json_fault::fault(String::new(), "goes on after its JSON object".into(), Some(hint.into()))
    })?;
    Ok(value)
}

/// Reads a value that was parsed before; what is wrong is named as by [`parse_json`].
pub(super) fn parse_value<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(Objects(value)).map_err(|error| misread(&error))
}

fn misread(error: &serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    json_fault::of_json(pointer(error.path()), error.inner())
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => {
                text.push('/');
                text.push_str(&index.to_string());
            }
            Segment::Map { key } | Segment::Enum { variant: key } => {
                text.push('/');
                text.push_str(&crate::job_rules::pointer_part(key));
            }
            Segment::Unknown => {}
        }
    }
    text
}

/// Parameters of the query. Unknown and repeated ones are refused.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<App>> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, ApiError> {
        let query = axum::extract::Query::<T>::try_from_uri(&parts.uri).map_err(|rejection| {
            let text = rejection.body_text();
            json_fault::of_query(text.split_once("query string: ").map_or(text.as_str(), |(_, rest)| rest))
        })?;
        Ok(Self(query.0))
    }
}

/// Parameters of the path, percent-decoded.
#[derive(Debug)]
pub(super) struct At<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<App>> for At<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        match Path::<T>::from_request_parts(parts, app).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(_) => Err(ApiError { code: ErrorCode::NotFound, ..ApiError::field("path", "is not UTF-8") }
                .with_hint("percent-encode the UTF-8 bytes of names in the path")),
        }
    }
}

/// Which page of a list.
#[derive(Debug, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    /// Entries in a page; 50 when absent.
    #[schemars(range(min = 1, max = 1_000))]
    pub(super) page_size: Option<u32>,
    /// `next_page_token` of the page before.
    #[schemars(with = "Option<words::PageToken>")]
    pub(super) page_token: Option<String>,
}

/// Parses an id of the path. A text that can be no id names nothing: `not_found`.
pub(super) fn id<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|_| ApiError::not_found(what))
}

/// The versions that an `If-Match` header names (RFC 9110 section 13.1.1); `None` without the header or for
/// `*`. A tag that is none of ours matches nothing, and neither does a weak one.
pub(super) fn if_match(headers: &HeaderMap) -> Result<Option<Vec<u64>>, ApiError> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let invalid =
        || ApiError::field("If-Match", "must be the ETag of an earlier answer, such as \"3\", or *");
    let mut rest = value.to_str().map_err(|_| invalid())?.trim();
    if rest == "*" {
        return Ok(None);
    }
    let mut versions = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Ok(Some(versions));
        }
        let is_weak = rest.starts_with("W/");
        let tag = rest.strip_prefix("W/").unwrap_or(rest).strip_prefix('"').ok_or_else(invalid)?;
        let (tag, after) = tag.split_once('"').ok_or_else(invalid)?;
        versions.extend(tag_version(tag).filter(|_| !is_weak));
        rest = after;
    }
}

/// The one version that an `If-Match` header names, as [`if_match`] reads it; one that no thing has when it
/// names none of ours.
pub(super) fn if_version(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    match if_match(headers)?.as_deref() {
        None => Ok(None),
        Some([]) => Ok(Some(ops::NO_VERSION)),
        Some([version]) => Ok(Some(*version)),
        Some(_) => Err(ApiError::field("If-Match", "must be one ETag here, such as \"3\", or *")),
    }
}

/// The version in a tag of ours: all of it, or what stands before a dot and what else tells apart what is
/// shown, such as a job's phase.
fn tag_version(tag: &str) -> Option<u64> {
    let (version, shown) = tag.split_once('.').map_or((tag, None), |(version, shown)| (version, Some(shown)));
    let is_ours = |shown: &str| !shown.is_empty() && shown.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let known: u64 = version.parse().ok()?;
    (known.to_string() == version && shown.is_none_or(is_ours)).then_some(known)
}

/// A duration such as `30s` of a parameter, cut at `max`.
pub(super) fn wait(name: &str, text: Option<&str>, max: Duration) -> Result<Option<Duration>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    let wait_ms = gristmill_protocol::units::parse_duration_ms(text)
        .map_err(|error| ApiError::field(name, error.to_string()))?;
    Ok(Some(Duration::from_millis(wait_ms).min(max)))
}

/// A switch in the query: `?name`, `?name=true` or `?name=false`.
pub(super) fn switch(name: &str, value: Option<&str>) -> Result<bool, ApiError> {
    match value {
        None | Some("false") => Ok(false),
        Some("" | "true") => Ok(true),
        Some(_) => Err(ApiError::field(name, "must be true or false")),
    }
}

/// A JSON answer, with the thing's version as its entity tag if it has one.
pub(super) fn json<T: Serialize>(value: &T, version: Option<u64>) -> Response {
    match version {
        Some(version) => tagged(value, version),
        None => axum::Json(value).into_response(),
    }
}

/// A JSON answer with an entity tag.
pub(super) fn tagged<T: Serialize>(value: &T, tag: impl Display) -> Response {
    let mut response = axum::Json(value).into_response();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{tag}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// A JSON answer 201 that says where the new thing is.
pub(super) fn created<T: Serialize>(value: &T, version: Option<u64>, location: &str) -> Response {
    located(json(value, version), location)
}

/// Makes an answer say that the thing is new, and where it is.
pub(super) fn located(mut response: Response, location: &str) -> Response {
    *response.status_mut() = http::StatusCode::CREATED;
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &'static str) -> Result<Option<Vec<u64>>, String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_MATCH, HeaderValue::from_static(value));
        if_match(&headers).map_err(|error| error.errors[0].pointer.clone())
    }

    #[test]
    fn a_precondition_names_versions_and_what_is_no_tag_of_ours_matches_nothing() {
        assert_eq!(if_match(&HeaderMap::new()).expect("is fine"), None);
        assert_eq!(of("*"), Ok(None));
        assert_eq!(of("\"3\""), Ok(Some(vec![3])));
        assert_eq!(of("\"3\", \"4\""), Ok(Some(vec![3, 4])));
        assert_eq!(of("\"3.compiling\", \"4.00ff\""), Ok(Some(vec![3, 4])));
        for other in [
            "W/\"3\"",
            "\"a,b\"",
            "\"+3\"",
            "\"03\"",
            "\"3.\"",
            "\"3.a.b\"",
            "",
            ",",
            "\"99999999999999999999\"",
        ] {
            assert_eq!(of(other), Ok(Some(vec![])), "{other}");
        }
        let mut headers = HeaderMap::new();
        for (value, expected) in [("\"3\"", Some(3)), ("W/\"3\"", Some(0)), ("*", None)] {
            headers.insert(header::IF_MATCH, HeaderValue::from_static(value));
            assert_eq!(if_version(&headers).expect("is fine"), expected, "{value}");
        }
        headers.insert(header::IF_MATCH, HeaderValue::from_static("\"3\", \"4\""));
        assert!(if_version(&headers).is_err());
        for wrong in ["3", "yesterday", "\"3", "\"3\" x", "W/3"] {
            assert_eq!(of(wrong), Err("If-Match".into()), "{wrong}");
        }
    }
}
