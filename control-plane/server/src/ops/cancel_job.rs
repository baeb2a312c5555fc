//! Cancel a job.

use gristmill_lifecycle::command::{CancelJob, CancelReply};
use gristmill_protocol::{JobId, JobView, audit::AuditOperation, tenancy::Scope};

use crate::{
    app::App,
    document::{job_view, visible_job},
    error::ApiError,
    principal::Principal,
};

/// Cancels a job. Needs the scope `submit`. Durable when it returns: from then on the job cannot
/// succeed. A job that waits is cancelled at once; a running one stays `running` with
/// `cancel_requested_at` until its guest is known to have stopped. A job that has ended is shown as
/// it ended. `precondition_failed` when `if_version` is given and is not the present one.
pub async fn cancel_job(
    app: &App,
    who: &Principal,
    id: JobId,
    if_version: Option<u64>,
) -> Result<JobView, ApiError> {
    who.require(Scope::Submit)?;
    let before = visible_job(app, who, id).await?;
    let note = who.note(AuditOperation::JobCancel, id).found(Some(before.version));
    match app
        .store
        .audited(note)
        .job_cancel(CancelJob { id, actor: who.token.to_string(), if_version })
        .await?
    {
        CancelReply::Job(mut job) => {
            job.document = job.document.take().or(before.document);
            job_view(app, *job)
        }
        CancelReply::Stale(version) => Err(ApiError::stale("job", version)),
        CancelReply::NotFound => Err(ApiError::not_found("job")),
    }
}
