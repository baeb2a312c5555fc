//! Choose the jobs of a bulk cancel or retry.

use gristmill_protocol::{
    ErrorCode, JobId,
    bulk::{BulkCountView, BulkSelection},
    job::JobFilter,
    tenancy::Scope,
};

use super::list_jobs::job_query;
use crate::{
    app::App,
    error::ApiError,
    paging::page_token,
    principal::Principal,
    store::job::{JobOnly, JobQuery},
};

/// Jobs of one call when the caller does not say.
const JOBS_DEFAULT: u32 = 1_000;

/// Jobs that were chosen, page by page, newest first.
#[derive(Debug)]
pub(super) struct Choice {
    query: JobQuery,
    left: u32,
}

/// Number of jobs that a bulk call on these jobs would be about, over all pages. Needs the scope `submit`.
pub async fn count_jobs(
    app: &App,
    who: &Principal,
    selection: BulkSelection,
    only: JobOnly,
) -> Result<BulkCountView, ApiError> {
    who.require(Scope::Submit)?;
    let query = choose(app, who, selection, only)?.query;
    Ok(BulkCountView { matched: app.store.job_count(query).await? })
}

/// Reads a selection; it chooses only jobs that the caller may see and to which the call can do
/// something.
pub(super) fn choose(
    app: &App,
    who: &Principal,
    selection: BulkSelection,
    only: JobOnly,
) -> Result<Choice, ApiError> {
    let max = app.settings.bulk_jobs_max;
    let BulkSelection { jobs, filter, all } = selection;
    let filter = match (&jobs, filter) {
        (Some(_), Some(_)) => return Err(one_of_three()),
        (Some(_), None) if all => return Err(one_of_three()),
        (Some(ids), None) if ids.len() > max as usize => {
            return Err(ApiError::field("/jobs", format!("must be at most {max} jobs")));
        }
        (Some(_), None) => JobFilter::default(),
        (None, filter) => {
            let filter = filter.unwrap_or_default();
            if !all && !has_condition(&filter) {
                return Err(one_of_three());
            }
            filter
        }
    };
    let left = match filter.page_size {
        None if jobs.is_some() => max,
        None => JOBS_DEFAULT.min(max),
        Some(size) if (1..=max).contains(&size) => size,
        Some(_) => return Err(ApiError::field("/filter/page_size", format!("must be from 1 to {max}"))),
    };
    let mut query = job_query(who, filter)?;
    query.ids = jobs;
    query.only = Some(only);
    Ok(Choice { query, left })
}

fn one_of_three() -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, "the body does not choose jobs in exactly one way")
        .with_hint("give `jobs` with ids, or `filter` with at least one condition, or `all`: true")
}

fn has_condition(filter: &JobFilter) -> bool {
    filter.state.is_some()
        || filter.module.is_some()
        || filter.zone.is_some()
        || filter.label.is_some()
        || filter.created_after.is_some()
}

impl Choice {
    /// The query of the next few jobs; `None` when this call has had as many as it takes.
    pub(super) fn next_query(&self, at_a_time: u32) -> Option<JobQuery> {
        let limit = self.left.min(at_a_time);
        (limit > 0).then(|| JobQuery { limit, ..self.query.clone() })
    }

    /// Goes on behind jobs that were read.
    pub(super) fn pass(&mut self, count: usize, last_seq: Option<u64>) {
        self.left = self.left.saturating_sub(count as u32);
        self.query.before_seq = last_seq.or(self.query.before_seq);
    }

    /// The next few jobs' ids; empty at the end.
    pub(super) async fn next_ids(&mut self, app: &App, at_a_time: u32) -> Result<Vec<JobId>, ApiError> {
        let Some(query) = self.next_query(at_a_time) else { return Ok(Vec::new()) };
        let found = app.store.job_select(query).await?;
        self.pass(found.len(), found.last().map(|(seq, _)| *seq));
        Ok(found.into_iter().map(|(_, id)| id).collect())
    }

    /// Where a further call has to go on, if there is more than this one takes.
    pub(super) async fn rest(&self, app: &App) -> Result<Option<String>, ApiError> {
        let probe = JobQuery { limit: 1, ..self.query.clone() };
        let more = self.left == 0 && !app.store.job_select(probe).await?.is_empty();
        Ok(self.query.before_seq.filter(|_| more).map(|seq| page_token("jobs", &seq.to_string())))
    }
}
