//! Remove blobs that nothing refers to, and bytes that belong to nobody.
//!
//! The row goes first and the bytes after it, under a lock that keeps the same bytes from being stored
//! in between: a crash leaves bytes without a row, never a row without bytes.

use futures_util::{StreamExt, TryStreamExt};
use gristmill_protocol::{Digest, Timestamp};

use super::purge::{before, pause, recorded};
use crate::{
    app::App,
    blob::{BlobLock, StoredLog},
    error::ApiError,
    purged::PurgedKind,
};

/// Blobs that are looked at in one transaction.
const PAGE: usize = 256;

/// Removes blobs that nothing refers to and that were not wanted for the grace. Returns their number.
pub async fn collect_blobs(app: &App) -> Result<u64, ApiError> {
    let Some(before) = before(app, app.settings.retention.blob_grace) else { return Ok(0) };
    let store = recorded(app, PurgedKind::Blob);
    let (mut total, mut after) = (0, None);
    loop {
        let page = app.store.blob_unused(before, after, PAGE as u32).await?;
        // Those that are being stored at this moment are wanted.
        let locks: Vec<_> = page.iter().filter_map(|blob| app.blobs.try_lock(blob.digest)).collect();
        let digests: Vec<Digest> = locks.iter().map(BlobLock::digest).collect();
        let gone = if digests.is_empty() { Vec::new() } else { store.blob_forget(&digests, before).await? };
        for lock in locks {
            if let Some((_, size)) = gone.iter().find(|(digest, _)| *digest == lock.digest()) {
                app.blobs.delete(&lock).await?;
                app.purged.note(PurgedKind::Blob, 1);
                app.purged.note_bytes(*size);
            }
        }
        total += gone.len() as u64;
        after = page.last().copied();
        if page.len() < PAGE || !pause(app).await {
            return Ok(total);
        }
    }
}

/// Removes bytes without a row, and half-written files, that are older than the grace: what crashes
/// and callers that went away have left. Returns the number of files.
pub async fn collect_leftovers(app: &App) -> Result<u64, ApiError> {
    let grace = app.settings.retention.blob_grace;
    let Some(before) = before(app, grace) else { return Ok(0) };
    let mut total = app.blobs.delete_partial(app.clock.now(), grace).await?;
    app.purged.note(PurgedKind::Leftover, total);
    total += leftover_blobs(app, before).await?;
    total += leftover_logs(app, before).await?;
    Ok(total)
}

async fn leftover_blobs(app: &App, before: Timestamp) -> Result<u64, ApiError> {
    let mut removed = 0;
    let mut pages = app.blobs.blobs_before(before).try_chunks(PAGE);
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| ApiError::from(error.1))?;
        let locks: Vec<_> = page.iter().filter_map(|(digest, _)| app.blobs.try_lock(*digest)).collect();
        let digests: Vec<Digest> = locks.iter().map(BlobLock::digest).collect();
        let unknown = app.store.blob_unknown(&digests).await?;
        for lock in locks.into_iter().filter(|lock| unknown.contains(&lock.digest())) {
            app.blobs.delete(&lock).await?;
            let size = page.iter().find(|(digest, _)| *digest == lock.digest()).map_or(0, |(_, size)| *size);
            app.purged.note(PurgedKind::Leftover, 1);
            app.purged.note_bytes(size);
            removed += 1;
        }
        if !pause(app).await {
            break;
        }
    }
    Ok(removed)
}

async fn leftover_logs(app: &App, before: Timestamp) -> Result<u64, ApiError> {
    let mut removed = 0;
    let mut pages = app.blobs.logs_before(before).try_chunks(PAGE);
    while let Some(page) = pages.next().await {
        let page: Vec<StoredLog> = page.map_err(|error| ApiError::from(error.1))?;
        let keys: Vec<_> = page.iter().map(|log| log.key.clone()).collect();
        let unknown = app.store.log_unknown(&keys).await?;
        for log in page.iter().filter(|log| unknown.contains(&log.key)) {
            app.blobs.delete_log(&log.key).await?;
            app.purged.note(PurgedKind::Leftover, 1);
            app.purged.note_bytes(log.size);
            removed += 1;
        }
        if !pause(app).await {
            break;
        }
    }
    Ok(removed)
}
