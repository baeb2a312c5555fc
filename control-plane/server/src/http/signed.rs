//! What handlers take from the request of a node: who signed it, and its body.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, OriginalUri, Request},
    http::{HeaderMap, request::Parts},
};
use bytes::Bytes;
use gristmill_protocol::{
    LeaseToken,
    limits::BODY_BYTES_MAX,
    node_api::{CONTENT_DIGEST_HEADER, LEASE_HEADER, SIGNATURE_HEADER, SIGNATURE_INPUT_HEADER},
};
use serde::de::DeserializeOwned;

use super::{
    body,
    context::Context,
    extract::{check_json, parse_json},
};
use crate::{
    app::App,
    auth::signature::{SignedParts, check_content_digest, verify},
    error::ApiError,
    principal::NodePrincipal,
};

/// Largest body of updates, which carry the ends of logs, in bytes.
const UPDATES_BYTES_MAX: usize = 32 << 20;
/// Largest piece of a log, in bytes.
const LOG_BYTES_MAX: usize = 1 << 20;

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn verify_parts(app: &App, parts: &Parts) -> Result<NodePrincipal, ApiError> {
    // The router shortens the path for nested routes; what was signed is the whole.
    let uri = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |original| &original.0);
    let context = Context::of(&parts.extensions)?;
    let verified = verify(
        app,
        &SignedParts {
            method: parts.method.as_str(),
            path: uri.path(),
            query: uri.query().unwrap_or(""),
            signature_input: text(&parts.headers, SIGNATURE_INPUT_HEADER),
            signature: text(&parts.headers, SIGNATURE_HEADER),
            content_digest: text(&parts.headers, CONTENT_DIGEST_HEADER),
            lease: text(&parts.headers, LEASE_HEADER),
        },
    );
    match &verified {
        Ok(node) => context.is_of_node(node),
        Err(_) => app.gates.count_stranger(context.origin.peer)?,
    }
    verified.map(|node| NodePrincipal { origin: context.origin.clone(), ..node })
}

/// A signed request without a body, or with one that the digest in its path covers.
#[derive(Debug)]
pub(super) struct Signed(pub(super) NodePrincipal);

impl FromRequestParts<Arc<App>> for Signed {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        verify_parts(app, parts).map(Self)
    }
}

/// The lease that authorises a request.
#[derive(Debug)]
pub(super) struct Lease(pub(super) LeaseToken);

impl FromRequestParts<Arc<App>> for Lease {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, ApiError> {
        text(&parts.headers, LEASE_HEADER)
            .map(|token| Self(LeaseToken::from_text(token)))
            .ok_or_else(|| ApiError::field(LEASE_HEADER, "the header must carry the lease's token"))
    }
}

async fn signed_body(
    app: &App,
    parts: &Parts,
    body: Body,
    max_bytes: usize,
) -> Result<(NodePrincipal, Bytes), ApiError> {
    let node = verify_parts(app, parts)?;
    let bytes = body::read(&parts.headers, body, max_bytes).await?;
    check_content_digest(text(&parts.headers, CONTENT_DIGEST_HEADER), &bytes)?;
    Ok((node, bytes))
}

/// A signed JSON body.
#[derive(Debug)]
pub(super) struct SignedJson<T>(pub(super) NodePrincipal, pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for SignedJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        check_json(&parts.headers)?;
        let max_bytes =
            if parts.uri.path().ends_with("/updates") { UPDATES_BYTES_MAX } else { BODY_BYTES_MAX };
        let (node, bytes) = signed_body(app, &parts, body, max_bytes).await?;
        Ok(Self(node, parse_json(&bytes)?))
    }
}

/// A signed piece of a log.
#[derive(Debug)]
pub(super) struct SignedBytes(pub(super) NodePrincipal, pub(super) Bytes);

impl FromRequest<Arc<App>> for SignedBytes {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let (node, bytes) = signed_body(app, &parts, body, LOG_BYTES_MAX).await?;
        Ok(Self(node, bytes))
    }
}
