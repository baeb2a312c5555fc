//! Request bodies: bounded, and given up when they come too slowly.

use std::{io, time::Duration};

use axum::body::{Body, HttpBody as _};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use gristmill_protocol::ErrorCode;
use http::{HeaderMap, header};

use crate::{
    error::ApiError,
    pace::{Pace, PaceRule},
};

/// Bytes of a refused body that are read and thrown away, so that the sender gets the answer.
const DISCARD_BYTES_MAX: u64 = 16 << 20;
const DISCARD_TIME_MAX: Duration = Duration::from_secs(5);

/// A body that fails when its sender is slower than the rule asks for.
pub(super) fn paced(body: Body, rule: PaceRule) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let start = (body.into_data_stream(), Pace::new(rule));
    Body::from_stream(futures_util::stream::try_unfold(start, |(mut pieces, mut pace)| async move {
        loop {
            let begun = tokio::time::Instant::now();
            let piece = tokio::time::timeout(pace.patience(), pieces.next()).await;
            let bytes = match &piece {
                Ok(Some(Ok(piece))) => piece.len(),
                _ => 0,
            };
            let noted = pace.note(begun.elapsed(), bytes);
            match piece {
                Err(_) => noted.map_err(|slow| io::Error::new(io::ErrorKind::TimedOut, slow))?,
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(io::Error::other(error)),
                Ok(Some(Ok(piece))) => {
                    noted.map_err(|slow| io::Error::new(io::ErrorKind::TimedOut, slow))?;
                    return Ok(Some((piece, (pieces, pace))));
                }
            }
        }
    }))
}

/// The body as a stream.
pub(super) fn stream(body: Body) -> impl Stream<Item = Result<Bytes, io::Error>> + Send + Unpin {
    body.into_data_stream().map(|piece| piece.map_err(io::Error::other))
}

/// The length that the sender declares, if it does.
pub(super) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a body whole. Fails with `body_too_large` beyond `max_bytes`.
pub(super) async fn read(headers: &HeaderMap, body: Body, max_bytes: usize) -> Result<Bytes, ApiError> {
    check_encoding(headers)?;
    let mut pieces = stream(body);
    let mut whole = BytesMut::new();
    let mut is_too_large = declared_length(headers).is_some_and(|length| length > max_bytes as u64);
    while !is_too_large && let Some(piece) = pieces.next().await {
        let piece = piece.map_err(cut_short)?;
        is_too_large = whole.len() + piece.len() > max_bytes;
        if !is_too_large {
            whole.extend_from_slice(&piece);
        }
    }
    if is_too_large {
        discard(&mut pieces).await;
        return Err(too_large(max_bytes as u64));
    }
    Ok(whole.freeze())
}

/// `invalid_request`: the body did not come whole.
pub(super) fn cut_short(source: io::Error) -> ApiError {
    let mut error = ApiError::new(ErrorCode::InvalidRequest, "the body ended early or came too slowly")
        .with_hint("send the whole body again, without long pauses");
    error.source = Some(source.into());
    error
}

/// `body_too_large`, naming the limit.
pub(super) fn too_large(max_bytes: u64) -> ApiError {
    ApiError::new(ErrorCode::BodyTooLarge, format!("the body is larger than {max_bytes} bytes"))
        .with_hint("upload large data as blobs and name them by digest")
}

/// Reads on for a while and throws away what comes: a connection that is closed with unread bytes
/// loses the answer on its way.
pub(super) async fn discard(pieces: &mut (impl Stream<Item = Result<Bytes, io::Error>> + Unpin)) {
    let reading = async {
        let mut left = DISCARD_BYTES_MAX;
        while let Some(Ok(piece)) = pieces.next().await {
            left = left.saturating_sub(piece.len() as u64);
            if left == 0 {
                return;
            }
        }
    };
    // A sender who is still sending after this gets its connection closed.
    let _ = tokio::time::timeout(DISCARD_TIME_MAX, reading).await;
}

/// Refuses compressed bodies: a small one could stand for a huge one.
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            Err(ApiError::new(ErrorCode::UnsupportedMediaType, "compressed bodies are not taken")
                .with_hint("send the body without Content-Encoding"))
        }
        _ => Ok(()),
    }
}
