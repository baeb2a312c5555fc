//! Run many finished jobs again.

use gristmill_lifecycle::{command::SubmitJob, record::JobRecord};
use gristmill_protocol::{JobId, bulk::BulkSelection, tenancy::Scope};

use super::{
    retry_job::retry_command,
    select_jobs::choose,
    submit_job::{Known, refusal, replied},
    submit_jobs::{SubmitOutcome, commit},
};
use crate::{app::App, error::ApiError, principal::Principal, store::job::JobOnly};

/// Jobs of one commit; each comes with its document.
const JOBS_AT_A_TIME: u32 = 250;

/// What became of the chosen jobs.
#[derive(Debug)]
pub struct Retried {
    /// Each former job, and the new one or why there is none.
    pub outcomes: Vec<(JobId, SubmitOutcome)>,
    /// Where to go on, when more jobs match than one call takes.
    pub next_page_token: Option<String>,
}

/// Submits the chosen jobs that have ended again, newest first, each as a single retry would, some
/// hundred in one commit. Needs the scope `submit`. Durable when it returns. With the same key and
/// selection again, the new jobs of the first time are the answer again.
pub async fn retry_jobs(
    app: &App,
    who: &Principal,
    selection: BulkSelection,
    key: Option<String>,
) -> Result<Retried, ApiError> {
    who.require(Scope::Submit)?;
    let mut choice = choose(app, who, selection, JobOnly::Ended)?;
    let mut known = Known::default();
    let mut outcomes = Vec::new();
    while let Some(query) = choice.next_query(JOBS_AT_A_TIME) {
        let formers = app.store.job_list(query).await?;
        let Some(last) = formers.last() else { break };
        choice.pass(formers.len(), Some(last.seq));
        let (mut places, mut commands) = (Vec::new(), Vec::new());
        for former in formers {
            let id = former.id;
            let outcome = match command(app, who, former, key.as_deref(), &mut known).await {
                Ok(command) => {
                    places.push(outcomes.len());
                    let job = command.id;
                    commands.push(command);
                    Ok((job, true))
                }
                Err(error) if error.code.status() >= 500 => return Err(error),
                Err(error) => Err(error),
            };
            outcomes.push((id, outcome));
        }
        for (place, reply) in places.into_iter().zip(commit(app, who, commands).await?) {
            outcomes[place].1 = replied(&reply).ok_or_else(|| refusal(&reply));
        }
    }
    let next_page_token = choice.rest(app).await?;
    Ok(Retried { outcomes, next_page_token })
}

async fn command(
    app: &App,
    who: &Principal,
    former: JobRecord,
    key: Option<&str>,
    known: &mut Known,
) -> Result<SubmitJob, ApiError> {
    // A key of the call stands for one key for each job.
    let key = key.map(|key| format!("{key} {}", former.id));
    retry_command(app, who, former, key, known).await
}
