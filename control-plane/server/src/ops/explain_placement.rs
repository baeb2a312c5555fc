//! Say why a job can or cannot run, before and after submit.

use gristmill_lifecycle::{
    job::JobPhase,
    record::{AttemptRecord, JobRecord},
};
use gristmill_protocol::{
    JobId, JobSpec,
    tenancy::Scope,
    zone::{PlacementView, Runnable},
};

use super::submit_job::{Known, prepare};
use crate::{
    app::App, document::visible_job, error::ApiError, placement::explain_class, principal::Principal,
};

/// Checks a spec as a submit would and explains for every zone and node whether it could run there.
/// Nothing is queued. Needs the scope `submit`.
pub async fn validate_job(app: &App, who: &Principal, spec: JobSpec) -> Result<PlacementView, ApiError> {
    who.require(Scope::Submit)?;
    let prepared = prepare(app, who, spec, &mut Known::default()).await?;
    explain_class(app, who, &prepared.class).await
}

/// Explains for every zone and node whether a job can run there; of a job that runs or has ended it says
/// that first, and where one like it could. Needs the scope `read`.
pub async fn explain_placement(app: &App, who: &Principal, id: JobId) -> Result<PlacementView, ApiError> {
    who.require(Scope::Read)?;
    let job = visible_job(app, who, id).await?;
    let class =
        app.store.class_get(job.class).await?.ok_or_else(|| ApiError::not_found("placement class"))?;
    let mut placement = explain_class(app, who, &class).await?;
    if job.phase.is_terminal() {
        placement.runnable = Runnable::Ended;
        placement.summary = ended(&job);
    } else if let Some(attempt) = app.store.attempt_get(id, job.attempt).await?
        && attempt.phase.is_live()
    {
        placement.runnable = Runnable::Running;
        placement.summary = running(app, &job, &attempt);
    }
    Ok(placement)
}

/// Where a job runs and since when, in a sentence.
fn running(app: &App, job: &JobRecord, attempt: &AttemptRecord) -> String {
    let name = app.registry.with_node(attempt.node, |live| live.record.name.clone());
    let node = name.unwrap_or_else(|| attempt.node.to_string());
    let what = match (job.phase, attempt.started_at) {
        (JobPhase::Stopping(_), _) => "is being stopped",
        (_, Some(_)) => "runs",
        (_, None) => "is being prepared",
    };
    let since = attempt.started_at.unwrap_or(attempt.leased_at).strftime("%Y-%m-%dT%H:%M:%SZ");
    format!("the job {what} on node {node} in zone {}, where it is since {since}", attempt.zone)
}

/// How a job ended, in a sentence.
fn ended(job: &JobRecord) -> String {
    let state = job.phase.state();
    match job.reason {
        Some(reason) => format!("the job has ended: {state} ({reason})"),
        None => format!("the job has ended: {state}"),
    }
}
