//! `/v1/jobs/{id}/attempts/{n}/logs`.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{Response, sse::Event},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use gristmill_protocol::attempt::{LogEndView, LogPieceView};

use super::jobs::{WAIT_MAX, job_id};
use crate::{
    app::App,
    error::ApiError,
    http::{
        conditions::{self, Verdict},
        download,
        extract::{At, Query, User, id, wait},
        openapi::words,
        ranges::{self, Wanted},
        sse::{self, Next, Source},
    },
    ops::{self, LogFollower, LogMark, LogNews, LogPart, LogPiece},
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
    let mut asked = (query.offset.unwrap_or(0), u64::MAX);
    let mut is_range = false;
    if query.offset.is_none() && headers.contains_key(header::RANGE) {
        let wanted = |there: &LogPiece| ranges::wanted(&headers, tag(there).as_deref(), there.total);
        let mut there = read(u64::MAX, 0, Duration::ZERO).await?;
        if let Wanted::Outside(first) = wanted(&there)
            && !there.ended
        {
            there = read(first, 1, wait).await?;
        }
        match wanted(&there) {
            Wanted::Outside(_) => return Ok(download::outside(there.total)),
            // What is asked for in several parts comes from its beginning.
            Wanted::Parts(parts) => {
                if let [part] = parts.as_slice() {
                    (asked, is_range) = ((part.start, part.end), true);
                }
            }
            Wanted::Whole => {}
        }
    }
    let size = usize::try_from(asked.1 - asked.0).unwrap_or(usize::MAX).min(LOG_BYTES_MAX);
    answer(&headers, read(asked.0, size, wait).await?, is_range)
}

/// The entity tag of a log that is complete; one that still grows has none.
fn tag(piece: &LogPiece) -> Option<String> {
    piece.ended.then(|| format!("\"log-{}\"", piece.total))
}

fn answer(asked: &HeaderMap, piece: LogPiece, is_range: bool) -> Result<Response, ApiError> {
    let tag = tag(&piece);
    if tag.is_none() && conditions::verdict(asked, None) == Verdict::Unexpected {
        return Err(conditions::unexpected(None));
    }
    let next = piece.offset + piece.bytes.len() as u64;
    let is_end = piece.ended && next >= piece.total;
    let mut response = Response::new(Body::from(piece.bytes));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(LOG_END, HeaderValue::from_static(if is_end { "true" } else { "false" }));
    headers.insert(LOG_NEXT, HeaderValue::from(next));
    if let Some(tag) = tag {
        download::set(headers, header::ETAG, &tag)?;
    }
    if is_range && next > piece.offset {
        let total = if piece.ended { piece.total.to_string() } else { "*".into() };
        download::set(
            headers,
            header::CONTENT_RANGE,
            &format!("bytes {}-{}/{total}", piece.offset, next - 1),
        )?;
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
