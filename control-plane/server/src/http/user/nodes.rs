//! `/v1/nodes` and `/v1/join-tokens`.

use std::sync::Arc;

use axum::{extract::State, http::HeaderMap, response::Response};
use gristmill_protocol::{node::JoinTokenSpec, node::NodeView};
use sha2::{Digest as _, Sha256};

use crate::{
    app::App,
    error::ApiError,
    http::{
        extract::{At, Json, Query, User, created, id, if_version, json, tagged},
        openapi::words,
    },
    ops,
};

/// Parameters of the list.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct NodeQuery {
    /// Only nodes of this zone.
    zone: Option<String>,
    /// Entries in a page; 50 when absent.
    #[schemars(range(min = 1, max = 1_000))]
    page_size: Option<u32>,
    /// `next_page_token` of the page before.
    #[schemars(with = "Option<words::PageToken>")]
    page_token: Option<String>,
}

/// Heartbeats and leases change what is shown, but not the version; the tag changes with either, so that
/// nobody who asks for news is told that there is none.
fn answer(node: &NodeView) -> Result<Response, ApiError> {
    let shown = Sha256::digest(serde_json::to_vec(node).map_err(ApiError::internal)?);
    Ok(tagged(node, format!("{}.{}", node.version, hex::encode(&shown[..8]))))
}

/// `GET /v1/nodes`.
pub(in crate::http) async fn list(
    State(app): State<Arc<App>>,
    User(principal): User,
    Query(query): Query<NodeQuery>,
) -> Result<Response, ApiError> {
    let zone = query.zone.as_deref();
    let token = query.page_token.as_deref();
    Ok(json(&ops::list_nodes(&app, &principal, zone, query.page_size, token).await?, None))
}

/// `GET /v1/nodes/{id}`.
pub(in crate::http) async fn get(
    State(app): State<Arc<App>>,
    User(principal): User,
    At(node): At<String>,
) -> Result<Response, ApiError> {
    answer(&ops::get_node(&app, &principal, id("node", &node)?).await?)
}

/// `POST /v1/nodes/{id}/drain`.
pub(in crate::http) async fn drain(
    State(app): State<Arc<App>>,
    User(principal): User,
    At(node): At<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let node = id("node", &node)?;
    answer(&ops::drain_node(&app, &principal, node, if_version(&headers)?).await?)
}

/// `POST /v1/nodes/{id}/resume`.
pub(in crate::http) async fn resume(
    State(app): State<Arc<App>>,
    User(principal): User,
    At(node): At<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let node = id("node", &node)?;
    answer(&ops::resume_node(&app, &principal, node, if_version(&headers)?).await?)
}

/// `POST /v1/nodes/{id}/revoke`.
pub(in crate::http) async fn revoke(
    State(app): State<Arc<App>>,
    User(principal): User,
    At(node): At<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let node = id("node", &node)?;
    answer(&ops::revoke_node(&app, &principal, node, if_version(&headers)?).await?)
}

/// `POST /v1/join-tokens`.
pub(in crate::http) async fn create_join_token(
    State(app): State<Arc<App>>,
    User(principal): User,
    Json(spec): Json<JoinTokenSpec>,
) -> Result<Response, ApiError> {
    let token = ops::create_join_token(&app, &principal, spec).await?;
    Ok(created(&token, None, &format!("/v1/join-tokens/{}", token.id)))
}

/// `GET /v1/join-tokens/{id}`.
pub(in crate::http) async fn get_join_token(
    State(app): State<Arc<App>>,
    User(principal): User,
    At(token): At<String>,
) -> Result<Response, ApiError> {
    Ok(json(&ops::get_join_token(&app, &principal, id("join token", &token)?).await?, None))
}
