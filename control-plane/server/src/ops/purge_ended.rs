//! Duties of retention for jobs that have ended: remove those of each tenant that are too old or beyond
//! its ceilings, their logs first.

use std::time::Duration;

use futures_util::future::try_join_all;
use gristmill_lifecycle::retention::Keep;

use super::purge::{ROWS_MAX, before, pause, recorded};
use crate::{app::App, error::ApiError, purged::PurgedKind, store::retention::EndMark};

/// Logs that are shortened in one transaction.
const LOGS_AT_ONCE: u32 = 8;

/// What of one tenant may go now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The tenant.
    pub tenant: String,
    /// The logs of jobs that ended before; at least of those that go themselves.
    pub logs: Option<EndMark>,
    /// The jobs that ended before.
    pub jobs: Option<EndMark>,
}

/// Finds for every tenant what may go now.
pub async fn find_due(app: &App) -> Result<Vec<Due>, ApiError> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = app.store.tenant_list(after, ROWS_MAX).await?;
        let is_last = page.len() < ROWS_MAX as usize;
        after = page.last().map(|tenant| tenant.name.clone());
        for tenant in page {
            let keep = Keep::of(&app.settings.retention, &tenant.retention);
            let aged = |ttl: Duration| before(app, ttl).map(EndMark::of_time);
            let jobs = aged(keep.job_ttl).max(ceiling(app, &tenant.name, &keep).await?);
            let logs = aged(keep.log_ttl).max(jobs);
            found.push(Due { tenant: tenant.name, logs, jobs });
        }
        if is_last {
            return Ok(found);
        }
    }
}

/// Behind the newest job for which a tenant's ceilings leave no room; none when all have room.
async fn ceiling(app: &App, tenant: &str, keep: &Keep) -> Result<Option<EndMark>, ApiError> {
    let Some(mut room) = keep.room() else { return Ok(None) };
    let mut older_than = None;
    loop {
        let page = app.store.ended_jobs(tenant, older_than, ROWS_MAX).await?;
        if let Some(job) = page.iter().find(|job| !room.take(job.bytes)) {
            return Ok(Some(job.mark.behind()));
        }
        older_than = page.last().map(|job| job.mark);
        if page.len() < ROWS_MAX as usize || !pause(app).await {
            return Ok(None);
        }
    }
}

/// Removes the logs of a tenant that are due; of jobs that ended before `since`, which an earlier round
/// has seen to, no log is looked for. Returns the number of pieces and what the next round may give as
/// `since`.
pub async fn purge_logs(
    app: &App,
    due: &Due,
    since: Option<EndMark>,
) -> Result<(u64, Option<EndMark>), ApiError> {
    let Some(before) = due.logs else { return Ok((0, since)) };
    let first = recorded(app, PurgedKind::LogPiece);
    let mut total = 0;
    loop {
        let jobs = app.store.logged_jobs(&due.tenant, since, before, LOGS_AT_ONCE).await?;
        if jobs.is_empty() {
            return Ok((total, Some(before)));
        }
        // One entry for all logs of a page, in the transaction of one of them.
        let stores = std::iter::once(&first).chain(std::iter::repeat(&app.store));
        let steps =
            jobs.iter().zip(stores).map(|(job, store)| store.log_purge(*job, ROWS_MAX / LOGS_AT_ONCE));
        for (pieces, keys) in try_join_all(steps).await? {
            app.purged.note(PurgedKind::LogPiece, pieces);
            total += pieces;
            // The rows are gone: what a crash leaves of the bytes here belongs to nobody.
            for key in keys {
                app.blobs.delete_log(&key).await?;
            }
        }
        if !pause(app).await {
            return Ok((total, since));
        }
    }
}

/// Removes the jobs of a tenant that are due, with everything that hangs on them. Returns their number.
pub async fn purge_jobs(app: &App, due: &Due) -> Result<u64, ApiError> {
    let Some(before) = due.jobs else { return Ok(0) };
    let store = recorded(app, PurgedKind::Job);
    let mut total = 0;
    loop {
        let removed = store.job_purge(&due.tenant, before, app.clock.now(), ROWS_MAX).await?;
        app.purged.note(PurgedKind::Job, removed);
        total += removed;
        if removed == 0 || !pause(app).await {
            return Ok(total);
        }
    }
}
