//! Read the record of who changed what.

use gristmill_protocol::{
    Page,
    audit::{AuditFilter, AuditView},
    tenancy::Scope,
};

use crate::{app::App, error::ApiError, paging, principal::Principal, store::audit::AuditQuery};

/// Entries, newest first; all given filters hold. Needs the scope `admin`.
pub async fn list_audit(
    app: &App,
    principal: &Principal,
    filter: AuditFilter,
) -> Result<Page<AuditView>, ApiError> {
    principal.require(Scope::Admin)?;
    let size = paging::page_size(filter.page_size)?;
    let before_seq = match &filter.page_token {
        Some(token) => Some(paging::page_key("audit", token)?.parse().map_err(ApiError::internal)?),
        None => None,
    };
    let query = AuditQuery {
        actor: filter.actor,
        tenant: filter.tenant,
        operation: filter.operation,
        object: filter.object,
        since: filter.since,
        until: filter.until,
        before_seq,
        limit: size + 1,
    };
    let entries = app.store.audit_list(query).await?;
    Ok(paging::page("audit", entries, size, |entry| entry.seq.to_string()))
}
