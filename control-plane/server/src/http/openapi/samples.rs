//! Examples of bodies, by the name of their type. A key is `Type`, or `Type:what_it_shows` where there are
//! several.

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::{Map, Value, json};

const FILES: &[&str] = &[
    include_str!("samples/jobs.json"),
    include_str!("samples/modules.json"),
    include_str!("samples/nodes.json"),
    include_str!("samples/tenancy.json"),
    include_str!("samples/protocol.json"),
    include_str!("samples/several.json"),
];
const PAGE: &str = "PageOf";

static SAMPLES: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    let files = FILES.iter().map(|file| serde_json::from_str::<BTreeMap<String, Value>>(file));
    files.flat_map(Result::unwrap_or_default).collect()
});

/// The examples of a type, as the `examples` of a media type; empty if there are none. A page holds the
/// example of what it lists.
pub(super) fn samples(name: &str) -> Map<String, Value> {
    if let Some(item) = name.strip_prefix(PAGE) {
        let pages = samples(item)
            .into_iter()
            .map(|(key, sample)| (key, json!({"value": {"items": [sample["value"]]}})));
        return pages.collect();
    }
    let of_type = |key: &str| match key.split_once(':') {
        Some((of, what)) => (of == name).then(|| what.to_owned()),
        None => (key == name).then(|| "example".to_owned()),
    };
    SAMPLES.iter().filter_map(|(key, value)| Some((of_type(key)?, json!({"value": value})))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_an_object_and_no_key_is_there_twice() {
        let mut count = 0;
        for file in FILES {
            count += serde_json::from_str::<BTreeMap<String, Value>>(file).expect("is an object").len();
        }
        assert_eq!(count, SAMPLES.len());
    }
}
