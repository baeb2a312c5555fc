//! Duties of the sweep: what happens to jobs and leases when time passes. Each looks for what is due,
//! a page at a time, and acts on what is still due when it is its turn.

use gristmill_lifecycle::command::{ExpireLeases, JobDue, SweepJobs};

use crate::{app::App, error::ApiError};

/// What is looked at in one transaction.
const PAGE: u32 = 500;

/// Ends leases that ran out: their jobs are tried again, or end. Returns their number.
pub async fn expire_leases(app: &App) -> Result<u64, ApiError> {
    let mut total = 0;
    loop {
        let attempts = app.store.lease_due(app.clock.now(), PAGE).await?;
        let found = attempts.len();
        let ended = if found == 0 { 0 } else { app.store.lease_expire(ExpireLeases { attempts }).await? };
        total += ended;
        if ended == 0 || found < PAGE as usize {
            return Ok(total);
        }
    }
}

/// Gives every live lease its full time: the server itself was away. Returns their number.
pub async fn extend_leases(app: &App) -> Result<u64, ApiError> {
    Ok(app.store.lease_grace().await?)
}

/// Does what is due for jobs: fails those that waited in the queue longer than they allow, fails or
/// stops those whose deadline passed, or makes those ready whose backoff is over. Returns for how
/// many it was.
pub async fn sweep_jobs(app: &App, due: JobDue) -> Result<u64, ApiError> {
    let mut total = 0;
    loop {
        let jobs = app.store.job_due(due, app.clock.now(), PAGE).await?;
        let found = jobs.len();
        let swept = if found == 0 { 0 } else { app.store.job_sweep(SweepJobs { due, jobs }).await? };
        total += swept;
        if swept == 0 || found < PAGE as usize {
            return Ok(total);
        }
    }
}
