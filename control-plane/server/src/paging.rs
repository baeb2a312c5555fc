//! Page tokens: where a keyset-paged list goes on, as an opaque text that cannot be made up by hand.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use gristmill_protocol::Page;
use sha2::{Digest as _, Sha256};

use crate::error::ApiError;

/// Entries in a page when the caller does not say.
pub const PAGE_SIZE_DEFAULT: u32 = 50;
/// Most entries in a page.
pub const PAGE_SIZE_MAX: u32 = 1_000;
const CHECK_BYTES: usize = 6;

fn check(list: &str, key: &str) -> Vec<u8> {
    Sha256::digest(format!("{list}\0{key}"))[..CHECK_BYTES].to_vec()
}

/// The token of the page of `list` that follows `key`.
pub fn page_token(list: &str, key: &str) -> String {
    let mut bytes = check(list, key);
    bytes.extend_from_slice(key.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads a token back. Fails with `invalid_request` when it is none of this list.
pub fn page_key(list: &str, token: &str) -> Result<String, ApiError> {
    URL_SAFE_NO_PAD
        .decode(token)
        .ok()
        .filter(|bytes| bytes.len() > CHECK_BYTES)
        .and_then(|bytes| {
            let key = String::from_utf8(bytes[CHECK_BYTES..].to_vec()).ok()?;
            (bytes[..CHECK_BYTES] == check(list, &key)).then_some(key)
        })
        .ok_or_else(|| {
            ApiError::field("page_token", "this is no page token of this list")
                .with_hint("pass next_page_token of the page before as it is, or leave page_token out")
        })
}

/// Checks a page size: 1 to 1,000, by default 50.
pub fn page_size(asked: Option<u32>) -> Result<u32, ApiError> {
    match asked.unwrap_or(PAGE_SIZE_DEFAULT) {
        size @ 1..=PAGE_SIZE_MAX => Ok(size),
        _ => Err(ApiError::field("page_size", "must be from 1 to 1000")),
    }
}

/// Makes a page of at most `size` entries from a list that was asked for one more than that.
pub fn page<T>(list: &str, mut items: Vec<T>, size: u32, key: impl Fn(&T) -> String) -> Page<T> {
    let has_more = items.len() > size as usize;
    items.truncate(size as usize);
    let next_page_token = items.last().filter(|_| has_more).map(|last| page_token(list, &key(last)));
    Page { items, next_page_token }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_own_list_only_and_not_when_changed() {
        let token = page_token("jobs", "job_1");
        assert_eq!(page_key("jobs", &token).ok().as_deref(), Some("job_1"));
        assert!(page_key("nodes", &token).is_err());
        for position in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("is ASCII");
            assert!(page_key("jobs", &changed).is_err(), "{changed}");
        }
        assert!(page_key("jobs", "").is_err());
    }

    #[test]
    fn the_last_page_has_no_token() {
        let page_of_three = page("n", vec![1, 2, 3], 3, ToString::to_string);
        assert_eq!((page_of_three.items.len(), page_of_three.next_page_token), (3, None));
        let page_of_two = page("n", vec![1, 2, 3], 2, ToString::to_string);
        assert_eq!(page_of_two.items, [1, 2]);
        assert_eq!(page_key("n", &page_of_two.next_page_token.expect("more")).ok(), Some("2".into()));
    }
}
