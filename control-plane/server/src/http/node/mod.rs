//! The node protocol. Every call but the enrolment is signed; every call about an attempt is
//! authorised by its current lease.

mod attempts;

pub(super) use attempts::{LogPlace, blob, head_output, log, put_output};

use std::sync::Arc;

use axum::{Extension, extract::State, response::Response};
use gristmill_protocol::node_api::{
    AcquireRequest, EnrollRequest, HeartbeatRequest, RenewRequest, UpdatesRequest, WatchRequest,
};

use super::{
    context::Context,
    extract::{Json, json},
    signed::SignedJson,
};
use crate::{app::App, error::ApiError, ops};

/// `POST /v1/node/enroll`.
pub(super) async fn enroll(
    State(app): State<Arc<App>>,
    Extension(context): Extension<Arc<Context>>,
    Json(request): Json<EnrollRequest>,
) -> Result<Response, ApiError> {
    app.gates.count_stranger(context.origin.peer)?;
    Ok(json(&ops::enroll_node(&app, &context.origin, request).await?, None))
}

/// `POST /v1/node/heartbeat`.
pub(super) async fn heartbeat(
    State(app): State<Arc<App>>,
    SignedJson(node, request): SignedJson<HeartbeatRequest>,
) -> Result<Response, ApiError> {
    Ok(json(&ops::heartbeat_node(&app, &node, request).await?, None))
}

/// `POST /v1/node/leases/acquire`.
pub(super) async fn acquire(
    State(app): State<Arc<App>>,
    SignedJson(node, request): SignedJson<AcquireRequest>,
) -> Result<Response, ApiError> {
    Ok(json(&ops::acquire_leases(&app, &node, request).await?, None))
}

/// `POST /v1/node/leases/renew`.
pub(super) async fn renew(
    State(app): State<Arc<App>>,
    SignedJson(node, request): SignedJson<RenewRequest>,
) -> Result<Response, ApiError> {
    Ok(json(&ops::renew_leases(&app, &node, request).await?, None))
}

/// `POST /v1/node/leases/watch`.
pub(super) async fn watch(
    State(app): State<Arc<App>>,
    SignedJson(node, request): SignedJson<WatchRequest>,
) -> Result<Response, ApiError> {
    Ok(json(&ops::watch_leases(&app, &node, request).await?, None))
}

/// `POST /v1/node/updates`.
pub(super) async fn updates(
    State(app): State<Arc<App>>,
    SignedJson(node, request): SignedJson<UpdatesRequest>,
) -> Result<Response, ApiError> {
    Ok(json(&ops::apply_updates(&app, &node, request).await?, None))
}
