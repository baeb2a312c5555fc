//! HTTP message signatures of nodes (RFC 9421, Ed25519) as the node protocol defines them.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::STANDARD};
use gristmill_protocol::{
    ErrorCode, Timestamp,
    node_api::{SIGNATURE_SKEW_SECONDS, parse_signature_params, signature_base},
};
use sha2::{Digest as _, Sha256};

use crate::{
    app::App,
    error::ApiError,
    principal::{NodePrincipal, Origin},
};

/// The signed parts of a request, as they stand on the wire.
#[derive(Debug, Clone, Copy)]
pub struct SignedParts<'a> {
    /// The method.
    pub method: &'a str,
    /// The path, percent-encoded as received.
    pub path: &'a str,
    /// The query without its question mark; empty when there is none.
    pub query: &'a str,
    /// Value of `signature-input`.
    pub signature_input: Option<&'a str>,
    /// Value of `signature`.
    pub signature: Option<&'a str>,
    /// Value of `content-digest`.
    pub content_digest: Option<&'a str>,
    /// Value of `gristmill-lease`.
    pub lease: Option<&'a str>,
}

fn refused(detail: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Unauthenticated, detail)
        .with_hint("sign the request with the key that the node enrolled with")
}

/// Finds out which node signed the request. The signature is checked before its time, and its time
/// before its nonce, so that nobody but the node itself learns or uses up anything.
pub fn verify(app: &App, parts: &SignedParts<'_>) -> Result<NodePrincipal, ApiError> {
    if parts.signature_input.is_none() || parts.signature.is_none() {
        return Err(refused("the request is not signed by a node"));
    }
    let text = parts.signature_input.and_then(|value| value.strip_prefix("sig1=")).unwrap_or_default();
    let (has_content_digest, has_lease) = (parts.content_digest.is_some(), parts.lease.is_some());
    let parameters = parse_signature_params(text, has_content_digest, has_lease).ok_or_else(|| {
        refused("the signature parameters are not those of the node protocol, or leave a header unsigned")
    })?;
    let signature = parts
        .signature
        .and_then(|value| value.strip_prefix("sig1=:")?.strip_suffix(':'))
        .and_then(|text| STANDARD.decode(text).ok())
        .ok_or_else(|| refused("the signature is not of the form sig1=:base64:"))?;
    let known = app.registry.with_node(parameters.node, |node| {
        (node.record.public_key, node.record.revoked_at.is_some(), node.record.zone.clone())
    });
    let (public_key, is_revoked, zone) =
        known.ok_or_else(|| refused("no node of this id is enrolled here"))?;
    let base = signature_base(parts.method, parts.path, parts.query, parts.content_digest, parts.lease, text);
    UnparsedPublicKey::new(&ED25519, public_key)
        .verify(base.as_bytes(), &signature)
        .map_err(|_| refused("the signature does not match the request"))?;
    if is_revoked {
        return Err(ApiError::new(ErrorCode::Forbidden, "this node's identity was revoked")
            .with_hint("enrol the machine again with a new join token, into an empty state directory"));
    }
    let now = app.clock.now();
    check_time(parameters.created_unix_s, now)?;
    if !app.replays.admit(parameters.node, parameters.nonce, now) {
        return Err(refused("the request was served before; sign each request with a new nonce"));
    }
    app.registry.touch(parameters.node, now);
    Ok(NodePrincipal { node: parameters.node, zone, origin: Origin::default() })
}

fn check_time(created_unix_s: i64, now: Timestamp) -> Result<(), ApiError> {
    let skew = created_unix_s.saturating_sub(now.as_second());
    if skew.saturating_abs() <= SIGNATURE_SKEW_SECONDS {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::ClockSkew,
        format!(
            "the signature was made {skew} s from the server's time; {SIGNATURE_SKEW_SECONDS} s are allowed"
        ),
    )
    .with_hint("take the server's time from the Date header of this answer and sign again"))
}

/// Checks a body against the signed `content-digest` header (RFC 9530, `sha-256`).
pub fn check_content_digest(header: Option<&str>, body: &[u8]) -> Result<(), ApiError> {
    let expected = header
        .and_then(|value| value.strip_prefix("sha-256=:")?.strip_suffix(':'))
        .and_then(|text| STANDARD.decode(text).ok())
        .ok_or_else(|| refused("content-digest must be present, of the form sha-256=:base64:"))?;
    if Sha256::digest(body).as_slice() == expected {
        Ok(())
    } else {
        Err(refused("the body does not have the digest that was signed"))
    }
}
