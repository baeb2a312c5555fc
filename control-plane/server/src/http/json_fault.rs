//! What is wrong with a JSON body or a query, in words: which field, which rule, what to do.

use std::{cell::RefCell, collections::HashSet, fmt};

use gristmill_protocol::{ErrorCode, FieldError};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::{error::ApiError, job_rules::pointer_part};

/// How deep a document may be nested; the parser's own limit.
const DEPTH_MAX: usize = 128;
/// How many letters apart a field may be from the one that was meant.
const TYPO_MAX: usize = 3;

/// `invalid_request` about one field of a body or query.
pub(super) fn fault(pointer: String, rule: String, hint: Option<String>) -> ApiError {
    let place = if pointer.is_empty() { "the body" } else { &pointer };
    let mut error = ApiError::new(ErrorCode::InvalidRequest, format!("{place}: {rule}"));
    error.errors.push(FieldError { pointer, detail: rule });
    error.hint = hint;
    error
}

/// What the parser found wrong at a place of the body.
pub(super) fn of_json(pointer: String, error: &serde_json::Error) -> ApiError {
    let text = error.to_string();
    let (text, position) = match text.rsplit_once(" at line ") {
        Some((text, position)) => (text, format!("line {}", position.replace(" column", ", column"))),
        None => (text.as_str(), String::new()),
    };
    if error.is_eof() {
        let rule = format!("the JSON document ends too early, at {position}");
        return fault(pointer, rule, Some("send the whole document".into()));
    }
    if text == "recursion limit exceeded" {
        let top = pointer.match_indices('/').nth(1).map_or(pointer.as_str(), |(at, _)| &pointer[..at]);
        let rule = format!("must be nested at most {DEPTH_MAX} levels deep");
        return fault(top.to_owned(), rule, Some("give deep data as an input, as a blob".into()));
    }
    if error.is_syntax() {
        let rule = format!("is not valid JSON at {position}: {text}");
        return fault(pointer, rule, Some("send one JSON object; a JSON library writes it best".into()));
    }
    of_data(pointer, text, "/", &pointer_part)
}

/// What does not fit at a place of a query.
pub(super) fn of_query(text: &str) -> ApiError {
    let (name, text) = match text.split_once(": ") {
        Some((name, rest)) if !name.contains([' ', '`']) => (name, rest),
        _ => ("", text),
    };
    of_data(name.to_owned(), text, "", &str::to_owned)
}

/// A value that was understood but does not fit.
fn of_data(pointer: String, text: &str, separator: &str, escape: &dyn Fn(&str) -> String) -> ApiError {
    let at = |name: &str| {
        let part = format!("{separator}{}", escape(name));
        if pointer.ends_with(&part) { pointer.clone() } else { format!("{pointer}{part}") }
    };
    let mut quoted = text.split('`').skip(1).step_by(2);
    let name = quoted.next().unwrap_or_default();
    if text.starts_with("unknown field") {
        let known: Vec<_> = quoted.collect();
        let meant = nearest(name, &known);
        let rule = match meant {
            Some(meant) => format!("unknown field; did you mean {meant}?"),
            None => "unknown field".to_owned(),
        };
        let hint = (!known.is_empty()).then(|| format!("known here: {}", known.join(", ")));
        return fault(at(name), rule, hint);
    }
    if text.starts_with("unknown variant") {
        let known: Vec<_> = quoted.collect();
        let meant = nearest(name, &known).map(|meant| format!("write {meant}"));
        return fault(pointer, format!("must be one of {}", known.join(", ")), meant);
    }
    if text.starts_with("missing field") {
        return fault(at(name), "is missing".into(), Some(format!("add the field {name}")));
    }
    if text.starts_with("duplicate field") {
        return fault(at(name), "is there twice".into(), Some("leave one of them out".into()));
    }
    fault(pointer, in_words(text), None)
}

/// What the parsers of numbers and of texts say, as a rule.
fn in_words(text: &str) -> String {
    match text {
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            "must be a whole number, such as 50".into()
        }
        "number too large to fit in target type" => "is a larger number than is allowed here".into(),
        "provided string was not `true` or `false`" => "must be true or false".into(),
        // Only times are read by a parser that speaks so.
        other if other.starts_with("failed to ") => "must be a time such as 2026-01-31T12:00:00Z".into(),
        other => other.replace('`', ""),
    }
}

fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    // A long name is none of ours, and the distance takes the product of the lengths.
    let name = Some(name).filter(|name| name.len() <= 64)?;
    known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), *known))
        .filter(|(distance, known)| *distance <= TYPO_MAX.min(known.len() / 2))
        .min()
        .map(|(_, known)| known)
        .or_else(|| known.iter().copied().find(|known| name.len() >= 3 && known.starts_with(name)))
}

/// Refuses a document in which an object has the same key twice: readers on the way might take the
/// one, and the server the other.
pub(super) fn check_keys(bytes: &[u8]) -> Result<(), ApiError> {
    let place = RefCell::new(String::new());
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    match (Keys { place: &place }).deserialize(&mut reader) {
        Err(error) if error.is_data() => {
            let rule = "is there twice".to_owned();
            Err(fault(place.into_inner(), rule, Some("leave one of them out".into())))
        }
        // What else is wrong is found, and told better, when the document is read.
        _ => Ok(()),
    }
}

/// Walks through a value and remembers where it is.
#[derive(Clone, Copy)]
struct Keys<'a> {
    place: &'a RefCell<String>,
}

impl Keys<'_> {
    /// Runs `walk` with the place one step deeper. After an error the place stays as it was then.
    fn within<T, E>(self, part: &str, walk: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let length = self.place.borrow().len();
        *self.place.borrow_mut() += part;
        let walked = walk()?;
        self.place.borrow_mut().truncate(length);
        Ok(walked)
    }
}

impl<'de> DeserializeSeed<'de> for Keys<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Keys<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let part = format!("/{}", pointer_part(&key));
            self.within(&part, || {
                if seen.insert(key) { map.next_value_seed(self) } else { Err(A::Error::custom("twice")) }
            })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut index = 0;
        while self.within(&format!("/{index}"), || list.next_element_seed(self))?.is_some() {
            index += 1;
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use gristmill_protocol::JobSpec;

    use super::*;
    use crate::http::extract::parse_json;

    /// Pointer, rule and hint of a job spec that is refused.
    fn wrong(text: &str) -> (String, String, String) {
        let error = check_keys(text.as_bytes())
            .and_then(|()| parse_json::<JobSpec>(text.as_bytes()))
            .expect_err("is refused");
        assert_eq!(error.code, ErrorCode::InvalidRequest);
        let field = error.errors.first().expect("a field is named");
        assert!(error.detail.contains(&field.detail), "{error}");
        (field.pointer.clone(), field.detail.clone(), error.hint.unwrap_or_default())
    }

    #[test]
    fn a_field_that_is_nearly_known_is_named_with_the_one_that_was_meant() {
        let (pointer, rule, hint) = wrong(r#"{"modul": "m"}"#);
        assert_eq!((pointer.as_str(), rule.as_str()), ("/modul", "unknown field; did you mean module?"));
        assert!(hint.starts_with("known here: module, "), "{hint}");
        let (pointer, rule, _) = wrong(r#"{"module": "m", "limits": {"waltime_ms": 5}}"#);
        assert_eq!(pointer, "/limits/waltime_ms");
        assert_eq!(rule, "unknown field; did you mean wall_time_ms?");
        let (_, rule, _) = wrong(r#"{"module": "m", "limits": {"memory": 5}}"#);
        assert_eq!(rule, "unknown field; did you mean memory_bytes?");
        let (pointer, rule, _) = wrong(r#"{"module": "m", "q~/x": 5}"#);
        assert_eq!((pointer.as_str(), rule.as_str()), ("/q~0~1x", "unknown field"));
    }

    #[test]
    fn a_key_that_is_there_twice_is_named_wherever_it_is() {
        for (text, at) in [
            (r#"{"module": "m", "module": "n"}"#, "/module"),
            (r#"{"module": "m", "env": {"A": "1", "A": "2"}}"#, "/env/A"),
            (r#"{"module": "m", "params": {"list": [1, {"a/b": 1, "a\/b": 1}]}}"#, "/params/list/1/a~1b"),
        ] {
            assert_eq!(wrong(text).0, at, "{text}");
            assert_eq!(wrong(text).1, "is there twice");
        }
        check_keys(br#"{"a": {"x": 1}, "b": {"x": 1}, "c": [{"x": null}, {"x": 1.5}]}"#).expect("is fine");
    }

    #[test]
    fn every_fault_has_its_place_and_its_rule() {
        for (text, pointer, rule) in [
            ("{\"module\": \"m", "/module", "ends too early"),
            ("{\"module\": m}", "/module", "is not valid JSON at line 1, column 12"),
            ("[]", "", "must be a JSON object"),
            ("{\"module\": \"m\"} {}", "", "goes on after"),
            ("{\"module\": 5}", "/module", "expected a string"),
            ("{\"module\": \"m\", \"metering\": 5}", "/metering", ""),
            ("{\"module\": \"m\", \"limits\": {\"fuel\": 1e999}}", "/limits/fuel", "out of range"),
            ("{\"module\": \"m\", \"retries\": -1}", "/retries", ""),
        ] {
            let (at, said, _) = wrong(text);
            assert_eq!(at, pointer, "{text}: {said}");
            assert!(said.contains(rule), "{text}: {said}");
            assert!(!said.contains('`') || rule.is_empty(), "{said}");
        }
        let deep = format!("{{\"module\": \"m\", \"params\": {}1{}}}", "[".repeat(500), "]".repeat(500));
        let (at, said, hint) = wrong(&deep);
        assert_eq!((at.as_str(), said.as_str()), ("/params", "must be nested at most 128 levels deep"));
        assert!(!hint.is_empty());
    }
}
