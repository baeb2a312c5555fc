//! Every call of every test is held against the description of the API: its answer has to be a described
//! one, and a body that was taken has to be one that the description allows.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex},
};

use bytes::Bytes;
use jsonschema::Validator;
use serde_json::{Value, json};

use crate::http_api::{Answer, Call};

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_slice(&gristmill_server::http::description()).expect("the description is JSON")
});
static VALIDATORS: LazyLock<Mutex<HashMap<String, &'static Validator>>> = LazyLock::new(Mutex::default);

/// The operation that a call is, unless there is none.
fn operation(method: &str, target: &str) -> Option<(String, &'static Value)> {
    let path = target.split('?').next().unwrap_or_default();
    let paths = DOCUMENT["paths"].as_object().expect("there are paths");
    let (template, item) = paths
        .iter()
        .filter(|(template, _)| matches(template, path))
        .max_by_key(|(template, _)| template.split('/').filter(|part| !part.starts_with('{')).count())?;
    let item = &item[method.to_lowercase()];
    item.is_object().then(|| (format!("{method} {template}"), item))
}

fn matches(template: &str, path: &str) -> bool {
    let rest = template.strip_suffix("{path}");
    let template_parts = template.split('/').count();
    let parts: Vec<_> = path.split('/').collect();
    let is_long_enough =
        if rest.is_some() { parts.len() >= template_parts } else { parts.len() == template_parts };
    is_long_enough
        && template
            .split('/')
            .zip(parts)
            .all(|(template, part)| template.starts_with('{') || template == part)
}

fn resolved(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str() {
        Some(reference) => DOCUMENT.pointer(&reference[1..]).expect("leads somewhere"),
        None => value,
    }
}

fn validator(schema: &Value) -> &'static Validator {
    let mut known = VALIDATORS.lock().expect("no test panics while it holds this");
    known.entry(schema.to_string()).or_insert_with(|| {
        let whole = json!({"allOf": [schema], "components": DOCUMENT["components"]});
        Box::leak(Box::new(jsonschema::validator_for(&whole).expect("is a schema")))
    })
}

#[track_caller]
pub(crate) fn expect_valid(what: &str, schema: &Value, body: &Value) {
    let faults: Vec<_> = validator(schema)
        .iter_errors(body)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(faults.is_empty(), "{what} is not as described: {faults:#?}\n{body:#}");
}

/// What is compared of a call.
pub(crate) struct Asked {
    method: &'static str,
    target: String,
    media_type: Option<String>,
    body: Bytes,
}

impl From<&Call> for Asked {
    fn from(call: &Call) -> Self {
        let kind = call.headers.iter().find(|(name, _)| *name == "content-type");
        Self {
            method: call.method,
            target: call.target.clone(),
            media_type: kind.map(|(_, value)| value.clone()),
            body: call.body.clone(),
        }
    }
}

/// The described messages of a stream whose head was answered.
pub(crate) fn messages(asked: &Asked, head: &Answer) -> &'static Value {
    check(asked, head);
    let (name, operation) = operation(asked.method, &asked.target).expect("a stream is an operation");
    let messages = &operation["responses"]["200"]["content"]["text/event-stream"]["x-messages"];
    assert!(messages.is_object(), "{name} streams, which is not described");
    messages
}

/// Panics when a call went otherwise than the description says. Paths and methods that do not exist are
/// no operations and are not looked at.
pub(crate) fn check(asked: &Asked, answer: &Answer) {
    let Asked { method, target, media_type, body } = asked;
    let Some((name, operation)) = operation(method, target) else { return };
    let status = answer.status.as_u16().to_string();
    let response = resolved(&operation["responses"][&status]);
    assert!(response.is_object(), "{name} answers {status}, which is not described\n{:?}", answer.body);
    for (header, described) in response["headers"].as_object().into_iter().flatten() {
        let described = resolved(described);
        let value = answer.header(header);
        assert!(value.is_some() || described["required"] != true, "{name} {status}: no header {header}");
        if let Some(value) = value.filter(|_| described["schema"]["type"] == "string") {
            expect_valid(&format!("{name} {status}: {header}"), &described["schema"], &json!(value));
        }
    }
    if *method != "HEAD" {
        let kind = answer.header("content-type").unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default();
        let media = &response["content"][kind];
        assert!(
            media.is_object() || answer.body.is_empty(),
            "{name} {status}: the type {kind} is not described"
        );
        if kind.ends_with("json") && !answer.body.is_empty() {
            expect_valid(&format!("the answer of {name}"), &media["schema"], &answer.json());
        }
    }
    let taken = &operation["requestBody"]["content"]["application/json"]["schema"];
    let is_json = media_type.as_deref() == Some("application/json");
    // Of many items in one body, those that are wrong are refused in the answer.
    let is_partly_refused = answer.json()["refused"].as_u64().is_some_and(|count| count > 0);
    if answer.status.is_success() && taken.is_object() && is_json && !is_partly_refused {
        let body = serde_json::from_slice(body).expect("a body that was taken is JSON");
        expect_valid(&format!("the body of {name}"), taken, &body);
    }
}
