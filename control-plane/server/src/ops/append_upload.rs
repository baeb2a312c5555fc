//! Append a piece to an upload.

use std::io;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use gristmill_protocol::{ErrorCode, UploadId, limits::BLOB_BYTES_MAX};

use super::{
    create_upload::{check_length, done, expiry, gone, room},
    delete_upload::discard_upload,
    finish_upload::{finish_upload, lost},
    get_upload::visible_upload,
};
use crate::{
    app::App,
    blob::BlobError,
    error::ApiError,
    principal::Principal,
    store::{
        StoreError,
        upload::{UploadRecord, UploadStep},
    },
    upload_desk::UploadTurn,
    upload_files::{PieceChecksum, UploadWriter},
};

/// Bytes between two moments at which what has come is made durable and claimed.
const CLAIM_BYTES: u64 = 16 << 20;
/// The registered type of `upload_offset_mismatch`.
pub const OFFSET_PROBLEM: &str = "https://iana.org/assignments/http-problem-types#mismatching-upload-offset";
/// The registered type of `upload_length_mismatch`.
pub const LENGTH_PROBLEM: &str = "https://iana.org/assignments/http-problem-types#inconsistent-upload-length";

/// A piece of an upload, apart from its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins; it must be where the upload ends.
    pub offset: u64,
    /// How many bytes it declares to have.
    pub size: Option<u64>,
    /// Whether it is the last one.
    pub is_last: bool,
    /// Bytes of the whole upload, if the sender says so.
    pub length: Option<u64>,
    /// What its bytes must have; nothing of it is kept otherwise.
    pub checksum: Option<PieceChecksum>,
}

/// Appends a piece, and turns the upload into a blob once all its bytes have come: the piece says
/// that it is the last one, or the length is reached. Whoever appends to the same upload is cut off
/// first. What has come is kept when the sender goes away, at the latest every 16 MiB also when
/// this future is dropped; the offset only ever counts durable bytes.
///
/// Fails with `upload_offset_mismatch` (its members say the right offset), `upload_length_mismatch`,
/// `checksum_mismatch`, `digest_mismatch`, `upload_limit`, `conflict` when another piece took over.
/// An upload that gets more bytes than its length is thrown away.
pub async fn append_upload(
    app: &App,
    who: &Principal,
    id: UploadId,
    piece: &Piece,
    body: &mut (impl Stream<Item = io::Result<Bytes>> + Send + Unpin),
) -> Result<UploadRecord, ApiError> {
    visible_upload(app, who, id).await?;
    let mut turn = app.uploads.take(id).await;
    let upload = visible_upload(app, who, id).await?;
    if piece.offset != upload.received {
        return Err(wrong_offset(piece.offset, upload.received));
    }
    let length = length_after(&upload, piece)?;
    if upload.digest.is_some() {
        return if piece.size.is_none_or(|size| size == 0) {
            // The answer to the last piece got lost; here it is again.
            finish_upload(app, who, &mut turn, upload).await
        } else {
            Err(overlong(upload.received))
        };
    }
    if length.is_some_and(|length| piece.size.is_some_and(|size| piece.offset.saturating_add(size) > length))
    {
        return Err(overlong(length.unwrap_or_default()));
    }
    let upload = match length.filter(|_| upload.length.is_none()) {
        Some(length) => claim(app, &upload, upload.received, Some(length)).await?,
        None => upload,
    };
    let upload = receive(app, who, &mut turn, upload, piece, body).await?;
    if upload.length == Some(upload.received) || (piece.is_last && upload.length.is_none()) {
        return finish_upload(app, who, &mut turn, upload).await;
    }
    if piece.is_last {
        return Err(wrong_length(upload.length.unwrap_or_default(), upload.received));
    }
    Ok(upload)
}

fn wrong_offset(provided: u64, expected: u64) -> ApiError {
    let detail = format!("the piece begins at {provided}, but the upload ends at {expected}");
    ApiError::new(ErrorCode::UploadOffsetMismatch, detail)
        .with_hint(format!("send the bytes from {expected} on"))
        .registered(OFFSET_PROBLEM, vec![("expected-offset", expected), ("provided-offset", provided)])
}

fn wrong_length(known: u64, said: u64) -> ApiError {
    let detail = format!("the upload has {known} bytes, but this request makes it {said}");
    ApiError::new(ErrorCode::UploadLengthMismatch, detail)
        .with_hint("a length, once given, stays; begin a new upload for other bytes")
        .registered(LENGTH_PROBLEM, Vec::new())
}

fn overlong(length: u64) -> ApiError {
    ApiError::new(ErrorCode::BodyTooLarge, format!("the piece goes beyond the {length} bytes of the upload"))
        .with_hint("a length, once given, stays; begin a new upload for other bytes")
}

/// The upload's length once this piece has come, as far as it is known; fails when there are two.
fn length_after(upload: &UploadRecord, piece: &Piece) -> Result<Option<u64>, ApiError> {
    let by_size = piece.size.filter(|_| piece.is_last);
    let by_size = by_size.map(|size| {
        piece.offset.checked_add(size).ok_or_else(|| overlong(upload.length.unwrap_or(BLOB_BYTES_MAX)))
    });
    let said = [upload.length, piece.length, by_size.transpose()?];
    let mut said = said.into_iter().flatten();
    let first = said.next();
    if let Some(other) = said.find(|other| Some(*other) != first) {
        return Err(wrong_length(first.unwrap_or_default(), other));
    }
    check_length(first)?;
    match first {
        Some(length) if length < upload.received => Err(wrong_length(length, upload.received)),
        length => Ok(length),
    }
}

/// Writes down that bytes are durable, and the length if it became known.
async fn claim(
    app: &App,
    upload: &UploadRecord,
    to: u64,
    length: Option<u64>,
) -> Result<UploadRecord, ApiError> {
    let step = UploadStep {
        id: upload.id,
        from: upload.received,
        to,
        length,
        expires_at: expiry(app, upload.created_at).max(upload.expires_at),
    };
    done(app.store.upload_advance(step, room(app)).await?)
}

/// Why no more bytes of a piece are taken.
enum End {
    Whole,
    Cut(io::Error),
    Wanted,
    Stopping,
    Overlong,
}

async fn receive(
    app: &App,
    who: &Principal,
    turn: &mut UploadTurn,
    mut upload: UploadRecord,
    piece: &Piece,
    body: &mut (impl Stream<Item = io::Result<Bytes>> + Send + Unpin),
) -> Result<UploadRecord, ApiError> {
    let checksum = piece.checksum.as_ref();
    let opened = app.blobs.uploads().write_from(upload.id, upload.received, turn.take_hash(), checksum).await;
    let Some(mut writer) = opened.map_err(BlobError::Staging)? else {
        discard_upload(app, who, upload.id).await?;
        return Err(lost());
    };
    let most = upload.length.unwrap_or(BLOB_BYTES_MAX);
    let end = loop {
        let next = tokio::select! {
            biased;
            () = turn.wanted.cancelled() => break End::Wanted,
            () = app.shutdown.cancelled() => break End::Stopping,
            next = body.next() => next,
        };
        match next {
            None => break End::Whole,
            Some(Err(error)) => break End::Cut(error),
            Some(Ok(bytes)) if bytes.len() as u64 > most - writer.end() => break End::Overlong,
            Some(Ok(bytes)) => writer.push(&bytes).await.map_err(BlobError::Staging)?,
        }
        // A piece with a checksum is kept whole or not at all.
        if checksum.is_none() && writer.end() - upload.received >= CLAIM_BYTES {
            upload = sync_and_claim(app, &upload, &mut writer).await?;
        }
    };
    if matches!(end, End::Overlong) {
        drop(writer);
        discard_upload(app, who, upload.id).await?;
        return Err(overlong(most));
    }
    if checksum.is_none() || matches!(end, End::Whole) {
        writer.sync().await.map_err(BlobError::Staging)?;
        if checksum.is_some_and(|checksum| !writer.has(checksum)) {
            return Err(ApiError::new(ErrorCode::ChecksumMismatch, "the piece does not have its checksum")
                .with_hint("nothing of it was kept; send it again"));
        }
        upload = sync_and_claim(app, &upload, &mut writer).await?;
        turn.leave_hash(writer.into_hash());
    }
    match end {
        End::Whole | End::Overlong => Ok(upload),
        End::Cut(error) => Err(BlobError::Body(error.into()).into()),
        End::Stopping => Err(StoreError::Closed.into()),
        End::Wanted => Err(ApiError::new(
            ErrorCode::Conflict,
            "another request on this upload came while this piece was under way",
        )
        .with_hint("one request at a time; ask for the offset and go on from there")),
    }
}

async fn sync_and_claim(
    app: &App,
    upload: &UploadRecord,
    writer: &mut UploadWriter,
) -> Result<UploadRecord, ApiError> {
    if writer.end() == upload.received {
        return Ok(upload.clone());
    }
    writer.sync().await.map_err(BlobError::Staging)?;
    match claim(app, upload, writer.end(), None).await {
        Err(error) if error.code == ErrorCode::NotFound => Err(gone()),
        claimed => claimed,
    }
}
