//! Cancel many jobs.

use gristmill_lifecycle::command::CancelJobs;
use gristmill_protocol::{
    audit::AuditOperation,
    bulk::{BulkCancelView, BulkSelection},
    tenancy::Scope,
};

use super::select_jobs::choose;
use crate::{app::App, error::ApiError, principal::Principal, store::job::JobOnly};

/// Jobs of one commit: few enough that others do not wait long.
const JOBS_AT_A_TIME: u32 = 1_000;

/// Cancels the chosen jobs that have not ended, newest first, each as a single cancel would, a
/// thousand in one commit. Needs the scope `submit`. Durable when it returns. It may be repeated:
/// what is cancelled is not chosen again.
pub async fn cancel_jobs(
    app: &App,
    who: &Principal,
    selection: BulkSelection,
) -> Result<BulkCancelView, ApiError> {
    who.require(Scope::Submit)?;
    let mut choice = choose(app, who, selection, JobOnly::Cancellable)?;
    let mut view = BulkCancelView::default();
    loop {
        let ids = choice.next_ids(app, JOBS_AT_A_TIME).await?;
        if ids.is_empty() {
            break;
        }
        view.matched += ids.len() as u64;
        let _turn = app.bulk_turn.lock().await;
        let command = CancelJobs { ids, actor: who.token.to_string() };
        let note = who.note(AuditOperation::JobCancel, "jobs");
        view.cancelled += app.store.audited(note).job_cancel_many(command).await?.len() as u64;
    }
    view.next_page_token = choice.rest(app).await?;
    Ok(view)
}
