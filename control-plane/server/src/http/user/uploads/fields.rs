//! Header fields of uploads, read strictly: what a number, a switch or a digest is not is said so.

use axum::http::{HeaderMap, header};
use base64::{Engine, engine::general_purpose::STANDARD};
use gristmill_protocol::Digest;

use crate::{error::ApiError, upload_files::PieceChecksum};

/// Most bytes of what a client says about its upload.
const METADATA_BYTES_MAX: usize = 4 << 10;

pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// Digits alone, at most 15 of them: what a structured field's integer can be, and every size that
/// there is.
fn number(text: &str) -> Option<u64> {
    let is_plain = (1..=15).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_plain { text.parse().ok() } else { None }
}

/// A number that may be absent.
pub(super) fn number_opt(headers: &HeaderMap, name: &'static str) -> Result<Option<u64>, ApiError> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    text(headers, name)
        .and_then(number)
        .map(Some)
        .ok_or_else(|| ApiError::field(name, "must be a number of bytes, such as 1048576"))
}

/// A number that has to be there.
pub(super) fn number_of(headers: &HeaderMap, name: &'static str) -> Result<u64, ApiError> {
    number_opt(headers, name)?.ok_or_else(|| ApiError::field(name, "the header is missing"))
}

/// A structured field's boolean, without its parameters.
pub(super) fn switch(headers: &HeaderMap, name: &'static str) -> Result<bool, ApiError> {
    match text(headers, name).and_then(|text| text.split(';').next()).map(str::trim) {
        Some("?1") => Ok(true),
        Some("?0") => Ok(false),
        _ => Err(ApiError::field(name, "must be ?1 if these are the last bytes, or ?0")),
    }
}

/// The media type, without its parameters.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// The SHA-256 of a digest field of RFC 9530; other algorithms are passed over.
pub(in crate::http::user) fn sha256(
    headers: &HeaderMap,
    name: &'static str,
) -> Result<Option<[u8; 32]>, ApiError> {
    let mut members = text(headers, name).into_iter().flat_map(|text| text.split(','));
    let Some(value) = members.find_map(|member| member.trim().strip_prefix("sha-256=")) else {
        return Ok(None);
    };
    let encoded = value.strip_prefix(':').and_then(|value| value.strip_suffix(':'));
    encoded
        .and_then(|encoded| STANDARD.decode(encoded).ok()?.try_into().ok())
        .map(Some)
        .ok_or_else(|| ApiError::field(name, "must be sha-256=:BASE64: of 32 bytes"))
}

/// `Upload-Metadata` of tus: pairs of a key and a base64 value. A key `digest` declares the digest of
/// all bytes. Returns the text, to be given back as it is, and that digest.
pub(super) fn metadata(headers: &HeaderMap) -> Result<(Option<String>, Option<Digest>), ApiError> {
    const NAME: &str = "Upload-Metadata";
    if !headers.contains_key(NAME) {
        return Ok((None, None));
    }
    let wrong = || ApiError::field(NAME, "must be pairs KEY BASE64, separated by commas");
    let whole = text(headers, NAME).ok_or_else(wrong)?;
    if whole.len() > METADATA_BYTES_MAX {
        return Err(ApiError::field(NAME, format!("must have at most {METADATA_BYTES_MAX} bytes")));
    }
    let mut declared = None;
    for pair in whole.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
        let value = STANDARD.decode(value.trim()).map_err(|_| wrong())?;
        if key == "digest" {
            let digest = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
            let wrong =
                || ApiError::field(NAME, "the key digest must be base64 of sha256: and 64 hex digits");
            declared = Some(digest.ok_or_else(wrong)?);
        }
    }
    Ok((Some(whole.to_owned()), declared))
}

/// `Upload-Checksum` of tus.
pub(super) fn checksum(headers: &HeaderMap) -> Result<Option<PieceChecksum>, ApiError> {
    const NAME: &str = "Upload-Checksum";
    if !headers.contains_key(NAME) {
        return Ok(None);
    }
    let wrong = || ApiError::field(NAME, "must be sha1 or sha256, a blank, and the base64 of the sum");
    let (algorithm, value) = text(headers, NAME).and_then(|text| text.split_once(' ')).ok_or_else(wrong)?;
    let value = STANDARD.decode(value.trim()).map_err(|_| wrong())?;
    match (algorithm, value.len()) {
        ("sha1", 20) => Ok(Some(PieceChecksum::Sha1(value))),
        ("sha256", 32) => Ok(Some(PieceChecksum::Sha256(value))),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_number_is_digits_and_nothing_else() {
        assert_eq!(number("0"), Some(0));
        assert_eq!(number("999999999999999"), Some(999_999_999_999_999));
        for bad in ["", "-1", "+1", "1.0", "0x10", " 1", "1e3", "9999999999999999", "18446744073709551616"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }

    #[test]
    fn fields_that_are_malformed_are_refused_and_not_guessed() {
        let of = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(header::HeaderName::from_static(name), HeaderValue::from_static(value))])
        };
        assert_eq!(switch(&of("upload-complete", "?1;a=b"), "upload-complete").ok(), Some(true));
        assert!(switch(&of("upload-complete", "true"), "upload-complete").is_err());
        assert!(sha256(&of("repr-digest", "sha-512=:AA==:"), "repr-digest").is_ok_and(|it| it.is_none()));
        for bad in ["sha-256=AA==", "sha-256=:AA==:", "sha-256=:%:"] {
            assert!(sha256(&of("repr-digest", bad), "repr-digest").is_err(), "{bad}");
        }
        assert!(metadata(&of("upload-metadata", "filename d29ybGQ=,is_private")).is_ok());
        for bad in ["filename d29ybGQ", "digest d29ybGQ="] {
            assert!(metadata(&of("upload-metadata", bad)).is_err(), "{bad}");
        }
        for bad in ["sha1", "sha1 AA==", "crc32 AAAAAA==", "sha256 %"] {
            assert!(checksum(&of("upload-checksum", bad)).is_err(), "{bad}");
        }
    }
}
