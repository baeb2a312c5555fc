//! The description of the API is true: it is the committed one, it names every route and no other, and its
//! examples are valid.

use std::{collections::BTreeSet, fs, path::Path};

use gristmill_protocol::{LimitsSpec, limits::SlotSize};
use serde_json::{Value, json};

use crate::http_api::{Api, call};

const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];

/// Media types without examples.
const BYTES: [&str; 3] = ["application/octet-stream", "application/x-tar", "multipart/byteranges"];

async fn document() -> Value {
    Api::start().await.send(call("GET", "/openapi.json")).await.json()
}

/// Every operation with its path and method.
pub(crate) fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().expect("there are paths");
    paths
        .iter()
        .flat_map(|(path, item)| {
            let item = item.as_object().expect("is an object");
            item.iter().map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
        })
        .collect()
}

/// What a `$ref` within the document names; anything else is itself.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => {
            let target = reference.strip_prefix('#').and_then(|pointer| document.pointer(pointer));
            target.unwrap_or_else(|| panic!("{reference} leads nowhere"))
        }
        None => value,
    }
}

#[tokio::test]
async fn the_committed_description_is_the_one_that_is_served() {
    let answer = Api::start().await.send(call("GET", "/openapi.json")).await;
    assert_eq!(answer.status, 200);
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    if std::env::var_os("INSTA_UPDATE").is_some_and(|mode| mode == "always") {
        fs::write(&committed, &answer.body).expect("can be written");
    }
    let same = fs::read(&committed).expect("it is committed") == answer.body;
    assert!(same, "control-plane/server/openapi.json is stale: run this test with INSTA_UPDATE=always");
}

#[tokio::test]
async fn the_description_needs_no_token_and_is_sent_once() {
    let api = Api::start().await;
    let first = api.send(call("GET", "/openapi.json")).await;
    assert_eq!(first.header("content-type"), Some("application/json"));
    assert_eq!(first.json()["openapi"], "3.1.0");
    let etag = first.header("etag").expect("it has a tag").to_owned();
    let second = api.send(call("GET", "/openapi.json").header("if-none-match", etag.clone())).await;
    assert_eq!((second.status.as_u16(), second.body.len()), (304, 0));
    assert_eq!(second.header("etag"), Some(etag.as_str()));
    let other = api.send(call("GET", "/openapi.json").header("if-none-match", "\"other\"")).await;
    assert_eq!(other.status, 200);
}

#[tokio::test]
async fn every_path_takes_the_methods_that_are_described_and_no_other() {
    let api = Api::start().await;
    let document = document().await;
    let paths = document["paths"].as_object().expect("there are paths");
    let mut wrong = Vec::new();
    for (path, item) in paths {
        let target = path.replace('{', "x").replace('}', "");
        for method in METHODS {
            let described = &item[method.to_lowercase()];
            // What serves GET serves HEAD as well; it is described where it is of use.
            let is_described = described.is_object() || (method == "HEAD" && item["get"].is_object());
            // Without it, what is only there for clients without PATCH would seem not to be there.
            let answer = api.send(call(method, &target).header("x-http-method-override", "PATCH")).await;
            let is_taken = answer.status != 405
                && !answer.json()["detail"].as_str().unwrap_or("").contains("there is nothing at");
            if is_described != is_taken {
                wrong.push(format!("{method} {path}: described {is_described}, taken {is_taken}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn every_operation_says_all_that_a_caller_needs() {
    let document = document().await;
    let mut ids = BTreeSet::new();
    let mut wrong = Vec::new();
    for (path, method, operation) in operations(&document) {
        let name = format!("{method} {path}");
        let mut check = |holds: bool, what: &str| {
            if !holds {
                wrong.push(format!("{name}: {what}"));
            }
        };
        for field in ["operationId", "summary", "description"] {
            check(operation[field].as_str().is_some_and(|text| !text.is_empty()), field);
        }
        check(ids.insert(operation["operationId"].to_string()), "its operationId is another's");
        check(operation["tags"].as_array().is_some_and(|tags| tags.len() == 1), "one tag");
        check(operation["security"].is_array(), "security");
        let in_path: BTreeSet<_> =
            path.split('{').skip(1).filter_map(|part| part.split('}').next()).collect();
        let parameters = operation["parameters"].as_array().expect("is a list");
        let described: BTreeSet<_> = parameters
            .iter()
            .filter(|parameter| parameter["in"] == "path")
            .filter_map(|parameter| parameter["name"].as_str())
            .collect();
        check(in_path == described, "the parts of the path are not those that are described");
        for parameter in parameters {
            check(parameter["description"].is_string(), &format!("{} has no description", parameter["name"]));
        }
        let responses = operation["responses"].as_object().expect("is an object");
        check(responses.keys().any(|status| status.starts_with('2')), "no answer is a success");
        let needs_token = !operation["security"].as_array().expect("a list").is_empty();
        check(responses.contains_key("401") == needs_token || path == "/v1/node/enroll", "401");
        for (status, response) in responses {
            let response = resolved(&document, response);
            let problem = &response["content"]["application/problem+json"]["schema"];
            let is_error = status.as_str() >= "400";
            check(
                is_error == problem.is_object() || method == "head",
                &format!("{status} has no problem document"),
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(ids.len() > 50, "only {} operations", ids.len());
}

fn of_schema(schema: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    schema["examples"].as_array().into_iter().flatten().map(move |example| (schema, example))
}

/// Every example with the schema that it is an example of.
fn examples<'a>(document: &'a Value, operation: &'a Value) -> Vec<(&'a Value, &'a Value)> {
    let mut found = Vec::new();
    let responses = operation["responses"].as_object().into_iter().flatten();
    let bodies = responses
        .map(|(_, response)| resolved(document, response))
        .chain(std::iter::once(&operation["requestBody"]));
    for media in bodies.flat_map(|body| body["content"].as_object().into_iter().flatten()) {
        let examples = media.1["examples"].as_object().into_iter().flatten();
        found.extend(examples.map(|(_, example)| (&media.1["schema"], &example["value"])));
    }
    let responses = operation["responses"].as_object().into_iter().flatten();
    let headers = responses.filter_map(|(_, response)| resolved(document, response)["headers"].as_object());
    let headers = headers.flatten().map(|(_, header)| &resolved(document, header)["schema"]);
    found.extend(headers.flat_map(of_schema));
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let schema = resolved(document, &parameter["schema"]);
        found.extend(of_schema(schema));
    }
    found
}

#[tokio::test]
async fn every_operation_has_examples_and_they_are_valid() {
    let document = document().await;
    let components = &document["components"];
    let mut wrong = Vec::new();
    for (path, method, operation) in operations(&document) {
        for (status, response) in operation["responses"].as_object().expect("is an object") {
            for (kind, media) in resolved(&document, response)["content"].as_object().into_iter().flatten() {
                let has_one = media["examples"].as_object().is_some_and(|all| !all.is_empty());
                if !BYTES.contains(&kind.as_str()) && !has_one {
                    wrong.push(format!(
                        "{method} {path} {status}: no example; add one to src/http/openapi/samples"
                    ));
                }
            }
        }
        let body = &operation["requestBody"]["content"]["application/json"];
        if body.is_object() && body["examples"].as_object().is_none_or(serde_json::Map::is_empty) {
            wrong.push(format!("{method} {path}: no example of a body; add one to src/http/openapi/samples"));
        }
        let examples = examples(&document, operation);
        if !examples.iter().any(|(_, example)| example["type"] != "about:blank") {
            wrong.push(format!("{method} {path}: no example"));
        }
        for (schema, example) in examples {
            let whole = json!({"allOf": [schema], "components": components});
            let validator = jsonschema::validator_for(&whole).expect("is a schema");
            for error in validator.iter_errors(example) {
                wrong.push(format!("{method} {path}: {}: {error}", error.instance_path()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_changed_example_would_be_noticed() {
    let document = document().await;
    let whole = json!({"$ref": "#/components/schemas/JobView", "components": document["components"]});
    let validator = jsonschema::validator_for(&whole).expect("is a schema");
    let content =
        &document["paths"]["/v1/jobs/{id}"]["get"]["responses"]["200"]["content"]["application/json"];
    let example = &content["examples"]["example"]["value"];
    assert!(validator.is_valid(example));
    let mut without_id = example.clone();
    without_id.as_object_mut().expect("is an object").remove("id");
    assert!(!validator.is_valid(&without_id));
    let mut with_odd_id = example.clone();
    with_odd_id["id"] = json!("job_1");
    assert!(!validator.is_valid(&with_odd_id));
}

#[tokio::test]
async fn the_limits_have_the_ranges_that_are_enforced() {
    let document = document().await;
    let fields =
        document["components"]["schemas"]["LimitsSpec"]["properties"].as_object().expect("has fields");
    let numbers = fields.iter().filter(|(name, _)| name.as_str() != "metering");
    let mut checked = 0;
    for (name, schema) in numbers {
        for (value, bound) in [(0, "minimum"), (u64::from(u32::MAX), "maximum"), (u64::MAX, "maximum")] {
            let Ok(spec) = serde_json::from_value::<LimitsSpec>(json!({name: value})) else { continue };
            for fault in spec.resolve(SlotSize::default()).err().into_iter().flatten() {
                assert_eq!(fault.field, name);
                let enforced = if bound == "minimum" { fault.min } else { fault.max };
                assert_eq!(schema[bound], json!(enforced), "{name}");
                checked += 1;
            }
        }
    }
    assert!(checked >= 20, "only {checked} bounds were looked at");
}

#[tokio::test]
async fn the_reference_page_asks_no_other_server_and_runs_no_other_script() {
    let api = Api::start().await;
    let page = api.send(call("GET", "/docs")).await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").expect("it has a policy");
    let allowed: BTreeSet<_> = policy.split(';').map(str::trim).collect();
    for rule in ["default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"] {
        assert!(allowed.contains(rule), "{rule} is missing in {policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
    let mut whole = String::from_utf8(page.body.to_vec()).expect("is text");
    for (target, kind) in
        [("/docs/page.css", "text/css; charset=utf-8"), ("/docs/page.js", "text/javascript; charset=utf-8")]
    {
        assert!(whole.contains(&format!("\"{target}\"")), "the page does not load {target}");
        let part = api.send(call("GET", target)).await;
        assert_eq!((part.status.as_u16(), part.header("content-type")), (200, Some(kind)));
        whole += std::str::from_utf8(&part.body).expect("is text");
    }
    for foreign in ["http:", "https:", "\"//", "'//", "url(", "@import", "import("] {
        assert!(!whole.contains(foreign), "the page names {foreign}");
    }
    for unsafe_sink in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
        assert!(!whole.contains(unsafe_sink), "the page uses {unsafe_sink}");
    }
}
