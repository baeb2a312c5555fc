//! List jobs, newest first.

use gristmill_protocol::{JobView, Page, job::JobFilter, tenancy::Scope};

use crate::{
    app::App,
    document::job_view,
    error::ApiError,
    paging::{page_key, page_size, page_token},
    principal::Principal,
    store::job::JobQuery,
};

/// Jobs of the caller's tenant, or of all tenants for an admin, newest first; all given filters hold.
/// Needs the scope `read`.
pub async fn list_jobs(app: &App, who: &Principal, filter: JobFilter) -> Result<Page<JobView>, ApiError> {
    who.require(Scope::Read)?;
    let size = page_size(filter.page_size)?;
    let query = JobQuery { limit: size + 1, ..job_query(who, filter)? };
    let mut jobs = app.store.job_list(query).await?;
    let more = jobs.len() > size as usize;
    jobs.truncate(size as usize);
    let next_page_token = jobs.last().filter(|_| more).map(|job| page_token("jobs", &job.seq.to_string()));
    let items = jobs.into_iter().map(|job| job_view(app, job)).collect::<Result<_, _>>()?;
    Ok(Page { items, next_page_token })
}

/// The query of a filter, without its page size, over the jobs that the caller may see.
pub(super) fn job_query(who: &Principal, filter: JobFilter) -> Result<JobQuery, ApiError> {
    let before_seq = match &filter.page_token {
        Some(token) => Some(
            page_key("jobs", token)?
                .parse()
                .map_err(|_| ApiError::field("page_token", "this is no page token of this list"))?,
        ),
        None => None,
    };
    Ok(JobQuery {
        tenant: (!who.is_admin()).then(|| who.tenant.clone()),
        state: filter.state,
        module: filter.module,
        zone: filter.zone,
        label: filter.label.as_deref().map(label).transpose()?,
        created_after: filter.created_after,
        before_seq,
        ..JobQuery::default()
    })
}

/// Reads a label as filters write it.
pub(super) fn label(text: &str) -> Result<(String, String), ApiError> {
    text.split_once(':')
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| ApiError::field("label", "must be key:value"))
}
