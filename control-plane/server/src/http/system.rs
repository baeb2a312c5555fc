//! `/livez` and `/readyz`: for monitoring, without a token and without names.

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use gristmill_protocol::{ErrorCode, FieldError};

use super::{
    extract::{Query, json, switch},
    openapi::words,
};
use crate::{app::App, error::ApiError, ops};

/// Parameters of `/readyz`.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadyQuery {
    /// List every check.
    #[schemars(with = "Option<words::Switch>")]
    verbose: Option<String>,
}

/// `GET /livez`: the process answers.
pub(super) async fn live() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: the server can take work; 503 with what is wrong if it cannot. With `?verbose` the
/// answer lists every check, with either status.
pub(super) async fn ready(
    State(app): State<Arc<App>>,
    Query(query): Query<ReadyQuery>,
) -> Result<Response, ApiError> {
    let is_verbose = switch("verbose", query.verbose.as_deref())?;
    let readiness = ops::check_ready(&app).await;
    if is_verbose {
        let mut response = json(&readiness, None);
        if !readiness.ready {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        return Ok(response);
    }
    if readiness.ready {
        return Ok("ok\n".into_response());
    }
    let faults = readiness.checks.iter().filter_map(|check| {
        check.detail.map(|detail| FieldError { pointer: check.name.into(), detail: detail.into() })
    });
    let mut error = ApiError::new(ErrorCode::Unavailable, "the server cannot take work now")
        .with_hint("GET /readyz?verbose lists every check");
    error.errors = faults.collect();
    error.retry_after_s = Some(2);
    Err(error)
}
