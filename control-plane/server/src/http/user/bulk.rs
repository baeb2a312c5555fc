//! `/v1/bulk/jobs`.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, header},
    response::Response,
};
use futures_util::StreamExt as _;
use gristmill_protocol::{
    ErrorCode, JobId, JobSpec,
    bulk::{BulkResult, BulkSelection, BulkSubmitView},
    limits::BODY_BYTES_MAX,
};

use super::jobs::idempotency_key;
use crate::{
    app::App,
    error::ApiError,
    http::{
        body,
        extract::{Json, Query, User, json, parse_json, parse_value, switch},
        items::{Items, Layout},
        openapi::words,
        problem,
    },
    ops::{self, SubmitItem, SubmitOutcome},
    store::job::JobOnly,
};

/// Longest time that a body may take.
const BODY_TIME_MAX: Duration = Duration::from_mins(5);

/// Parameters of a cancel or retry.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct BulkQuery {
    /// Change nothing; say how many jobs it is about.
    #[schemars(with = "Option<words::Switch>")]
    dry_run: Option<String>,
}

/// `POST /v1/bulk/jobs/submit`: specs as lines (`application/x-ndjson`) or as an array, each with an
/// `idempotency_key` of its own if wanted. Each gets its own result; all that are accepted are durable
/// in one commit.
pub(in crate::http) async fn submit(
    State(app): State<Arc<App>>,
    User(principal): User,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    principal.require(gristmill_protocol::tenancy::Scope::Submit)?;
    let layout = layout(&headers)?;
    let _permit = ops::bulk_permit(&app)?;
    let items = tokio::time::timeout(BODY_TIME_MAX, read_items(&app, &headers, body, layout))
        .await
        .map_err(|_| {
            ApiError::new(ErrorCode::InvalidRequest, "the body took longer than five minutes")
                .with_hint("send fewer jobs in each call")
        })??;
    let outcomes = ops::submit_jobs(&app, &principal, items).await?;
    Ok(json(&view(outcomes.into_iter().map(|outcome| (None, outcome)), None), None))
}

/// `POST /v1/bulk/jobs/cancel`, with `?dry_run=true` the number of jobs alone.
pub(in crate::http) async fn cancel(
    State(app): State<Arc<App>>,
    User(principal): User,
    Query(query): Query<BulkQuery>,
    selection: Result<Json<BulkSelection>, ApiError>,
) -> Result<Response, ApiError> {
    let selection = chosen(selection)?;
    if switch("dry_run", query.dry_run.as_deref())? {
        return Ok(json(&ops::count_jobs(&app, &principal, selection, JobOnly::Cancellable).await?, None));
    }
    Ok(json(&ops::cancel_jobs(&app, &principal, selection).await?, None))
}

/// `POST /v1/bulk/jobs/retry`, with `?dry_run=true` the number of jobs alone, and with
/// `Idempotency-Key` harmless to repeat.
pub(in crate::http) async fn retry(
    State(app): State<Arc<App>>,
    User(principal): User,
    Query(query): Query<BulkQuery>,
    headers: HeaderMap,
    selection: Result<Json<BulkSelection>, ApiError>,
) -> Result<Response, ApiError> {
    let selection = chosen(selection)?;
    let key = idempotency_key(&headers)?;
    if switch("dry_run", query.dry_run.as_deref())? {
        return Ok(json(&ops::count_jobs(&app, &principal, selection, JobOnly::Ended).await?, None));
    }
    let _permit = ops::bulk_permit(&app)?;
    let retried = ops::retry_jobs(&app, &principal, selection, key).await?;
    let outcomes = retried.outcomes.into_iter().map(|(former, outcome)| (Some(former), outcome));
    Ok(json(&view(outcomes, retried.next_page_token), None))
}

/// The body; where it has what belongs into the address, the error says so.
fn chosen(read: Result<Json<BulkSelection>, ApiError>) -> Result<BulkSelection, ApiError> {
    let Json(selection) = read.map_err(|error| {
        let is_misplaced = error.errors.iter().any(|field| field.pointer == "/dry_run");
        if is_misplaced { error.with_hint("put it into the address: ?dry_run=true") } else { error }
    })?;
    Ok(selection)
}

fn layout(headers: &HeaderMap) -> Result<Layout, ApiError> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    match value.split(';').next().unwrap_or("").trim().to_ascii_lowercase().as_str() {
        "application/json" => Ok(Layout::Array),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(Layout::Lines),
        _ => {
            Err(ApiError::new(ErrorCode::UnsupportedMediaType, "the body must be JSON lines or a JSON array")
                .with_hint("send Content-Type: application/x-ndjson or application/json"))
        }
    }
}

/// Reads the items as they come; what is held is what they say, not their text.
async fn read_items(
    app: &App,
    headers: &HeaderMap,
    body: Body,
    layout: Layout,
) -> Result<Vec<SubmitItem>, ApiError> {
    body::check_encoding(headers)?;
    let (bytes_max, jobs_max) = (app.settings.bulk_bytes_max, app.settings.bulk_jobs_max as usize);
    let mut pieces = body::stream(body);
    let mut items = Items::new(layout);
    let (mut read, mut parsed, mut size) = (Ok(()), Vec::new(), 0);
    while read.is_ok() {
        let piece = pieces.next().await.transpose().map_err(body::cut_short)?;
        size += piece.as_ref().map_or(0, bytes::Bytes::len) as u64;
        read = match &piece {
            _ if size > bytes_max => Err(body::too_large(bytes_max)),
            _ if items.waiting() > BODY_BYTES_MAX => Err(body::too_large(BODY_BYTES_MAX as u64)),
            _ => {
                items.push(piece.as_deref().unwrap_or_default());
                take(&mut items, piece.is_none(), jobs_max, &mut parsed)
            }
        };
        if piece.is_none() {
            break;
        }
    }
    if read.is_err() {
        body::discard(&mut pieces).await;
    }
    read.map(|()| parsed)
}

fn take(items: &mut Items, at_end: bool, max: usize, parsed: &mut Vec<SubmitItem>) -> Result<(), ApiError> {
    while let Some(item) = items.next(at_end)? {
        if parsed.len() == max {
            let detail = format!("the body holds more than {max} jobs");
            return Err(
                ApiError::new(ErrorCode::BodyTooLarge, detail).with_hint("send the jobs in several calls")
            );
        }
        let is_too_large = item.len() > BODY_BYTES_MAX;
        parsed.push(if is_too_large { Err(body::too_large(BODY_BYTES_MAX as u64)) } else { parse(&item) });
    }
    Ok(())
}

/// A spec, and beside its fields the key.
fn parse(item: &[u8]) -> Result<(JobSpec, Option<String>), ApiError> {
    let mut fields: serde_json::Map<String, serde_json::Value> = parse_json(item)?;
    let key = match fields.remove("idempotency_key") {
        None | Some(serde_json::Value::Null) => None,
        Some(serde_json::Value::String(key)) => Some(key),
        Some(_) => return Err(ApiError::field("/idempotency_key", "must be a text")),
    };
    Ok((parse_value(fields.into())?, key))
}

fn view(
    outcomes: impl Iterator<Item = (Option<JobId>, SubmitOutcome)>,
    next_page_token: Option<String>,
) -> BulkSubmitView {
    let mut view = BulkSubmitView { next_page_token, ..BulkSubmitView::default() };
    for (index, (retry_of, outcome)) in (0_u64..).zip(outcomes) {
        let (status, job, problem) = match outcome {
            Ok((job, true)) => (201, Some(job), None),
            Ok((job, false)) => (200, Some(job), None),
            Err(error) => (error.code.status(), None, Some(problem::document(&error, None))),
        };
        match status {
            201 => view.accepted += 1,
            200 => view.existing += 1,
            _ => view.refused += 1,
        }
        view.results.push(BulkResult { index, status, job, retry_of, problem });
    }
    view
}
