//! Resumable uploads as the IETF drafts them (draft-ietf-httpbis-resumable-upload-12).
//!
//! The interim responses 104 are left out: the HTTP library cannot send any but 100. A client that
//! wants to resume the very first request therefore begins with an empty one (`Upload-Complete: ?0`).

use std::{sync::Arc, time::Duration};

use axum::{
    extract::Request,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use gristmill_protocol::{Digest, ErrorCode, module::BlobView};

use super::{
    Caller, SIZE_MAX, append_body, describe_blob, fields, no_store, path, reached, remaining, set, upload_id,
};
use crate::{
    app::App,
    error::ApiError,
    http::{
        body,
        extract::{User, created, json},
    },
    ops::{self, UploadRecord},
    upload_files::PieceChecksum,
};

pub(super) const COMPLETE: &str = "upload-complete";
const OFFSET: &str = "upload-offset";
const LIMIT: &str = "upload-limit";
pub(super) const MEDIA_TYPE: &str = "application/partial-upload";

/// The value of `Upload-Limit`.
pub(super) fn limits(age: Duration) -> String {
    format!("max-size={SIZE_MAX}, max-age={}", age.as_secs())
}

/// A refusal. It says whether the bytes themselves were at fault, so that resuming is of no use.
fn refused(error: ApiError) -> Response {
    let is_over = matches!(error.code, ErrorCode::DigestMismatch);
    let members = error.registered.iter().flat_map(|registered| &registered.members);
    let offset = members.copied().find(|(name, _)| *name == "expected-offset").map(|(_, offset)| offset);
    let is_too_large = error.code == ErrorCode::BodyTooLarge;
    let mut response = error.into_response();
    let headers = response.headers_mut();
    set(headers, COMPLETE, if is_over { "?1" } else { "?0" });
    if let Some(offset) = offset {
        set(headers, OFFSET, &offset.to_string());
    }
    if is_too_large {
        set(headers, LIMIT, &format!("max-size={SIZE_MAX}"));
    }
    response
}

fn answer(result: Result<Response, ApiError>) -> Response {
    result.unwrap_or_else(refused)
}

/// Offset, length, limits and whether it is complete.
fn describe(app: &App, headers: &mut HeaderMap, upload: &UploadRecord) {
    set(headers, COMPLETE, if upload.completed_at.is_some() { "?1" } else { "?0" });
    set(headers, OFFSET, &upload.received.to_string());
    set(headers, LIMIT, &limits(remaining(app, upload)));
    describe_blob(headers, upload);
}

/// The answer that a plain upload of the same bytes would have had.
fn stored(app: &App, upload: &UploadRecord) -> Option<Response> {
    let digest = upload.digest.filter(|_| upload.completed_at.is_some())?;
    let view = BlobView { digest, size: upload.received };
    let mut response = created(&view, None, &format!("/v1/blobs/{digest}"));
    describe(app, response.headers_mut(), upload);
    Some(response)
}

fn piece(headers: &HeaderMap, offset: u64) -> Result<ops::Piece, ApiError> {
    Ok(ops::Piece {
        offset,
        size: body::declared_length(headers),
        is_last: fields::switch(headers, COMPLETE)?,
        length: fields::number_opt(headers, "upload-length")?,
        checksum: fields::sha256(headers, "content-digest")?.map(|sum| PieceChecksum::Sha256(sum.into())),
    })
}

/// `POST /v1/uploads`.
pub(super) async fn create(app: &Arc<App>, caller: Caller, request: Request) -> Response {
    let work = async {
        let User(principal) = caller?;
        let piece = piece(request.headers(), 0)?;
        let declared = fields::sha256(request.headers(), "repr-digest")?.map(Digest::from_bytes);
        let length = piece.length.or(piece.size.filter(|_| piece.is_last));
        let new = ops::NewUpload { length, declared, metadata: None };
        let mut upload = ops::create_upload(app, &principal, new).await?;
        let id = upload.id;
        if upload.completed_at.is_none() && (piece.is_last || piece.size != Some(0)) {
            upload = append_body(app, principal, id, piece, request).await?;
        }
        Ok(stored(app, &upload).unwrap_or_else(|| {
            let mut response = StatusCode::CREATED.into_response();
            set(response.headers_mut(), "location", &path(id));
            describe(app, response.headers_mut(), &upload);
            response
        }))
    };
    answer(work.await)
}

/// `PATCH /v1/uploads/{id}`.
pub(super) async fn append(app: &Arc<App>, caller: Caller, upload: &str, request: Request) -> Response {
    let work = async {
        let User(principal) = caller?;
        let headers = request.headers();
        if fields::media_type(headers).as_deref() != Some(MEDIA_TYPE) {
            let error =
                ApiError::new(ErrorCode::UnsupportedMediaType, "the body must be a piece of an upload");
            return Err(error.with_hint(format!("send the header Content-Type: {MEDIA_TYPE}")));
        }
        let piece = piece(headers, fields::number_of(headers, OFFSET)?)?;
        let upload = append_body(app, principal, upload_id(upload)?, piece, request).await?;
        Ok(stored(app, &upload).unwrap_or_else(|| {
            let mut response = StatusCode::NO_CONTENT.into_response();
            describe(app, response.headers_mut(), &upload);
            response
        }))
    };
    answer(work.await)
}

fn shown(app: &App, mut response: Response, upload: &UploadRecord) -> Response {
    let headers = response.headers_mut();
    describe(app, headers, upload);
    if let Some(length) = upload.length {
        set(headers, "upload-length", &length.to_string());
    }
    no_store(headers);
    response
}

/// `HEAD /v1/uploads/{id}`.
pub(super) async fn head(app: &Arc<App>, caller: Caller, upload: &str) -> Response {
    let work = async {
        let User(principal) = caller?;
        let upload = reached(app, principal, upload_id(upload)?).await?;
        Ok(shown(app, StatusCode::NO_CONTENT.into_response(), &upload))
    };
    answer(work.await)
}

/// `GET /v1/uploads/{id}`.
pub(super) async fn get(app: &Arc<App>, caller: Caller, upload: &str) -> Response {
    let work = async {
        let User(principal) = caller?;
        let upload = reached(app, principal, upload_id(upload)?).await?;
        let document = json(&ops::upload_view(&upload), None);
        Ok(shown(app, document, &upload))
    };
    answer(work.await)
}
