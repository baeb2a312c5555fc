//! `/v1/node/attempts/{job}/{n}/…`: bytes to and from an attempt under lease.

use std::sync::Arc;

use axum::{
    extract::{OriginalUri, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use gristmill_protocol::{Digest, LeaseToken, attempt::LogStream, node_api::LeaseRef};

use crate::{
    app::App,
    error::ApiError,
    http::{
        body, download,
        extract::{At, Query, created, id},
        signed::{Lease, Signed, SignedBytes},
    },
    ops,
};

/// Where a piece of a log belongs.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct LogPlace {
    /// Where the piece starts in its stream, in bytes.
    offset: u64,
    /// When it was written, in microseconds after the attempt's start.
    elapsed_us: u64,
}

/// The lease that the path and the header name together.
fn lease(job: &str, number: &str, lease_token: LeaseToken) -> Result<LeaseRef, ApiError> {
    Ok(LeaseRef { job: id("attempt", job)?, attempt: id("attempt", number)?, lease_token })
}

/// `GET /v1/node/attempts/{job}/{n}/blobs/{digest}`.
pub(in crate::http) async fn blob(
    State(app): State<Arc<App>>,
    Signed(node): Signed,
    Lease(token): Lease,
    At((job, number, digest)): At<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let lease = lease(&job, &number, token)?;
    let blob = ops::authorize_attempt_blob(&app, &node, &lease, id("blob", &digest)?).await?;
    download::blob(&app, &headers, blob.digest, blob.size, None).await
}

/// `HEAD /v1/node/attempts/{job}/{n}/outputs/{digest}`.
pub(in crate::http) async fn head_output(
    State(app): State<Arc<App>>,
    Signed(node): Signed,
    Lease(token): Lease,
    At((job, number, digest)): At<(String, String, String)>,
) -> Result<Response, ApiError> {
    let lease = lease(&job, &number, token)?;
    let digest: Digest = id("stored output", &digest)?;
    let ticket = ops::authorize_attempt_output(&app, &node, &lease).await?;
    let size = ops::stat_output(&app, &ticket.tenant, lease.job, lease.attempt, digest).await?;
    let mut response = StatusCode::OK.into_response();
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    Ok(response)
}

/// `PUT /v1/node/attempts/{job}/{n}/outputs/{digest}`.
pub(in crate::http) async fn put_output(
    State(app): State<Arc<App>>,
    Signed(node): Signed,
    Lease(token): Lease,
    At((job, number, digest)): At<(String, String, String)>,
    OriginalUri(uri): OriginalUri,
    request: Request,
) -> Result<Response, ApiError> {
    let lease = lease(&job, &number, token)?;
    let digest: Digest = id("output", &digest)?;
    body::check_encoding(request.headers())?;
    let ticket = ops::authorize_attempt_output(&app, &node, &lease).await?;
    let mut pieces = body::stream(request.into_body());
    let stored = ops::store_output(&app, &lease, digest, ticket.bytes_max, &mut pieces).await;
    if stored.is_err() {
        body::discard(&mut pieces).await;
    }
    Ok(created(&stored?, None, uri.path()))
}

/// `PUT /v1/node/attempts/{job}/{n}/logs/{stream}?offset=N&elapsed_us=T`.
pub(in crate::http) async fn log(
    State(app): State<Arc<App>>,
    At((job, number, stream)): At<(String, String, String)>,
    Lease(token): Lease,
    Query(place): Query<LogPlace>,
    SignedBytes(node, bytes): SignedBytes,
) -> Result<Response, ApiError> {
    let lease = lease(&job, &number, token)?;
    let stream: LogStream = id("log stream", &stream)?;
    ops::append_log(&app, &node, &lease, stream, place.offset, place.elapsed_us, bytes).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
