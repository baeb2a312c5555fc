//! `/v1/jobs`.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use gristmill_protocol::{
    JobId, JobSpec, JobView, Page, Timestamp, job::JobFilter, job::JobState, job::JobTag,
};

use crate::{
    app::App,
    error::ApiError,
    http::{
        download,
        extract::{At, Json, Query, User, id, if_version, json, located, switch, tagged, wait},
        openapi::words,
        tar, traced,
    },
    ops,
};

/// Longest `?wait=` of users; a longer one is cut to it without an error, so a caller looks at the
/// answer and asks again. It is shorter than the minute after which many proxies give up. The calls of
/// nodes have a limit of their own, the setting `long_poll_max`.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(50);
/// The media type of an archive of outputs.
const TAR: &str = "application/x-tar";

/// Parameters of a submit.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct SubmitQuery {
    /// How long to wait for the job's end; at most 50 s, a longer wait is cut to that.
    #[schemars(with = "Option<words::Wait>")]
    wait: Option<String>,
    /// Queue and store nothing; say where the job could run.
    #[schemars(with = "Option<words::Switch>")]
    validate_only: Option<String>,
}

/// Parameters of a get.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct WaitQuery {
    /// How long to wait for the job's end; at most 50 s, a longer wait is cut to that.
    #[schemars(with = "Option<words::Wait>")]
    wait: Option<String>,
}

/// Parameters of the list.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct JobQuery {
    /// Only jobs in this state.
    state: Option<JobState>,
    /// Only jobs of this module name.
    module: Option<String>,
    /// Only jobs whose newest attempt is or was in this zone.
    zone: Option<String>,
    /// Only jobs with this label, as `key:value`.
    #[schemars(with = "Option<words::LabelPair>")]
    label: Option<String>,
    /// Only jobs accepted after this time.
    created_after: Option<Timestamp>,
    /// Entries in a page; 50 when absent.
    #[schemars(range(min = 1, max = 1_000))]
    page_size: Option<u32>,
    /// `next_page_token` of the page before.
    #[schemars(with = "Option<words::PageToken>")]
    page_token: Option<String>,
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=255).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(ApiError::field("Idempotency-Key", "must be 1 to 255 visible ASCII characters")),
    }
}

pub(super) fn job_id(text: &str) -> Result<JobId, ApiError> {
    id("job", text)
}

fn location(job: &JobView) -> String {
    format!("/v1/jobs/{}", job.id)
}

fn answer(job: &JobView) -> Response {
    tagged(job, JobTag::of(job))
}

/// `POST /v1/jobs`, with `Idempotency-Key`, `?wait=` (at most 50 s, longer is cut) and
/// `?validate_only=true`, which queues and stores nothing.
pub(in crate::http) async fn submit(
    State(app): State<Arc<App>>,
    User(principal): User,
    Query(query): Query<SubmitQuery>,
    headers: HeaderMap,
    Json(mut spec): Json<JobSpec>,
) -> Result<Response, ApiError> {
    spec.traceparent = spec.traceparent.or_else(|| traced::caller(&headers));
    let wait = wait("wait", query.wait.as_deref(), WAIT_MAX)?;
    let key = idempotency_key(&headers)?;
    if switch("validate_only", query.validate_only.as_deref())? {
        return Ok(json(&ops::validate_job(&app, &principal, spec).await?, None));
    }
    let submitted = ops::submit_job(&app, &principal, spec, key).await?;
    let job = match wait {
        Some(wait) => ops::wait_job(&app, &principal, submitted.job.id, wait).await?,
        None => submitted.job,
    };
    Ok(if submitted.created { located(answer(&job), &location(&job)) } else { answer(&job) })
}

/// `GET /v1/jobs`.
pub(in crate::http) async fn list(
    State(app): State<Arc<App>>,
    User(principal): User,
    Query(query): Query<JobQuery>,
) -> Result<Response, ApiError> {
    let filter = JobFilter {
        state: query.state,
        module: query.module,
        zone: query.zone,
        label: query.label,
        created_after: query.created_after,
        page_size: query.page_size,
        page_token: query.page_token,
    };
    Ok(json(&ops::list_jobs(&app, &principal, filter).await?, None))
}

/// `GET /v1/jobs/{id}`, with `?wait=` (at most 50 s, longer is cut) until it has ended; with `If-None-Match` as well, until its
/// version or its phase is another one.
pub(in crate::http) async fn get(
    State(app): State<Arc<App>>,
    User(principal): User,
    At(job): At<String>,
    Query(query): Query<WaitQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let job = job_id(&job)?;
    let seen = headers.get(header::IF_NONE_MATCH).and_then(|tag| tag.to_str().ok());
    let seen = seen.and_then(|tag| tag.trim_matches('"').parse().ok());
    let job = match (wait("wait", query.wait.as_deref(), WAIT_MAX)?, seen) {
        (Some(wait), Some(seen)) => ops::wait_job_change(&app, &principal, job, &seen, wait).await?,
        (Some(wait), None) => ops::wait_job(&app, &principal, job, wait).await?,
        (None, _) => ops::get_job(&app, &principal, job).await?,
    };
    Ok(answer(&job))
}

/// `POST /v1/jobs/{id}/cancel`.
pub(in crate::http) async fn cancel(
    State(app): State<Arc<App>>,
    User(principal): User,
    At(job): At<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    Ok(answer(&ops::cancel_job(&app, &principal, job_id(&job)?, if_version(&headers)?).await?))
}

/// `POST /v1/jobs/{id}/retry`: a new job.
pub(in crate::http) async fn retry(
    State(app): State<Arc<App>>,
    User(principal): User,
    At(job): At<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let submitted = ops::retry_job(&app, &principal, job_id(&job)?, idempotency_key(&headers)?).await?;
    let job = submitted.job;
    Ok(if submitted.created { located(answer(&job), &location(&job)) } else { answer(&job) })
}

/// `GET /v1/jobs/{id}/placement`.
pub(in crate::http) async fn placement(
    State(app): State<Arc<App>>,
    User(principal): User,
    At(job): At<String>,
) -> Result<Response, ApiError> {
    Ok(json(&ops::explain_placement(&app, &principal, job_id(&job)?).await?, None))
}

/// `GET /v1/jobs/{id}/attempts`: all in one page, by number.
pub(in crate::http) async fn attempts(
    State(app): State<Arc<App>>,
    User(principal): User,
    At(job): At<String>,
) -> Result<Response, ApiError> {
    let items = ops::list_attempts(&app, &principal, job_id(&job)?).await?;
    Ok(json(&Page { items, next_page_token: None }, None))
}

/// Parameters of the outputs.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct OutputsQuery {
    /// A list, or one archive of all files; a list when absent, unless `Accept` is `application/x-tar`.
    #[schemars(with = "Option<words::OutputsFormat>")]
    format: Option<String>,
}

impl OutputsQuery {
    fn is_tar(&self, headers: &HeaderMap) -> Result<bool, ApiError> {
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
        match self.format.as_deref() {
            None => Ok(accept.is_some_and(|accept| accept.trim() == TAR)),
            Some("json") => Ok(false),
            Some("tar") => Ok(true),
            Some(_) => Err(ApiError::field("format", "must be json or tar")),
        }
    }
}

/// `GET /v1/jobs/{id}/outputs`: the list, or with `?format=tar` (or `Accept: application/x-tar`) all of
/// them as one archive, which has a length, an entity tag and ranges as any other bytes.
pub(in crate::http) async fn outputs(
    State(app): State<Arc<App>>,
    User(principal): User,
    At(job): At<String>,
    Query(query): Query<OutputsQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let job = job_id(&job)?;
    if !query.is_tar(&headers)? {
        return Ok(by_accept(json(&ops::list_outputs(&app, &principal, job).await?, None)));
    }
    let (outputs, finished_at) = ops::all_outputs(&app, &principal, job).await?;
    let content = download::Content {
        segments: tar::archive(&outputs, finished_at)?,
        etag: tar::etag(&outputs, finished_at),
        media_type: TAR,
        file_name: Some(format!("{job}.tar")),
    };
    download::answer(&app, &headers, &content).map(by_accept)
}

/// Makes an answer say that another `Accept` may get another one, so that no cache gives out the archive
/// in the place of the list.
fn by_accept(mut response: Response) -> Response {
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

/// `GET` and `HEAD /v1/jobs/{id}/outputs/{path}`.
pub(in crate::http) async fn output(
    State(app): State<Arc<App>>,
    User(principal): User,
    At((job, path)): At<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let output = ops::open_output(&app, &principal, job_id(&job)?, &path).await?;
    download::blob(&app, &headers, output.digest, output.size, Some(output.path)).await
}
