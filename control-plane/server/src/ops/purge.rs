//! Duties of retention: remove events, idempotency keys and entries of the record that are too old. Each works in
//! short transactions with a pause in between, so that nobody waits for it.

use std::{sync::Arc, time::Duration};

use gristmill_protocol::{Timestamp, audit::AuditOperation};

use crate::{
    app::App,
    error::ApiError,
    purged::PurgedKind,
    store::{Store, audit::AuditNote},
};

/// Rows that one transaction removes, or looks at.
pub(super) const ROWS_MAX: u32 = 1_000;
/// Time for others between two transactions.
const PAUSE: Duration = Duration::from_millis(10);

/// Lets others have their turn. False when the server stops.
pub(super) async fn pause(app: &App) -> bool {
    tokio::select! {
        () = tokio::time::sleep(PAUSE) => true,
        () = app.shutdown.cancelled() => false,
    }
}

/// The store for removals that the record tells of, one entry for each transaction that removed
/// something.
pub(super) fn recorded(app: &App, kind: PurgedKind) -> Arc<dyn Store> {
    app.store.audited(AuditNote::of_server(AuditOperation::RetentionPurge, kind.as_str()))
}

/// The time before which things of this age began; none when that is before all times.
pub(super) fn before(app: &App, age: Duration) -> Option<Timestamp> {
    app.clock.now().checked_sub(age).ok()
}

/// Forgets idempotency keys that are older than they are promised to be kept. Returns their number.
pub async fn forget_idempotency_keys(app: &App) -> Result<u64, ApiError> {
    let Some(before) = before(app, app.settings.idempotency_ttl) else { return Ok(0) };
    let store = recorded(app, PurgedKind::IdempotencyKey);
    let mut total = 0;
    loop {
        let removed = store.idempotency_prune(before, ROWS_MAX).await?;
        app.purged.note(PurgedKind::IdempotencyKey, removed);
        total += removed;
        if removed < u64::from(ROWS_MAX) || !pause(app).await {
            return Ok(total);
        }
    }
}

/// Removes events that are too old and whose job was purged. Returns their number.
pub async fn purge_events(app: &App) -> Result<u64, ApiError> {
    let Some(before) = before(app, app.settings.retention.event_ttl) else { return Ok(0) };
    let store = recorded(app, PurgedKind::Event);
    let (mut total, mut after) = (0, 0);
    loop {
        let step = store.event_purge(after, before, ROWS_MAX).await?;
        app.purged.note(PurgedKind::Event, step.removed);
        total += step.removed;
        match step.next {
            Some(next) if pause(app).await => after = next,
            _ => return Ok(total),
        }
    }
}

/// Removes placement classes that no job refers to any more. Returns their number.
pub async fn purge_classes(app: &App) -> Result<u64, ApiError> {
    let mut total = 0;
    loop {
        let removed = app.store.class_purge(ROWS_MAX).await?;
        app.purged.note(PurgedKind::PlacementClass, removed);
        total += removed;
        if removed < u64::from(ROWS_MAX) || !pause(app).await {
            return Ok(total);
        }
    }
}

/// Removes entries of the record of changes that are too old. Returns their number.
pub async fn purge_audit(app: &App) -> Result<u64, ApiError> {
    let Some(before) = before(app, app.settings.retention.audit_ttl) else { return Ok(0) };
    let store = recorded(app, PurgedKind::AuditEntry);
    let mut total = 0;
    loop {
        let removed = store.audit_purge(before, ROWS_MAX).await?;
        app.purged.note(PurgedKind::AuditEntry, removed);
        total += removed;
        if removed < u64::from(ROWS_MAX) || !pause(app).await {
            return Ok(total);
        }
    }
}
