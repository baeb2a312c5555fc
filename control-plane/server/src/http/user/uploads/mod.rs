//! `/v1/uploads`: one model of offsets, spoken as tus 1.0.0 and as the IETF's draft
//! (draft-ietf-httpbis-resumable-upload). The header `Tus-Resumable` tells them apart.

pub(super) mod fields;
mod ietf;
mod tus;

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use gristmill_protocol::{ErrorCode, UploadId, limits::BLOB_BYTES_MAX};

use crate::{
    app::App,
    error::ApiError,
    http::{
        body,
        extract::{At, User, id, json},
    },
    ops::{self, UploadRecord},
    principal::Principal,
};

/// Who calls. Both protocols want their own headers on refusals too.
type Caller = Result<User, ApiError>;

fn upload_id(text: &str) -> Result<UploadId, ApiError> {
    id("upload", text)
}

fn path(upload: UploadId) -> String {
    format!("/v1/uploads/{upload}")
}

/// `OPTIONS /v1/uploads`: what both protocols offer, without a token.
pub(in crate::http) async fn options(State(app): State<Arc<App>>) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    tus::offer(response.headers_mut());
    set(response.headers_mut(), "upload-limit", &ietf::limits(app.settings.upload_ttl));
    set(response.headers_mut(), "accept-patch", &format!("{}, {}", ietf::MEDIA_TYPE, tus::MEDIA_TYPE));
    response
}

/// `POST /v1/uploads`: begins an upload, with or without its first bytes.
pub(in crate::http) async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request,
) -> Response {
    if tus::is_spoken(request.headers()) {
        tus::create(&app, caller, request).await
    } else if request.headers().contains_key(ietf::COMPLETE) {
        ietf::create(&app, caller, request).await
    } else {
        ApiError::new(ErrorCode::InvalidRequest, "the request does not say how the upload will go on")
            .with_hint("send Upload-Complete: ?0 (IETF resumable uploads) or Tus-Resumable: 1.0.0 (tus)")
            .into_response()
    }
}

/// `GET /v1/uploads`: the caller's unfinished uploads.
pub(in crate::http) async fn list(
    State(app): State<Arc<App>>,
    User(principal): User,
) -> Result<Response, ApiError> {
    Ok(json(&ops::list_uploads(&app, &principal).await?, None))
}

/// `PATCH /v1/uploads/{id}`: appends a piece.
pub(in crate::http) async fn append(
    State(app): State<Arc<App>>,
    caller: Caller,
    At(upload): At<String>,
    request: Request,
) -> Response {
    if tus::is_spoken(request.headers()) {
        tus::append(&app, caller, &upload, request).await
    } else {
        ietf::append(&app, caller, &upload, request).await
    }
}

/// `HEAD /v1/uploads/{id}`: where the next piece begins.
pub(in crate::http) async fn head(
    State(app): State<Arc<App>>,
    caller: Caller,
    At(upload): At<String>,
    headers: HeaderMap,
) -> Response {
    if tus::is_spoken(&headers) {
        tus::head(&app, caller, &upload, &headers).await
    } else {
        ietf::head(&app, caller, &upload).await
    }
}

/// `GET /v1/uploads/{id}`: the same as a document.
pub(in crate::http) async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    At(upload): At<String>,
) -> Response {
    ietf::get(&app, caller, &upload).await
}

/// `DELETE /v1/uploads/{id}`.
pub(in crate::http) async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    At(upload): At<String>,
    headers: HeaderMap,
) -> Response {
    let work = async {
        let User(principal) = caller?;
        ops::delete_upload(&app, &principal, upload_id(&upload)?).await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    if tus::is_spoken(&headers) { tus::answered(work, &headers).await } else { answer(work.await) }
}

/// `POST /v1/uploads/{id}` with `X-HTTP-Method-Override`, for clients that can send nothing else.
pub(in crate::http) async fn overridden(
    state: State<Arc<App>>,
    caller: Caller,
    at: At<String>,
    request: Request,
) -> Response {
    let method = request.headers().get("x-http-method-override").and_then(|value| value.to_str().ok());
    match method {
        Some("PATCH") => append(state, caller, at, request).await,
        Some("HEAD") => head(state, caller, at, request.headers().clone()).await,
        Some("DELETE") => delete(state, caller, at, request.headers().clone()).await,
        _ => ApiError::new(ErrorCode::MethodNotAllowed, "an upload does not take POST")
            .with_hint("send PATCH, or the header X-HTTP-Method-Override: PATCH")
            .into_response(),
    }
}

fn answer(result: Result<Response, ApiError>) -> Response {
    result.unwrap_or_else(IntoResponse::into_response)
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Appends a request's body. It goes on when the connection breaks, until what has come is durable.
async fn append_body(
    app: &Arc<App>,
    principal: Principal,
    upload: UploadId,
    piece: ops::Piece,
    request: Request,
) -> Result<UploadRecord, ApiError> {
    body::check_encoding(request.headers())?;
    let owned = Arc::clone(app);
    let mut pieces = body::stream(request.into_body());
    let work = async move {
        let done = ops::append_upload(&owned, &principal, upload, &piece, &mut pieces).await;
        if done.as_ref().is_err_and(|error| error.code != ErrorCode::Unavailable) {
            body::discard(&mut pieces).await;
        }
        done
    };
    app.uploads.run(work).await
}

/// How far an upload has come. Turning it into a blob goes on when the connection breaks: the client asks
/// again and finds it done.
async fn reached(app: &Arc<App>, principal: Principal, upload: UploadId) -> Result<UploadRecord, ApiError> {
    let owned = Arc::clone(app);
    app.uploads.run(async move { ops::get_upload(&owned, &principal, upload).await }).await
}

/// The digest of a complete upload, in a form that scripts read and in that of RFC 9530.
fn describe_blob(headers: &mut HeaderMap, upload: &UploadRecord) {
    let Some(digest) = upload.digest.filter(|_| upload.completed_at.is_some()) else { return };
    set(headers, "gristmill-digest", &digest.to_string());
    set(headers, "repr-digest", &format!("sha-256=:{}:", STANDARD.encode(digest.as_bytes())));
}

fn remaining(app: &App, upload: &UploadRecord) -> Duration {
    upload.expires_at.duration_since(app.clock.now()).try_into().unwrap_or_default()
}

fn no_store(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

/// The largest upload, for both protocols to announce.
const SIZE_MAX: u64 = BLOB_BYTES_MAX;
