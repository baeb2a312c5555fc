//! Bytes on their way out: whole or in parts, under conditions, never shown inline.

use std::{fmt::Write, sync::Arc};

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use gristmill_protocol::{Digest, ErrorCode};

use super::{
    ranges::{Wanted, wanted},
    segments::Segments,
};
use crate::{app::App, error::ApiError, ops};

/// Longest name of a file that is suggested to who saves a download, in bytes.
const FILE_NAME_BYTES_MAX: usize = 255;

/// Content that can be asked for in parts.
#[derive(Debug)]
pub(super) struct Content {
    /// The bytes.
    pub(super) segments: Segments,
    /// Strong: the same tag means the same bytes.
    pub(super) etag: String,
    /// The media type.
    pub(super) media_type: &'static str,
    /// What to call the file when it is saved.
    pub(super) file_name: Option<String>,
}

/// Answers with a blob whose visibility and size the caller has checked.
pub(super) async fn blob(
    app: &Arc<App>,
    headers: &HeaderMap,
    digest: Digest,
    size: u64,
    file_name: Option<String>,
) -> Result<Response, ApiError> {
    // A missing blob is told before the answer begins.
    ops::open_bytes(app, digest, Some(0..0)).await?;
    let content = Content {
        segments: Segments::blob(digest, size),
        etag: format!("\"{digest}\""),
        media_type: "application/octet-stream",
        file_name,
    };
    answer(app, headers, &content)
}

/// Answers with content that never changes, as a whole or in the parts that the request asks for.
/// Nothing is read before the body is polled, so that `HEAD` costs nothing.
pub(super) fn answer(app: &Arc<App>, headers: &HeaderMap, content: &Content) -> Result<Response, ApiError> {
    let size = content.segments.size();
    let (segments, media_type, range) = match wanted(headers, Some(&content.etag), size) {
        Wanted::Outside(_) => return Ok(outside(size)),
        Wanted::Whole => (content.segments.clone(), content.media_type.to_owned(), None),
        Wanted::Parts(parts) => match parts.as_slice() {
            [range] => {
                let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                (content.segments.part(range), content.media_type.to_owned(), Some(Some(text)))
            }
            parts => {
                let boundary = hex::encode(app.entropy.bytes::<16>());
                let mut segments = Segments::default();
                for range in parts {
                    segments.text(format!(
                        "--{boundary}\r\nContent-Type: {}\r\nContent-Range: bytes {}-{}/{size}\r\n\r\n",
                        content.media_type,
                        range.start,
                        range.end - 1
                    ));
                    segments.append(content.segments.part(range));
                    segments.text("\r\n");
                }
                segments.text(format!("--{boundary}--\r\n"));
                (segments, format!("multipart/byteranges; boundary={boundary}"), Some(None))
            }
        },
    };
    let length = segments.size();
    let mut response = Response::new(segments.into_body(app));
    let headers = response.headers_mut();
    describe(headers, content);
    set(headers, header::CONTENT_TYPE, &media_type)?;
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if let Some(range) = range {
        if let Some(text) = range {
            set(headers, header::CONTENT_RANGE, &text)?;
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

pub(super) fn set(headers: &mut HeaderMap, name: HeaderName, text: &str) -> Result<(), ApiError> {
    headers.insert(name, HeaderValue::from_str(text).map_err(ApiError::internal)?);
    Ok(())
}

/// `range_not_satisfiable`, with the size that there is.
pub(super) fn outside(size: u64) -> Response {
    let detail = format!("the range lies outside the {size} bytes that there are");
    let mut response = ApiError::new(ErrorCode::RangeNotSatisfiable, detail).into_response();
    if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    response
}

fn describe(headers: &mut HeaderMap, content: &Content) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content.media_type));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, immutable, max-age=31536000"));
    if let Ok(value) = HeaderValue::from_str(&content.etag) {
        headers.insert(header::ETAG, value);
    }
    if let Ok(value) = HeaderValue::from_str(&disposition(content.file_name.as_deref())) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
}

/// `Content-Disposition` (RFC 6266): always a file to be saved. A name is given twice, the second time
/// in full, percent-encoded (RFC 8187); only its last part counts, and nothing in it is special.
fn disposition(file_name: Option<&str>) -> String {
    let last = file_name.and_then(|name| name.rsplit('/').next()).filter(|name| !name.is_empty());
    let Some(name) = last.filter(|name| name.len() <= FILE_NAME_BYTES_MAX) else {
        return "attachment".to_owned();
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let plain: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    if plain == name {
        return format!("attachment; filename=\"{plain}\"");
    }
    let mut encoded = String::new();
    for byte in name.bytes() {
        if is_plain(char::from(byte)) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_is_only_a_name() {
        assert_eq!(disposition(None), "attachment");
        assert_eq!(disposition(Some("deep/er/net.v")), "attachment; filename=\"net.v\"");
        assert_eq!(
            disposition(Some("a\"; x=\r\nSet-Cookie: y")),
            "attachment; filename=\"a___x___Set-Cookie__y\"; \
             filename*=UTF-8''a%22%3B%20x%3D%0D%0ASet-Cookie%3A%20y"
        );
        assert_eq!(disposition(Some("é")), "attachment; filename=\"_\"; filename*=UTF-8''%C3%A9");
        assert_eq!(disposition(Some(&"a".repeat(256))), "attachment");
    }
}
