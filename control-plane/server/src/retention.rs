//! Retention: one task that removes what is too old. It is apart from the sweep, which must never
//! wait for it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use gristmill_protocol::Timestamp;
use tokio_util::task::TaskTracker;

use crate::{
    app::App,
    error::ApiError,
    ops::{self, Due},
    store::retention::EndMark,
};

/// Starts the task on the tracker. It ends when the server shuts down.
pub fn start(app: &Arc<App>, tasks: &TaskTracker) {
    tasks.spawn(run(Arc::clone(app)));
}

/// What the task remembers from one round to the next.
#[derive(Debug, Default)]
pub struct Retention {
    /// For each tenant.
    logs_purged_before: BTreeMap<String, EndMark>,
    leftovers_at: Option<Timestamp>,
}

async fn run(app: Arc<App>) {
    let mut retention = Retention::default();
    let mut ticks = tokio::time::interval(app.settings.retention.period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = app.shutdown.cancelled() => return,
        }
        retention.round(&app).await;
    }
}

/// Logs what a duty removed.
fn note(duty: &'static str, result: Result<u64, ApiError>) {
    match result {
        Ok(0) => {}
        Ok(count) => tracing::info!(duty, count, "what is kept no longer was removed"),
        Err(error) => tracing::error!(duty, error = &error as &dyn std::error::Error, "a removal failed"),
    }
}

impl Retention {
    /// Does every duty once: keys before the jobs that they hold, logs and jobs before the blobs and
    /// events that these hold. A duty that fails is logged and does not keep the others from their turn.
    pub async fn round(&mut self, app: &App) {
        note("forget_idempotency_keys", ops::forget_idempotency_keys(app).await);
        match ops::find_due(app).await {
            Ok(tenants) => {
                for due in &tenants {
                    self.purge_ended(app, due).await;
                }
            }
            Err(error) => note("find_due", Err(error)),
        }
        note("purge_classes", ops::purge_classes(app).await);
        note("purge_events", ops::purge_events(app).await);
        note("purge_audit", ops::purge_audit(app).await);
        note("collect_blobs", ops::collect_blobs(app).await);
        let now = app.clock.now();
        let is_due = self
            .leftovers_at
            .is_none_or(|at| now.duration_since(at).unsigned_abs() >= app.settings.retention.leftover_period);
        if is_due {
            self.leftovers_at = Some(now);
            note("collect_leftovers", ops::collect_leftovers(app).await);
            note("remove_lost_uploads", ops::remove_lost_uploads(app).await);
        }
    }
    async fn purge_ended(&mut self, app: &App, due: &Due) {
        let since = self.logs_purged_before.get(&due.tenant).copied();
        let logs = ops::purge_logs(app, due, since).await.map(|(count, before)| {
            self.logs_purged_before.extend(before.map(|before| (due.tenant.clone(), before)));
            count
        });
        note("purge_logs", logs);
        note("purge_jobs", ops::purge_jobs(app, due).await);
    }
}
