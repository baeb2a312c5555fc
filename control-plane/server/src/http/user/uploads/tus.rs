//! tus 1.0.0 with the extensions creation, creation-with-upload, creation-defer-length, expiration,
//! termination and checksum.

use std::{future::Future, sync::Arc};

use axum::{
    extract::Request,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use gristmill_protocol::{ErrorCode, Timestamp};

use super::{
    Caller, SIZE_MAX, answer, append_body, describe_blob, fields, no_store, path, reached, set, upload_id,
};
use crate::{
    app::App,
    error::ApiError,
    http::{body, extract::User},
    ops::{self, UploadRecord},
};

const VERSION: &str = "1.0.0";
const RESUMABLE: &str = "tus-resumable";
const EXTENSIONS: &str =
    "creation,creation-with-upload,creation-defer-length,expiration,termination,checksum";
pub(super) const MEDIA_TYPE: &str = "application/offset+octet-stream";

/// Whether the request is one of tus.
pub(super) fn is_spoken(headers: &HeaderMap) -> bool {
    headers.contains_key(RESUMABLE)
}

/// What this server can do.
pub(super) fn offer(headers: &mut HeaderMap) {
    set(headers, RESUMABLE, VERSION);
    set(headers, "tus-version", VERSION);
    set(headers, "tus-extension", EXTENSIONS);
    set(headers, "tus-max-size", &SIZE_MAX.to_string());
    set(headers, "tus-checksum-algorithm", "sha1,sha256");
}

/// Does the work if the request speaks this version, and names the version on the answer.
pub(super) async fn answered(
    work: impl Future<Output = Result<Response, ApiError>>,
    headers: &HeaderMap,
) -> Response {
    let is_understood = fields::text(headers, RESUMABLE) == Some(VERSION);
    let mut response = if is_understood {
        answer(work.await)
    } else {
        let error = ApiError::new(ErrorCode::PreconditionFailed, "this version of tus is not spoken here");
        let mut response = error.with_hint(format!("send Tus-Resumable: {VERSION}")).into_response();
        set(response.headers_mut(), "tus-version", VERSION);
        response
    };
    set(response.headers_mut(), RESUMABLE, VERSION);
    response
}

fn describe(headers: &mut HeaderMap, upload: &UploadRecord) {
    set(headers, "upload-offset", &upload.received.to_string());
    set(headers, "upload-expires", &http_date(upload.expires_at));
    describe_blob(headers, upload);
}

fn http_date(at: Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn has_pieces(headers: &HeaderMap) -> bool {
    fields::media_type(headers).as_deref() == Some(MEDIA_TYPE)
}

fn length(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let length = fields::number_opt(headers, "upload-length")?;
    match (length, fields::text(headers, "upload-defer-length")) {
        (Some(_), None) | (None, Some("1")) => Ok(length),
        _ => Err(ApiError::field("Upload-Length", "send it, or Upload-Defer-Length: 1, and not both")),
    }
}

/// `POST /v1/uploads`.
pub(super) async fn create(app: &Arc<App>, caller: Caller, request: Request) -> Response {
    let headers = request.headers().clone();
    let work = async {
        let User(principal) = caller?;
        let length = length(&headers)?;
        let (metadata, declared) = fields::metadata(&headers)?;
        let checksum = fields::checksum(&headers)?;
        let new = ops::NewUpload { length, declared, metadata };
        let mut upload = ops::create_upload(app, &principal, new).await?;
        let id = upload.id;
        if has_pieces(&headers) && upload.completed_at.is_none() {
            let size = body::declared_length(&headers);
            let piece = ops::Piece { size, checksum, ..ops::Piece::default() };
            upload = append_body(app, principal, id, piece, request).await?;
        }
        let mut response = StatusCode::CREATED.into_response();
        set(response.headers_mut(), "location", &path(id));
        describe(response.headers_mut(), &upload);
        Ok(response)
    };
    answered(work, &headers).await
}

/// `PATCH /v1/uploads/{id}`.
pub(super) async fn append(app: &Arc<App>, caller: Caller, upload: &str, request: Request) -> Response {
    let headers = request.headers().clone();
    let work = async {
        let User(principal) = caller?;
        if !has_pieces(&headers) {
            let error =
                ApiError::new(ErrorCode::UnsupportedMediaType, "the body must be a piece of an upload");
            return Err(error.with_hint(format!("send the header Content-Type: {MEDIA_TYPE}")));
        }
        let piece = ops::Piece {
            offset: fields::number_of(&headers, "upload-offset")?,
            size: body::declared_length(&headers),
            is_last: false,
            length: fields::number_opt(&headers, "upload-length")?,
            checksum: fields::checksum(&headers)?,
        };
        let upload = append_body(app, principal, upload_id(upload)?, piece, request).await?;
        let mut response = StatusCode::NO_CONTENT.into_response();
        describe(response.headers_mut(), &upload);
        Ok(response)
    };
    answered(work, &headers).await
}

/// `HEAD /v1/uploads/{id}`.
pub(super) async fn head(app: &Arc<App>, caller: Caller, upload: &str, headers: &HeaderMap) -> Response {
    let work = async {
        let User(principal) = caller?;
        let upload = reached(app, principal, upload_id(upload)?).await?;
        let mut response = StatusCode::OK.into_response();
        let headers = response.headers_mut();
        describe(headers, &upload);
        match upload.length {
            Some(length) => set(headers, "upload-length", &length.to_string()),
            None => set(headers, "upload-defer-length", "1"),
        }
        if let Some(metadata) = &upload.metadata {
            set(headers, "upload-metadata", metadata);
        }
        headers.remove(header::CONTENT_LENGTH);
        no_store(headers);
        Ok(response)
    };
    answered(work, headers).await
}
