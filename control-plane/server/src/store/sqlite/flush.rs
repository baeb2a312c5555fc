//! Writes the changes of a working set: one statement for each kind of change, whatever the number
//! of rows. The order keeps every constraint true in between.

use gristmill_lifecycle::WorkingSet;

use super::{
    attempt::{attempt_insert, attempt_update},
    blob::{blob_own, job_blob_insert},
    class::class_insert,
    event::event_insert,
    idempotency::idempotency_insert,
    job::{job_document_insert, job_insert, job_update},
    log::log_insert,
    output::output_insert,
    session::Session,
};
use crate::store::StoreError;

/// Writes everything that changed. Fails, and must then be rolled back, if any row is not as it was
/// when it was loaded.
pub(super) async fn flush(session: &mut Session, set: &WorkingSet<'_>) -> Result<(), StoreError> {
    class_insert(session, set).await?;
    job_insert(session, set).await?;
    job_document_insert(session, set).await?;
    // An attempt ends before the next one of its job begins, so that never two are live.
    attempt_update(session, set).await?;
    attempt_insert(session, set).await?;
    job_update(session, set).await?;
    output_insert(session, set).await?;
    // Blobs come before what refers to them.
    if !set.blobs.is_empty() {
        let at = set.now().as_microsecond();
        let rows: Vec<_> = set
            .blobs
            .iter()
            .map(|(tenant, digest, size)| {
                serde_json::json!({"tenant": tenant, "digest": digest, "size": size, "at": at})
            })
            .collect();
        blob_own(session.conn(), &super::session::json(&rows)?).await?;
    }
    job_blob_insert(session, set).await?;
    log_insert(session, set).await?;
    idempotency_insert(session, set).await?;
    event_insert(session, set).await
}
