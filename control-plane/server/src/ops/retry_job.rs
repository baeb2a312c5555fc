//! Run a finished job again.

use std::time::Duration;

use gristmill_lifecycle::{command::SubmitJob, record::JobRecord};
use gristmill_protocol::{ErrorCode, JobId, tenancy::Scope};

use super::submit_job::{Known, Submitted, accept, submit_key, tenant_depth};
use crate::{
    app::App,
    document::{JobDocument, visible_job},
    error::ApiError,
    principal::Principal,
};

/// Submits a job that has ended again, as a new job with the same module digest, inputs and limits,
/// for the same tenant. Needs the scope `submit`. The answer is the new job; it is durable. With the
/// same idempotency key, the new job of the first time is the answer again.
pub async fn retry_job(
    app: &App,
    who: &Principal,
    id: JobId,
    key: Option<String>,
) -> Result<Submitted, ApiError> {
    who.require(Scope::Submit)?;
    let former = visible_job(app, who, id).await?;
    let command = retry_command(app, who, former, key, &mut Known::default()).await?;
    accept(app, who, command).await
}

/// The command that runs a job again.
pub(super) async fn retry_command(
    app: &App,
    who: &Principal,
    former: JobRecord,
    key: Option<String>,
    known: &mut Known,
) -> Result<SubmitJob, ApiError> {
    let id = former.id;
    if !former.phase.is_terminal() {
        return Err(ApiError::new(
            ErrorCode::Conflict,
            format!("the job is {} and has not ended", former.phase.state()),
        )
        .with_hint("wait until it has ended, or cancel it first"));
    }
    let text = former.document.ok_or_else(|| ApiError::not_found("job"))?;
    let document = JobDocument::read(&text)?;
    let class =
        app.store.class_get(former.class).await?.ok_or_else(|| ApiError::not_found("placement class"))?;
    known.check_runnable(app, who, &class).await?;
    Ok(SubmitJob {
        id: JobId::from_parts(app.unix_ms(), app.entropy.bytes()),
        tenant: former.tenant.clone(),
        actor: who.token.to_string(),
        key: submit_key(key, format!("retry {id}").as_bytes())?,
        class,
        priority: former.priority,
        retries: former.retries,
        retry_on: former.retry_on,
        queue_timeout: document.spec.queue_timeout_ms.map(Duration::from_millis),
        deadline: document.spec.deadline_ms.map(Duration::from_millis),
        inputs: document.reads(),
        document: text,
        blobs: Vec::new(),
        queue_depth_tenant_max: tenant_depth(app, &former.tenant).await?,
        retry_of: Some(id),
    })
}
