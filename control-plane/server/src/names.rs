//! What names may look like.

use std::collections::BTreeMap;

use crate::error::ApiError;

const NAME_MAX: usize = 63;
const LABELS_MAX: usize = 64;

/// Checks a name of a module, tenant or zone: `[a-z][a-z0-9-]{0,62}`.
pub(crate) fn check_name(pointer: &str, name: &str) -> Result<(), ApiError> {
    let is_good = name.len() <= NAME_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if is_good {
        return Ok(());
    }
    Err(ApiError::field(
        pointer,
        "must be 1 to 63 characters long: lowercase letters, digits and -, starting with a letter",
    ))
}

/// Checks a node's name: `[a-z0-9][a-z0-9.-]{0,62}`.
pub(crate) fn check_node_name(pointer: &str, name: &str) -> Result<(), ApiError> {
    let is_good = name.len() <= NAME_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
    if is_good {
        return Ok(());
    }
    Err(ApiError::field(
        pointer,
        "must be 1 to 63 characters long: lowercase letters, digits, - and ., starting with a letter or digit",
    ))
}

/// Checks a text for people: at most `max` characters and none that control a terminal.
pub(crate) fn check_text(pointer: &str, text: &str, max: usize) -> Result<(), ApiError> {
    if text.chars().count() <= max && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(ApiError::field(
        pointer,
        format!("must be at most {max} characters long, without control characters"),
    ))
}

/// Checks a node's labels: at most 64, keys and values of at most 63 characters of letters, digits
/// and `-_./`, keys not empty.
pub(crate) fn check_labels(pointer: &str, labels: &BTreeMap<String, String>) -> Result<(), ApiError> {
    let is_word = |text: &str| {
        text.len() <= NAME_MAX && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
    };
    if labels.len() > LABELS_MAX {
        return Err(ApiError::field(pointer, format!("must be at most {LABELS_MAX} labels")));
    }
    for (key, value) in labels {
        if key.is_empty() || !is_word(key) || !is_word(value) {
            let place = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
            return Err(ApiError::field(
                place,
                "keys and values must be at most 63 characters long: letters, digits and -_./",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lowercase_words() {
        for good in ["a", "csv-summary", "a1", &"a".repeat(63)] {
            assert!(check_name("/name", good).is_ok(), "{good}");
        }
        for bad in ["", "1a", "-a", "A", "a_b", "ä", "a b", "a/b", "a\0", &"a".repeat(64)] {
            assert!(check_name("/name", bad).is_err(), "{bad}");
        }
        assert!(check_node_name("/name", "10.example.org").is_ok());
        assert!(check_node_name("/name", ".x").is_err());
    }

    #[test]
    fn a_bad_label_is_named_by_its_pointer() {
        let labels = BTreeMap::from([("a/b".to_owned(), "c d".to_owned())]);
        let error = check_labels("/labels", &labels).expect_err("a blank is not allowed");
        assert_eq!(error.errors[0].pointer, "/labels/a~1b");
    }
}
