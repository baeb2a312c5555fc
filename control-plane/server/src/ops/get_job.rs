//! Show one job, at once or when it has ended.

use std::time::Duration;

use gristmill_protocol::{JobId, JobView, job::JobTag, tenancy::Scope};

use crate::{
    app::App,
    document::{job_view, visible_job},
    error::ApiError,
    principal::Principal,
    wake::Topic,
};

/// A job as it is now. Needs the scope `read`.
pub async fn get_job(app: &App, who: &Principal, id: JobId) -> Result<JobView, ApiError> {
    who.require(Scope::Read)?;
    job_view(app, visible_job(app, who, id).await?)
}

/// A job as soon as its version or told phase is not `seen`, or as it is when it has ended, the time is
/// over or the server stops. Needs the scope `read`. The database is read once for each change.
pub async fn wait_job_change(
    app: &App,
    who: &Principal,
    id: JobId,
    seen: &JobTag,
    wait: Duration,
) -> Result<JobView, ApiError> {
    who.require(Scope::Read)?;
    let mut changes = app.wakes.listen(Topic::Job(id));
    let deadline = tokio::time::Instant::now() + wait;
    loop {
        let job = visible_job(app, who, id).await?;
        let is_over = job.phase.is_terminal() || app.shutdown.is_cancelled();
        let view = job_view(app, job)?;
        if is_over || JobTag::of(&view) != *seen {
            return Ok(view);
        }
        tokio::select! {
            () = changes.woken() => {}
            () = app.shutdown.cancelled() => {}
            () = tokio::time::sleep_until(deadline) => return Ok(view),
        }
    }
}

/// A job as soon as it has reached its terminal state, or as it is when the time is over or the
/// server stops. Needs the scope `read`. The database is read twice at most.
pub async fn wait_job(app: &App, who: &Principal, id: JobId, wait: Duration) -> Result<JobView, ApiError> {
    who.require(Scope::Read)?;
    let mut end = app.wakes.listen(Topic::JobEnd(id));
    let job = visible_job(app, who, id).await?;
    if job.phase.is_terminal() || wait.is_zero() {
        return job_view(app, job);
    }
    tokio::select! {
        () = end.woken() => {}
        () = tokio::time::sleep(wait) => {}
        () = app.shutdown.cancelled() => {}
    }
    job_view(app, visible_job(app, who, id).await?)
}
