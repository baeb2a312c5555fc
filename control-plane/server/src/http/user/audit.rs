//! `/v1/audit`.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use gristmill_protocol::audit::AuditFilter;

use crate::{
    app::App,
    error::ApiError,
    http::extract::{Query, User, json},
    ops,
};

/// `GET /v1/audit`.
pub(in crate::http) async fn list(
    State(app): State<Arc<App>>,
    User(principal): User,
    Query(filter): Query<AuditFilter>,
) -> Result<Response, ApiError> {
    Ok(json(&ops::list_audit(&app, &principal, filter).await?, None))
}
