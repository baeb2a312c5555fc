//! List the attempts of a job.

use gristmill_protocol::{AttemptView, JobId, tenancy::Scope};

use crate::{
    app::App,
    document::{attempt_view, visible_job},
    error::ApiError,
    principal::Principal,
};

/// All attempts of a job, by number. Needs the scope `read`.
pub async fn list_attempts(app: &App, who: &Principal, id: JobId) -> Result<Vec<AttemptView>, ApiError> {
    who.require(Scope::Read)?;
    visible_job(app, who, id).await?;
    Ok(app.store.attempt_list(id).await?.into_iter().map(|attempt| attempt_view(app, attempt)).collect())
}
