//! `/v1/tenants` and `/v1/tokens`.

use std::sync::Arc;

use axum::{extract::State, http::HeaderMap, response::Response};
use gristmill_protocol::tenancy::{TenantSpec, TokenSpec};

use crate::{
    app::App,
    error::ApiError,
    http::extract::{At, Json, PageQuery, Query, User, created, id, if_version, json},
    ops,
};

/// `GET /v1/tenants`.
pub(in crate::http) async fn list_tenants(
    State(app): State<Arc<App>>,
    User(principal): User,
    Query(page): Query<PageQuery>,
) -> Result<Response, ApiError> {
    let tenants = ops::list_tenants(&app, &principal, page.page_size, page.page_token.as_deref()).await?;
    Ok(json(&tenants, None))
}

/// `POST /v1/tenants`.
pub(in crate::http) async fn create_tenant(
    State(app): State<Arc<App>>,
    User(principal): User,
    Json(spec): Json<TenantSpec>,
) -> Result<Response, ApiError> {
    let tenant = ops::create_tenant(&app, &principal, spec).await?;
    Ok(created(&tenant, Some(tenant.version), &format!("/v1/tenants/{}", tenant.name)))
}

/// `GET /v1/tenants/{name}`.
pub(in crate::http) async fn get_tenant(
    State(app): State<Arc<App>>,
    User(principal): User,
    At(name): At<String>,
) -> Result<Response, ApiError> {
    let tenant = ops::get_tenant(&app, &principal, &name).await?;
    Ok(json(&tenant, Some(tenant.version)))
}

/// `PUT /v1/tenants/{name}`, with `If-Match` if the caller wants to be sure.
pub(in crate::http) async fn replace_tenant(
    State(app): State<Arc<App>>,
    User(principal): User,
    At(name): At<String>,
    headers: HeaderMap,
    Json(spec): Json<TenantSpec>,
) -> Result<Response, ApiError> {
    if spec.name != name {
        return Err(ApiError::renamed("tenants"));
    }
    let tenant = ops::replace_tenant(&app, &principal, spec, if_version(&headers)?).await?;
    Ok(json(&tenant, Some(tenant.version)))
}

/// `GET /v1/tokens`.
pub(in crate::http) async fn list_tokens(
    State(app): State<Arc<App>>,
    User(principal): User,
    Query(page): Query<PageQuery>,
) -> Result<Response, ApiError> {
    let tokens = ops::list_tokens(&app, &principal, page.page_size, page.page_token.as_deref()).await?;
    Ok(json(&tokens, None))
}

/// `POST /v1/tokens`.
pub(in crate::http) async fn create_token(
    State(app): State<Arc<App>>,
    User(principal): User,
    Json(spec): Json<TokenSpec>,
) -> Result<Response, ApiError> {
    let created_token = ops::create_token(&app, &principal, spec).await?;
    Ok(created(
        &created_token,
        Some(created_token.token.revision()),
        &format!("/v1/tokens/{}", created_token.token.id),
    ))
}

/// `GET /v1/tokens/{id}`.
pub(in crate::http) async fn get_token(
    State(app): State<Arc<App>>,
    User(principal): User,
    At(token): At<String>,
) -> Result<Response, ApiError> {
    let token = ops::get_token(&app, &principal, id("token", &token)?).await?;
    Ok(json(&token, Some(token.revision())))
}

/// `DELETE /v1/tokens/{id}` and `POST /v1/tokens/{id}/revoke`.
pub(in crate::http) async fn revoke_token(
    State(app): State<Arc<App>>,
    User(principal): User,
    At(token): At<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let token = id("token", &token)?;
    let token = ops::revoke_token(&app, &principal, token, if_version(&headers)?).await?;
    Ok(json(&token, Some(token.revision())))
}
