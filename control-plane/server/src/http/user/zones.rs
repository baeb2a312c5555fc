//! `/v1/zones`.

use std::sync::Arc;

use axum::{extract::State, http::HeaderMap, response::Response};
use gristmill_protocol::{Page, zone::ZoneSpec};

use crate::{
    app::App,
    error::ApiError,
    http::extract::{At, Json, User, created, if_match, json},
    ops,
};

/// `GET /v1/zones`: all in one page, there are few.
pub(in crate::http) async fn list(State(app): State<Arc<App>>, User(principal): User) -> Response {
    json(&Page { items: ops::list_zones(&app, &principal), next_page_token: None }, None)
}

/// `POST /v1/zones`.
pub(in crate::http) async fn create(
    State(app): State<Arc<App>>,
    User(principal): User,
    Json(spec): Json<ZoneSpec>,
) -> Result<Response, ApiError> {
    let zone = ops::create_zone(&app, &principal, spec).await?;
    Ok(created(&zone, Some(zone.version), &format!("/v1/zones/{}", zone.name)))
}

/// `GET /v1/zones/{name}`.
pub(in crate::http) async fn get(
    State(app): State<Arc<App>>,
    User(principal): User,
    At(name): At<String>,
) -> Result<Response, ApiError> {
    let zone = ops::get_zone(&app, &principal, &name)?;
    Ok(json(&zone, Some(zone.version)))
}

/// `PUT /v1/zones/{name}`, with `If-Match` if the caller wants to be sure.
pub(in crate::http) async fn replace(
    State(app): State<Arc<App>>,
    User(principal): User,
    At(name): At<String>,
    headers: HeaderMap,
    Json(spec): Json<ZoneSpec>,
) -> Result<Response, ApiError> {
    if spec.name != name {
        return Err(ApiError::renamed("zones"));
    }
    let versions = if_match(&headers)?;
    let zone = ops::replace_zone(&app, &principal, spec, versions.as_deref()).await?;
    Ok(json(&zone, Some(zone.version)))
}
