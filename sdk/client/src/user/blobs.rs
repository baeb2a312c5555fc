//! Bytes by digest: up, streamed and skipped when the server has them; down, checked and resumed.

use std::{
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use gristmill_protocol::{Digest, module::BlobView};
use reqwest::{Method, StatusCode, header};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncSeekExt, AsyncWrite, AsyncWriteExt};

use super::{
    Client, ClientError,
    request::Repeat,
    uploads::{Content, OnSent, RESUMABLE_BYTES_MIN},
};

/// Reads of this size keep both the disk and the hash busy.
const CHUNK_BYTES: usize = 256 << 10;

/// What an upload did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobUpload {
    /// The bytes' digest.
    pub digest: Digest,
    /// The bytes' number.
    pub size: u64,
    /// False when the server had the bytes already and nothing was sent.
    pub sent: bool,
}

/// Digest and size of a file, read in pieces. It blocks; call it where blocking is allowed.
pub fn digest_file(file: &mut std::fs::File) -> std::io::Result<(Digest, u64)> {
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut size = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((Digest::from_bytes(hasher.finalize().into()), size));
        }
        hasher.update(&buffer[..count]);
        size += count as u64;
    }
}

impl Client {
    /// Whether the server has these bytes and this token may name them.
    pub async fn blob_exists(&self, digest: &Digest) -> Result<bool, ClientError> {
        let digest = digest.to_string();
        match self.send(Repeat::Safe, || self.call(Method::HEAD, &["blobs", &digest])).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Uploads `size` bytes that have this digest unless the server has them. `open` makes the stream
    /// of the bytes from an offset on, anew for every try. Many bytes (from 16 MiB on) are resumed
    /// where a connection broke, also over a restart of the server; few are sent again. When it
    /// returns, the bytes are stored durably.
    pub async fn blob_put<S, E>(
        &self,
        digest: Digest,
        size: u64,
        open: impl Fn(u64) -> S,
        told: &OnSent,
    ) -> Result<BlobUpload, ClientError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        if self.blob_exists(&digest).await? {
            return Ok(BlobUpload { digest, size, sent: false });
        }
        if size >= RESUMABLE_BYTES_MIN {
            let stored = self.upload(Content { digest, size }, open, told).await?;
            return Ok(BlobUpload { digest: stored.digest, size: stored.size, sent: true });
        }
        let path = digest.to_string();
        let stored: BlobView = self
            .json(Repeat::Safe, || {
                self.call(Method::PUT, &["blobs", &path])
                    .header(header::CONTENT_TYPE, "application/octet-stream")
                    .header(header::CONTENT_LENGTH, size)
                    .body(reqwest::Body::wrap_stream(told.watch(0, open(0))))
            })
            .await?;
        Ok(BlobUpload { digest: stored.digest, size: stored.size, sent: true })
    }

    /// Uploads a file: it is read once for its digest and, if the server lacks it, once more to be
    /// sent. A file that changes in between is refused by the server.
    pub async fn blob_put_file(&self, path: &Path, told: &OnSent) -> Result<BlobUpload, ClientError> {
        let (digest, size) = digest_path(path.to_owned()).await?;
        let path = path.to_owned();
        self.blob_put(digest, size, move |offset| file_stream(path.clone(), offset), told).await
    }

    /// Uploads bytes held in memory.
    pub async fn blob_put_bytes(&self, bytes: Bytes) -> Result<BlobUpload, ClientError> {
        let digest = Digest::from_bytes(Sha256::digest(&bytes).into());
        let size = bytes.len() as u64;
        let rest = move |offset: u64| {
            let rest = bytes.slice(usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len())..);
            futures_util::stream::once(std::future::ready(Ok::<_, std::io::Error>(rest)))
        };
        self.blob_put(digest, size, rest, &OnSent::nobody()).await
    }

    /// Writes a blob's bytes to `file`, from its present position, and checks their digest. A broken
    /// connection is resumed where it broke. Nothing is synced to disk.
    pub async fn blob_get(&self, digest: &Digest, file: &mut tokio::fs::File) -> Result<u64, ClientError> {
        let name = digest.to_string();
        self.fetch(self.url(&["blobs", &name]), digest, file).await
    }

    /// The body of [`Self::blob_get`] and of downloads of outputs.
    pub(super) async fn fetch(
        &self,
        url: reqwest::Url,
        digest: &Digest,
        file: &mut tokio::fs::File,
    ) -> Result<u64, ClientError> {
        let mut hasher = Sha256::new();
        let size = self.download(url, file, |bytes| hasher.update(bytes)).await?;
        let found = Digest::from_bytes(hasher.finalize().into());
        if found == *digest { Ok(size) } else { Err(ClientError::Corrupted { expected: *digest, found }) }
    }

    /// Writes what is at `url` to the sink and shows it to `seen`. A broken connection is resumed where
    /// it broke, as long as the server still has the same bytes.
    pub(super) async fn download(
        &self,
        url: reqwest::Url,
        sink: &mut (impl AsyncWrite + Unpin),
        mut seen: impl FnMut(&[u8]),
    ) -> Result<u64, ClientError> {
        let cannot_write = |error| ClientError::file("cannot write the download", error);
        let mut offset = 0u64;
        let mut broken = 0;
        let mut etag = None;
        loop {
            let response = self
                .send(Repeat::Safe, || {
                    let mut request = self.call_url(Method::GET, url.clone());
                    if offset > 0 {
                        request = request.header(header::RANGE, format!("bytes={offset}-"));
                        if let Some(etag) = &etag {
                            request = request.header(header::IF_RANGE, etag);
                        }
                    }
                    request
                })
                .await?;
            if offset > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
                return Err(self.unexpected("the server did not resume the download"));
            }
            etag = response.headers().get(header::ETAG).cloned();
            let before = offset;
            let mut body = response.bytes_stream();
            let error = loop {
                match body.next().await {
                    None => break None,
                    Some(Err(error)) => break Some(error),
                    Some(Ok(bytes)) => {
                        seen(&bytes);
                        sink.write_all(&bytes).await.map_err(cannot_write)?;
                        offset += bytes.len() as u64;
                    }
                }
            };
            let Some(error) = error else { break };
            // Only failures without any progress in between count.
            broken = if offset > before { 0 } else { broken + 1 };
            if broken > 0 {
                let wait = self.retry.wait_after(broken, None, rand::random());
                let Some(wait) = wait else { return Err(self.unreachable(&error)) };
                tokio::time::sleep(wait).await;
            }
        }
        sink.flush().await.map_err(cannot_write)?;
        Ok(offset)
    }
}

/// Digest and size of the file at a path, computed where blocking is allowed.
pub(super) async fn digest_path(path: PathBuf) -> Result<(Digest, u64), ClientError> {
    let what = format!("cannot read {}", path.display());
    let work = tokio::task::spawn_blocking(move || digest_file(&mut std::fs::File::open(path)?));
    match work.await {
        Ok(result) => result.map_err(|error| ClientError::file(what, error)),
        Err(_) => Err(ClientError::file(what, std::io::Error::other("reading was interrupted"))),
    }
}

/// The bytes of a file from an offset on, as a stream that opens the file when it is first polled.
pub(super) fn file_stream(
    path: PathBuf,
    offset: u64,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let opening = async move {
        let mut file = tokio::fs::File::open(path).await?;
        file.seek(SeekFrom::Start(offset)).await?;
        Ok(file)
    };
    futures_util::stream::once(opening).flat_map(|opened| match opened {
        Ok(file) => tokio_util::io::ReaderStream::with_capacity(file, CHUNK_BYTES).left_stream(),
        Err(error) => futures_util::stream::once(std::future::ready(Err(error))).right_stream(),
    })
}
