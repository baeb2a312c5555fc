//! `/v1/modules`.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header},
    response::Response,
};
use gristmill_protocol::{
    Digest, ErrorCode,
    limits::MODULE_BYTES_MAX,
    module::{ModulePatch, ModuleVersionPatch},
};

use super::uploads::fields;
use crate::{
    app::App,
    error::ApiError,
    http::{
        body, download,
        extract::{At, Json, PageQuery, Query, User, created, if_version, json},
    },
    ops,
};

/// Parameters of a publish.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct PublishQuery {
    /// A blob that holds the JSON Schema of the jobs' params; the module's own `gristmill:params` section
    /// when absent.
    params_schema_digest: Option<Digest>,
}

fn check_wasm(headers: &HeaderMap) -> Result<(), ApiError> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = value.and_then(|value| value.split(';').next()).map(str::trim);
    match media_type {
        None | Some("application/wasm" | "application/octet-stream") => body::check_encoding(headers),
        Some(_) => Err(ApiError::new(ErrorCode::UnsupportedMediaType, "the body must be the module's bytes")
            .with_hint("send the header Content-Type: application/wasm")),
    }
}

/// `PUT /v1/modules/{name}/versions/{version}`.
pub(in crate::http) async fn publish(
    State(app): State<Arc<App>>,
    User(principal): User,
    At((name, version)): At<(String, String)>,
    Query(query): Query<PublishQuery>,
    request: Request,
) -> Result<Response, ApiError> {
    check_wasm(request.headers())?;
    let length = body::declared_length(request.headers());
    let digest = fields::sha256(request.headers(), "repr-digest")?.map(Digest::from_bytes);
    let mut pieces = body::stream(request.into_body());
    let published = if length.is_some_and(|length| length > MODULE_BYTES_MAX) {
        let detail = format!("the module is larger than {MODULE_BYTES_MAX} bytes");
        Err(ApiError::new(ErrorCode::ModuleTooLarge, detail))
    } else {
        let schema = query.params_schema_digest;
        ops::publish_module(&app, &principal, &name, &version, schema, digest, &mut pieces).await
    };
    if published.is_err() {
        body::discard(&mut pieces).await;
    }
    let published = published?;
    let location = format!("/v1/modules/{name}/versions/{}", published.version.version);
    Ok(if published.is_new {
        created(&published.version, Some(published.version.revision()), &location)
    } else {
        json(&published.version, Some(published.version.revision()))
    })
}

/// `GET /v1/modules`.
pub(in crate::http) async fn list(
    State(app): State<Arc<App>>,
    User(principal): User,
    Query(page): Query<PageQuery>,
) -> Result<Response, ApiError> {
    let modules = ops::list_modules(&app, &principal, page.page_size, page.page_token.as_deref()).await?;
    Ok(json(&modules, None))
}

/// `GET /v1/modules/{name}`.
pub(in crate::http) async fn get(
    State(app): State<Arc<App>>,
    User(principal): User,
    At(name): At<String>,
) -> Result<Response, ApiError> {
    let module = ops::get_module(&app, &principal, &name).await?;
    Ok(json(&module, Some(module.revision)))
}

/// `PATCH /v1/modules/{name}`.
pub(in crate::http) async fn change(
    State(app): State<Arc<App>>,
    User(principal): User,
    At(name): At<String>,
    headers: HeaderMap,
    Json(patch): Json<ModulePatch>,
) -> Result<Response, ApiError> {
    let module = ops::change_module(&app, &principal, &name, patch, if_version(&headers)?).await?;
    Ok(json(&module, Some(module.revision)))
}

/// `GET /v1/modules/{name}/versions/{version}`.
pub(in crate::http) async fn get_version(
    State(app): State<Arc<App>>,
    User(principal): User,
    At((name, version)): At<(String, String)>,
) -> Result<Response, ApiError> {
    let version = ops::get_module_version(&app, &principal, &name, &version).await?;
    Ok(json(&version, Some(version.revision())))
}

/// `PATCH /v1/modules/{name}/versions/{version}`.
pub(in crate::http) async fn change_version(
    State(app): State<Arc<App>>,
    User(principal): User,
    At((name, version)): At<(String, String)>,
    headers: HeaderMap,
    Json(patch): Json<ModuleVersionPatch>,
) -> Result<Response, ApiError> {
    let if_revision = if_version(&headers)?;
    let version = ops::change_module_version(&app, &principal, &name, &version, patch, if_revision).await?;
    Ok(json(&version, Some(version.revision())))
}

/// `GET /v1/modules/{name}/versions/{version}/wasm`.
pub(in crate::http) async fn wasm(
    State(app): State<Arc<App>>,
    User(principal): User,
    At((name, version)): At<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let found = ops::get_module_version(&app, &principal, &name, &version).await?;
    let file_name = format!("{}-{}.wasm", found.name, found.version);
    download::blob(&app, &headers, found.digest, found.size, Some(file_name)).await
}
