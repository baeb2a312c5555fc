//! Show what a job made.

use gristmill_protocol::{
    ErrorCode, JobId, JobState, Timestamp,
    job::{OutputEntry, OutputsView},
    tenancy::Scope,
};

use crate::{app::App, document::visible_job, error::ApiError, principal::Principal};

/// All outputs of a job, by path: none unless it succeeded, then all. Needs the scope `read`.
pub async fn list_outputs(app: &App, who: &Principal, id: JobId) -> Result<OutputsView, ApiError> {
    who.require(Scope::Read)?;
    visible_job(app, who, id).await?;
    Ok(OutputsView { outputs: app.store.output_list(id).await? })
}

/// All outputs of a job that succeeded, by path, and when it did. Fails with `conflict` when it has not
/// succeeded: an archive without files would look like a result. Needs the scope `read`.
pub async fn all_outputs(
    app: &App,
    who: &Principal,
    id: JobId,
) -> Result<(Vec<OutputEntry>, Timestamp), ApiError> {
    who.require(Scope::Read)?;
    let job = visible_job(app, who, id).await?;
    match job.finished_at.filter(|_| job.phase.state() == JobState::Succeeded) {
        Some(finished_at) => Ok((app.store.output_list(id).await?, finished_at)),
        None => Err(ApiError::new(
            ErrorCode::Conflict,
            format!("the job is {}; only one that succeeded has outputs", job.phase.state()),
        )
        .with_hint("wait for its end: GET /v1/jobs/{id}?wait=30s")),
    }
}

/// One output of a job by its path below `/out`. Needs the scope `read`.
pub async fn open_output(app: &App, who: &Principal, id: JobId, path: &str) -> Result<OutputEntry, ApiError> {
    who.require(Scope::Read)?;
    visible_job(app, who, id).await?;
    app.store.output_get(id, path).await?.ok_or_else(|| ApiError::not_found("output"))
}
