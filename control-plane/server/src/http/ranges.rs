//! What a `Range` header asks for (RFC 9110 section 14).

use std::ops::Range;

use axum::http::{HeaderMap, header};

use super::conditions::{Verdict, verdict};

/// Most ranges in one request; more are a way to make work, not to save it.
const RANGES_MAX: usize = 16;

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Everything: there is no such header, or it is one that may be ignored: malformed, with ranges that
    /// overlap or are too many, or under a condition that does not hold.
    Whole,
    /// These bytes, ends exclusive, never none; in the order in which they were asked for.
    Parts(Vec<Range<u64>>),
    /// Bytes that are not there; the first of them.
    Outside(u64),
}

/// Reads a `Range` header for content of `size` bytes. A condition (`If-Range`) that names anything but
/// `etag` asks for everything; so do the conditions that come before ranges, which then decide the answer.
pub(super) fn wanted(headers: &HeaderMap, etag: Option<&str>, size: u64) -> Wanted {
    let is_changed =
        headers.get(header::IF_RANGE).is_some_and(|value| Some(value.as_bytes()) != etag.map(str::as_bytes))
            || verdict(headers, etag) != Verdict::Send;
    let value = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let Some(list) = value.filter(|_| !is_changed).and_then(|value| value.trim().strip_prefix("bytes="))
    else {
        return Wanted::Whole;
    };
    let mut parts: Vec<Range<u64>> = Vec::new();
    let mut outside = u64::MAX;
    for (number, text) in list.split(',').enumerate() {
        match range(text.trim(), size) {
            None => return Wanted::Whole,
            Some(_) if number >= RANGES_MAX => return Wanted::Whole,
            Some(range) if range.is_empty() => outside = outside.min(range.start),
            Some(range) if parts.iter().any(|part| part.start < range.end && range.start < part.end) => {
                return Wanted::Whole;
            }
            Some(range) => parts.push(range),
        }
    }
    if parts.is_empty() { Wanted::Outside(outside) } else { Wanted::Parts(parts) }
}

/// One range, cut at the end of the content; empty when it lies outside. `None` when it is malformed.
fn range(text: &str, size: u64) -> Option<Range<u64>> {
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| !text.starts_with('+'));
    let (first, last) = text.split_once('-')?;
    match (first.trim(), last.trim()) {
        ("", last) => Some(size.saturating_sub(number(last)?)..size),
        (first, "") => Some(number(first)?..size),
        (first, last) => {
            let (start, end) = (number(first)?, number(last)?);
            (start <= end).then(|| start..end.saturating_add(1).min(size))
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn of(text: &'static str, size: u64) -> Wanted {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_static(text));
        wanted(&headers, Some("\"a\""), size)
    }

    fn one(range: Range<u64>) -> Wanted {
        Wanted::Parts(vec![range])
    }

    #[test]
    fn ranges_are_cut_at_the_end_and_anything_strange_is_ignored() {
        assert_eq!(wanted(&HeaderMap::new(), None, 10), Wanted::Whole);
        assert_eq!(of("bytes=0-0", 10), one(0..1));
        assert_eq!(of("bytes=2-", 10), one(2..10));
        assert_eq!(of("bytes=2-99", 10), one(2..10));
        assert_eq!(of("bytes=-3", 10), one(7..10));
        assert_eq!(of("bytes=-30", 10), one(0..10));
        assert_eq!(of("bytes=0-18446744073709551615", 10), one(0..10));
        for (outside, first) in
            [("bytes=10-", 10), ("bytes=12-13", 12), ("bytes=-0", 10), ("bytes=13-,11-12", 11)]
        {
            assert_eq!(of(outside, 10), Wanted::Outside(first), "{outside}");
        }
        assert_eq!(of("bytes=0-", 0), Wanted::Outside(0));
        for strange in
            ["bytes=3-2", "bytes=a-b", "lines=0-1", "bytes=", "bytes=+1-2", "bytes=0-1,", "bytes=0-1,x"]
        {
            assert_eq!(of(strange, 10), Wanted::Whole, "{strange}");
        }
    }

    #[test]
    fn several_ranges_are_served_unless_they_overlap_or_are_too_many() {
        assert_eq!(of("bytes=7-8, 0-1", 10), Wanted::Parts(vec![7..9, 0..2]));
        assert_eq!(of("bytes=0-1,-2,20-", 10), Wanted::Parts(vec![0..2, 8..10]));
        assert_eq!(of("bytes=0-4,4-5", 10), Wanted::Whole);
        let many: Vec<String> = (0..17).map(|n| format!("{}-{}", 2 * n, 2 * n)).collect();
        let text: &'static str = Box::leak(format!("bytes={}", many.join(",")).into_boxed_str());
        assert_eq!(of(text, 100), Wanted::Whole);
    }

    #[test]
    fn a_range_of_other_content_than_is_there_is_not_served() {
        for (condition, expected) in [
            ("\"a\"", one(0..1)),
            ("\"b\"", Wanted::Whole),
            ("W/\"a\"", Wanted::Whole),
            ("yesterday", Wanted::Whole),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
            headers.insert(header::IF_RANGE, HeaderValue::from_static(condition));
            assert_eq!(wanted(&headers, Some("\"a\""), 10), expected, "{condition}");
            assert_eq!(wanted(&headers, None, 10), Wanted::Whole);
        }
    }

    #[test]
    fn what_is_expected_or_known_is_decided_before_the_range() {
        for (condition, tag, expected) in [
            (header::IF_MATCH, "\"a\"", Wanted::Outside(10)),
            (header::IF_MATCH, "\"b\"", Wanted::Whole),
            (header::IF_NONE_MATCH, "\"a\"", Wanted::Whole),
            (header::IF_NONE_MATCH, "\"b\"", Wanted::Outside(10)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, HeaderValue::from_static("bytes=10-"));
            headers.insert(&condition, HeaderValue::from_static(tag));
            assert_eq!(wanted(&headers, Some("\"a\""), 10), expected, "{condition}: {tag}");
        }
    }
}
