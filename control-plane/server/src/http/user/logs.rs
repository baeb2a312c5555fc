//! `/v1/jobs/{id}/attempts/{n}/logs`.

use std::{ops::Range, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response, sse::Event},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use gristmill_protocol::attempt::{LogEndView, LogPieceView};

use super::jobs::{WAIT_MAX, job_id};
use crate::{
    app::App,
    error::ApiError,
    http::{
        download,
        extract::{At, Query, User, id, is_known, wait},
        openapi::words,
        sse::{self, Next, Source},
    },
    ops::{self, LogFollower, LogMark, LogNews, LogPart},
};

/// Most bytes of a log in one answer.
const LOG_BYTES_MAX: usize = 1 << 20;
/// Whether the attempt has ended and the answer reaches the end of its log.
const LOG_END: HeaderName = HeaderName::from_static("gristmill-log-end");
/// Where the next read has to begin.
const LOG_NEXT: HeaderName = HeaderName::from_static("gristmill-log-next");

/// Parameters of a log.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct LogQuery {
    /// One stream, or both by time (`log`) when absent.
    #[schemars(with = "Option<words::LogChoice>")]
    stream: Option<String>,
    /// Where to begin, in bytes.
    offset: Option<u64>,
    /// How long to wait for something new; at most 50 s, a longer wait is cut to that.
    #[schemars(with = "Option<words::Wait>")]
    wait: Option<String>,
}

/// Which part of a log a `Range` header asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum LogRange {
    /// These bytes, end exclusive.
    Bytes(Range<u64>),
    /// The last so many bytes.
    Last(u64),
}

/// One range; a header that is malformed or names several is passed over.
fn log_range(headers: &HeaderMap) -> Option<LogRange> {
    let text = headers.get(header::RANGE)?.to_str().ok()?.trim().strip_prefix("bytes=")?;
    match text.split_once('-')? {
        ("", last) => Some(LogRange::Last(last.parse().ok()?)),
        (first, "") => Some(LogRange::Bytes(first.parse().ok()?..u64::MAX)),
        (first, last) => {
            let (first, last) = (first.parse().ok()?, last.parse::<u64>().ok()?);
            (first <= last).then(|| LogRange::Bytes(first..last.saturating_add(1)))
        }
    }
}

/// `GET /v1/jobs/{id}/attempts/{n}/logs?stream=stdout|stderr|log&offset=N&wait=25s`: raw bytes, at
/// most 1 MiB at a time. The header `gristmill-log-next` says where to go on, `gristmill-log-end`
/// whether that is the end. With `Accept: text/event-stream` a stream of pieces instead, whose ids are
/// byte offsets, up to the end of the log.
pub(in crate::http) async fn read(
    State(app): State<Arc<App>>,
    User(principal): User,
    At((job, number)): At<(String, String)>,
    Query(query): Query<LogQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let select = match query.stream.as_deref() {
        None | Some("log") => ops::LogSelect::Merged,
        Some("stdout") => ops::LogSelect::Stdout,
        Some("stderr") => ops::LogSelect::Stderr,
        Some(_) => return Err(ApiError::field("stream", "must be stdout, stderr or log")),
    };
    let (job, number) = (job_id(&job)?, id("attempt", &number)?);
    let seen: Option<LogMark> = sse::last_event_id(&headers)?;
    if sse::is_asked_for(&headers) {
        let from = seen.unwrap_or(LogMark::Offset(query.offset.unwrap_or(0)));
        let follower = LogFollower::open(&app, &principal, (job, number), select, from).await?;
        return Ok(sse::answer(&app, &principal, &headers, follower));
    }
    let wait = wait("wait", query.wait.as_deref(), WAIT_MAX)?.unwrap_or_default();
    let read = |offset, bytes_max, wait| {
        let asked = ops::LogQuery { select, offset, bytes_max, wait };
        ops::read_log(&app, &principal, job, number, asked)
    };
    let asked = log_range(&headers).filter(|_| query.offset.is_none());
    let condition = headers.get(header::IF_RANGE).map(HeaderValue::as_bytes);
    let depends = condition.is_some() || matches!(asked, Some(LogRange::Last(_)));
    let (mut total, mut is_changed) = (0, false);
    if asked.is_some() && depends {
        let now = read(u64::MAX, 0, Duration::ZERO).await?;
        total = now.total;
        is_changed = condition.is_some() && condition != log_tag(&now).as_deref().map(str::as_bytes);
    }
    let range = asked.filter(|_| !is_changed).map(|asked| match asked {
        LogRange::Bytes(range) => range,
        LogRange::Last(count) => total.saturating_sub(count)..total,
    });
    let is_range = range.is_some();
    let (offset, end) = range.map_or((query.offset.unwrap_or(0), u64::MAX), |range| (range.start, range.end));
    let bytes_max = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX).min(LOG_BYTES_MAX);
    let piece = read(offset, bytes_max, wait).await?;
    let tag = log_tag(&piece);
    if let Some(tag) = tag.as_deref().filter(|tag| is_known(&headers, tag)) {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        response.headers_mut().insert(header::ETAG, HeaderValue::from_str(tag).map_err(ApiError::internal)?);
        return Ok(response);
    }
    let mut response = log_answer(piece, is_range)?;
    if let Some(tag) = tag {
        let tag = HeaderValue::from_str(&tag).map_err(ApiError::internal)?;
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

/// The entity tag of a log that is complete; one that still grows has none.
fn log_tag(piece: &ops::LogPiece) -> Option<String> {
    piece.ended.then(|| format!("\"log-{}\"", piece.total))
}

fn log_answer(piece: ops::LogPiece, is_range: bool) -> Result<Response, ApiError> {
    let next = piece.offset + piece.bytes.len() as u64;
    if is_range && piece.bytes.is_empty() && piece.ended {
        return Ok(download::outside(piece.total));
    }
    let is_end = piece.ended && next >= piece.total;
    let mut response = Response::new(Body::from(piece.bytes));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(LOG_END, HeaderValue::from_static(if is_end { "true" } else { "false" }));
    headers.insert(LOG_NEXT, HeaderValue::from(next));
    if is_range && next > piece.offset {
        let total = if piece.ended { piece.total.to_string() } else { "*".into() };
        let range = format!("bytes {}-{}/{total}", piece.offset, next - 1);
        headers.insert(header::CONTENT_RANGE, HeaderValue::from_str(&range).map_err(ApiError::internal)?);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

impl Source for LogFollower {
    async fn next(&mut self) -> Result<Next, ApiError> {
        match LogFollower::next(self).await? {
            LogNews::Parts(parts) => {
                parts.into_iter().map(piece).collect::<Result<_, _>>().map(Next::Messages)
            }
            LogNews::End(attempt) => {
                let end = LogEndView {
                    state: attempt.phase.state(),
                    stdout_bytes: attempt.stdout_bytes,
                    stderr_bytes: attempt.stderr_bytes,
                    log_truncated: attempt.log_truncated,
                };
                let event = Event::default().id(self.mark().to_string()).event("end");
                Ok(Next::Last([event.json_data(end).map_err(ApiError::internal)?].into()))
            }
        }
    }

    fn position(&self) -> String {
        self.mark().to_string()
    }
}

fn piece(part: LogPart) -> Result<Event, ApiError> {
    let (text, base64) = match String::from_utf8(part.bytes.into()) {
        Ok(text) => (Some(text), None),
        Err(raw) => (None, Some(STANDARD.encode(raw.as_bytes()))),
    };
    let view =
        LogPieceView { stream: part.stream, offset: part.offset, elapsed_us: part.elapsed_us, text, base64 };
    let event = Event::default().id(part.mark.to_string()).event("log");
    event.json_data(view).map_err(ApiError::internal)
}
