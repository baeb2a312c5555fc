//! `/openapi.json`, the description of this very server, and `/docs`, the page that shows it.

use std::sync::LazyLock;

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{openapi, routes};

/// The page loads its own script and style and asks its own server, and nothing else.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Bytes that stay the same for as long as the process lives.
struct Fixed {
    bytes: Bytes,
    media_type: HeaderValue,
    etag: String,
}

impl Fixed {
    fn new(bytes: impl Into<Bytes>, media_type: &'static str) -> Self {
        let bytes = bytes.into();
        let etag = format!("\"{}\"", hex::encode(&Sha256::digest(&bytes)[..16]));
        Self { bytes, media_type: HeaderValue::from_static(media_type), etag }
    }

    fn answer(&self) -> Response {
        let mut response = Response::new(Body::from(self.bytes.clone()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, self.media_type.clone());
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Ok(etag) = HeaderValue::from_str(&self.etag) {
            headers.insert(header::ETAG, etag);
        }
        response
    }
}

static DOCUMENT: LazyLock<Fixed> = LazyLock::new(|| {
    let mut bytes = serde_json::to_vec_pretty(&openapi::document(&routes::operations())).unwrap_or_default();
    bytes.push(b'\n');
    Fixed::new(bytes, "application/json")
});
static PAGE: LazyLock<Fixed> =
    LazyLock::new(|| Fixed::new(include_str!("reference/page.html"), "text/html; charset=utf-8"));
static STYLE: LazyLock<Fixed> =
    LazyLock::new(|| Fixed::new(include_str!("reference/page.css"), "text/css; charset=utf-8"));
static SCRIPT: LazyLock<Fixed> =
    LazyLock::new(|| Fixed::new(include_str!("reference/page.js"), "text/javascript; charset=utf-8"));

/// The description of the API (OpenAPI 3.1, JSON), as it is served.
pub fn description() -> Bytes {
    DOCUMENT.bytes.clone()
}

/// `GET /openapi.json`.
pub(super) async fn openapi() -> Response {
    DOCUMENT.answer()
}

/// `GET /docs`.
pub(super) async fn page() -> Response {
    let mut response = PAGE.answer();
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, POLICY);
    response
}

/// `GET /docs/page.css`.
pub(super) async fn style() -> Response {
    STYLE.answer()
}

/// `GET /docs/page.js`.
pub(super) async fn script() -> Response {
    SCRIPT.answer()
}
