//! `/v1/blobs`.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::HeaderMap,
    response::Response,
};
use gristmill_protocol::{Digest, limits::BLOB_BYTES_MAX};

use crate::{
    app::App,
    error::ApiError,
    http::{
        body, download,
        extract::{At, User, created, id},
    },
    ops,
};

/// `PUT /v1/blobs/{digest}`.
pub(in crate::http) async fn put(
    State(app): State<Arc<App>>,
    User(principal): User,
    At(digest): At<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let parsed: Digest = digest.parse().map_err(|error: gristmill_protocol::digest::InvalidDigest| {
        ApiError::field("digest", error.to_string())
    })?;
    body::check_encoding(request.headers())?;
    let is_too_large = body::declared_length(request.headers()).is_some_and(|length| length > BLOB_BYTES_MAX);
    let mut pieces = body::stream(request.into_body());
    let stored = if is_too_large {
        Err(body::too_large(BLOB_BYTES_MAX))
    } else {
        ops::put_blob(&app, &principal, parsed, &mut pieces).await
    };
    if stored.is_err() {
        body::discard(&mut pieces).await;
    }
    Ok(created(&stored?, None, &format!("/v1/blobs/{digest}")))
}

/// `GET` and `HEAD /v1/blobs/{digest}`.
pub(in crate::http) async fn get(
    State(app): State<Arc<App>>,
    User(principal): User,
    At(digest): At<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let digest = id("blob", &digest)?;
    let size = ops::stat_blob(&app, &principal, digest).await?;
    download::blob(&app, &headers, digest, size, None).await
}
