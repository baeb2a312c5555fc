//! Uploads that go on where a broken connection left them (draft-ietf-httpbis-resumable-upload).

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use gristmill_protocol::{Digest, ErrorCode, UploadId, module::BlobView};
use reqwest::{Method, Response, StatusCode, header};

use super::{Client, ClientError, request::Repeat, retry::is_passing};

/// Bytes from this number on go up in a way that can be resumed; for fewer, sending them again costs
/// less than asking.
pub(super) const RESUMABLE_BYTES_MIN: u64 = 16 << 20;

/// How often an upload that the server does not know any more is begun anew.
const RESTARTS_MAX: u32 = 3;
const COMPLETE: &str = "upload-complete";
const OFFSET: &str = "upload-offset";

/// Hears how many of the bytes have been handed to the network. After a broken connection it begins
/// again with those that the server has kept.
#[derive(Clone)]
pub struct OnSent(Arc<dyn Fn(u64) + Send + Sync>);

impl OnSent {
    /// Calls `told` after every piece.
    pub fn new(told: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }

    /// Nobody wants to know.
    pub fn nobody() -> Self {
        Self::new(|_| {})
    }

    /// A stream that begins at `offset` and tells how far it has come.
    pub(super) fn watch<S, E>(
        &self,
        offset: u64,
        stream: S,
    ) -> impl Stream<Item = Result<Bytes, E>> + use<S, E>
    where
        S: Stream<Item = Result<Bytes, E>>,
    {
        let told = self.clone();
        let mut sent = offset;
        stream.inspect(move |piece| {
            if let Ok(bytes) = piece {
                sent += bytes.len() as u64;
                (told.0)(sent);
            }
        })
    }
}

impl std::fmt::Debug for OnSent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnSent(…)")
    }
}

/// How far the server has got.
enum Reached {
    Offset(u64),
    Complete,
}

/// Bytes to be sent.
#[derive(Clone, Copy)]
pub(super) struct Content {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

impl Client {
    /// Uploads bytes in a way that survives lost connections and restarts of the server. `open` makes
    /// the stream of the bytes from an offset on. As long as there is progress it goes on; failures
    /// in a row without any are bounded by the retry policy.
    pub(super) async fn upload<S, E>(
        &self,
        content: Content,
        open: impl Fn(u64) -> S,
        told: &OnSent,
    ) -> Result<BlobView, ClientError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let stored = BlobView { digest: content.digest, size: content.size };
        let mut upload = self.upload_begin(content).await?;
        let (mut offset, mut failures, mut restarts) = (0, 0, 0);
        loop {
            let error = match self.upload_rest(&upload, content, offset, open(offset), told).await {
                Ok(()) => return Ok(stored),
                Err(error) => error,
            };
            if !may_resume(&error) {
                return Err(error);
            }
            failures += 1;
            let Some(wait) = self.retry.wait_after(failures, None, rand::random()) else { return Err(error) };
            tracing::debug!(%error, offset, wait_ms = wait.as_millis() as u64, "the upload is resumed");
            tokio::time::sleep(wait).await;
            match self.upload_reached(&upload).await {
                Ok(Reached::Complete) => return Ok(stored),
                Ok(Reached::Offset(reached)) => {
                    if reached > offset {
                        failures = 0;
                    }
                    offset = reached;
                }
                Err(error) if error.is_not_found() && restarts < RESTARTS_MAX => {
                    restarts += 1;
                    upload = self.upload_begin(content).await?;
                    offset = 0;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// An unfinished upload whose answer got lost expires by itself, so this may be repeated.
    async fn upload_begin(&self, content: Content) -> Result<UploadId, ClientError> {
        let digest = format!("sha-256=:{}:", STANDARD.encode(content.digest.as_bytes()));
        let response = self
            .send(Repeat::Safe, || {
                self.call(Method::POST, &["uploads"])
                    .header(COMPLETE, "?0")
                    .header("upload-length", content.size)
                    .header("repr-digest", &digest)
                    .header(header::CONTENT_LENGTH, 0)
            })
            .await?;
        text(&response, "location")
            .and_then(|location| location.rsplit('/').next()?.parse().ok())
            .ok_or_else(|| self.unexpected("the server began an upload without saying where"))
    }

    async fn upload_rest<S, E>(
        &self,
        upload: &UploadId,
        content: Content,
        offset: u64,
        bytes: S,
        told: &OnSent,
    ) -> Result<(), ClientError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let request = self
            .call(Method::PATCH, &["uploads", &upload.to_string()])
            .header(header::CONTENT_TYPE, "application/partial-upload")
            .header(COMPLETE, "?1")
            .header(OFFSET, offset)
            .header(header::CONTENT_LENGTH, content.size.saturating_sub(offset))
            .body(reqwest::Body::wrap_stream(told.watch(offset, bytes)));
        match request.send().await {
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) => Err(self.refusal(response).await),
            Err(error) => Err(self.unreachable(&error)),
        }
    }

    async fn upload_reached(&self, upload: &UploadId) -> Result<Reached, ClientError> {
        let name = upload.to_string();
        let response = self.send(Repeat::Safe, || self.call(Method::HEAD, &["uploads", &name])).await?;
        if text(&response, COMPLETE) == Some("?1") {
            return Ok(Reached::Complete);
        }
        text(&response, OFFSET)
            .and_then(|offset| offset.parse().ok())
            .map(Reached::Offset)
            .ok_or_else(|| self.unexpected("the server does not say how far the upload has come"))
    }
}

fn text<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

/// Whether asking the server how far it has got, and going on from there, may help.
fn may_resume(error: &ClientError) -> bool {
    match error {
        // A proxy on the way may answer in its own words.
        ClientError::Unreachable { .. } | ClientError::UnexpectedAnswer { .. } => true,
        ClientError::Api { problem, .. } => {
            is_passing(problem.status)
                || problem.status == StatusCode::TOO_MANY_REQUESTS.as_u16()
                || matches!(
                    problem.code,
                    ErrorCode::UploadOffsetMismatch | ErrorCode::Conflict | ErrorCode::NotFound
                )
        }
        _ => false,
    }
}
