//! Operations as an OpenAPI 3.1 document.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use gristmill_protocol::{
    ErrorCode, Problem,
    node_api::{LEASE_HEADER, SIGNATURE_HEADER, SIGNATURE_INPUT_HEADER},
};
use serde_json::{Map, Value, json};

use super::{
    operation::{Access, Answer, Body, Content, Header, Operation, SchemaOf, Tag},
    samples::samples,
    schemas::{Schemas, without_null},
};
use crate::ops;

const INTRODUCTION: &str = "Gristmill runs WebAssembly programs as jobs. Errors are problem documents (RFC 9457) \
    with a `code` from a closed list, a `hint`, and the fields that are wrong. Lists are paged: pass \
    `next_page_token` on as `page_token`. Things that change carry an `ETag`, \
    and so do bytes; whatever has one is read under `If-Match` and `If-None-Match`. Every answer carries \
    `X-Request-Id`, which finds the request in the server's log.\n\nAnswers may get new fields, and closed lists \
    new values; requests with unknown fields or parameters are refused.";

/// The headers that tell how many requests a token has left.
const ALLOWANCE: [&str; 2] = ["ratelimit", "ratelimit-policy"];
/// The media type of errors (RFC 9457).
const PROBLEM: &str = "application/problem+json";

/// Makes the document.
pub(in crate::http) fn document(operations: &[Operation]) -> Value {
    let mut schemas = Schemas::new();
    let mut refusals = BTreeMap::new();
    let mut paths = Map::new();
    for operation in operations {
        let path = operation.path.replace("{*", "{");
        let described = describe(operation, &mut schemas, &mut refusals);
        let item = paths.entry(path).or_insert_with(|| json!({}));
        if let Some(id) = operation.head_id {
            item["head"] = twin(&described, id);
        }
        item[operation.method] = described;
    }
    let problem: SchemaOf = |generator| generator.subschema_for::<Problem>();
    schemas.shown(problem);
    let (components, paths) = schemas.finish(Value::Object(paths));
    let tags: Vec<_> =
        Tag::ALL.iter().map(|tag| json!({"name": tag.name(), "description": tag.about()})).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Gristmill",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "A WASM job runtime.",
            "description": INTRODUCTION,
            "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "This server."}],
        "tags": tags,
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": refusals,
            "headers": headers(),
            "securitySchemes": security_schemes(),
        },
    })
}

impl Tag {
    const ALL: [Self; 10] = [
        Self::Modules,
        Self::Blobs,
        Self::Uploads,
        Self::Jobs,
        Self::Events,
        Self::Zones,
        Self::Nodes,
        Self::Tenancy,
        Self::System,
        Self::NodeProtocol,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Modules => "modules",
            Self::Blobs => "blobs",
            Self::Uploads => "uploads",
            Self::Jobs => "jobs",
            Self::Events => "events",
            Self::Zones => "zones",
            Self::Nodes => "nodes",
            Self::Tenancy => "tenants and tokens",
            Self::System => "system",
            Self::NodeProtocol => "node protocol",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Modules => "Programs: published once under a name and version, then run by name or digest.",
            Self::Blobs => "Bytes by their SHA-256: inputs go in, outputs come out.",
            Self::Jobs => "Requests to run a module: submit, wait, read logs, fetch outputs.",
            Self::Uploads => {
                "Large blobs in pieces, resumed after a break: in tus 1.0.0, which any client with the header `Tus-Resumable` speaks, or as the IETF drafts it (draft-ietf-httpbis-resumable-upload). Both continue the same uploads. Refusals too carry `Tus-Resumable`, with `Tus-Version` when that is not spoken here, or `Upload-Complete`, which is `?1` when the bytes themselves were wrong, so that resuming is of no use."
            }
            Self::Events => "What happens, as it happens.",
            Self::Zones => "Regions of the network in which nodes run, and what each allows.",
            Self::Nodes => "Machines that run jobs, and the tokens with which they join.",
            Self::Tenancy => "Who jobs belong to, and who may do what.",
            Self::System => "The server itself.",
            Self::NodeProtocol => {
                "What a node says to the server. Every call but the enrolment is signed with the node's Ed25519 key (RFC 9421); every call about an attempt is authorised by its current lease. All calls may be repeated."
            }
        }
    }
}

/// Headers of many answers.
fn headers() -> Value {
    let text = |about: &str, pattern: &str, example: &str| json!({"description": about, "schema": {"type": "string", "pattern": pattern, "examples": [example]}});
    let mut id =
        text("Finds the request in the server's log.", "^req_[0-9a-f]{20}$", "req_3f2504e04f8941d39a0c");
    id["required"] = json!(true);
    let [left, policy] = ALLOWANCE;
    json!({
        "x-request-id": id,
        left: text(
            "Requests that the token has left (`r`), and the seconds until it has all of them again (`t`), if the server bounds the rate.",
            "^\"token\";r=[0-9]+;t=[0-9]+$", "\"token\";r=99;t=1",
        ),
        policy: text(
            "How many requests the token has at once (`q`), and in how many seconds they come back (`w`), if the server bounds the rate.",
            "^\"token\";q=[0-9]+;w=[0-9]+$", "\"token\";q=100;w=10",
        ),
    })
}

fn security_schemes() -> Value {
    let header = |name: &str, about: &str| json!({"type": "apiKey", "in": "header", "name": name, "description": about});
    json!({
        "token": {
            "type": "http", "scheme": "bearer", "bearerFormat": "gmu_…",
            "description": "A user token. The scope that an operation needs is named with it; `admin` has every scope.",
        },
        "node_signature": header(SIGNATURE_HEADER, "RFC 9421 over `@method`, `@path`, `@query` and, when present, `content-digest` and `gristmill-lease`, with the node's Ed25519 key."),
        "node_signature_input": header(SIGNATURE_INPUT_HEADER, "What the signature covers: `sig1=(…);created=…;nonce=\"…\";keyid=\"node_…\";alg=\"ed25519\"`."),
        "lease": header(LEASE_HEADER, "The token of the attempt's current lease."),
    })
}

fn security(access: &Access) -> Value {
    match access {
        Access::Open => json!([]),
        Access::Token(scopes) if scopes.is_empty() => json!([{"token": []}]),
        Access::Token(scopes) => scopes.iter().map(|scope| json!({"token": [scope]})).collect(),
        Access::Signed => json!([{"node_signature": [], "node_signature_input": []}]),
        Access::UnderLease => json!([{"node_signature": [], "node_signature_input": [], "lease": []}]),
    }
}

fn describe(operation: &Operation, schemas: &mut Schemas, refusals: &mut BTreeMap<String, Value>) -> Value {
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "description": description(operation),
        "tags": [operation.tag.name()],
        "security": security(&operation.access),
        "parameters": parameters(operation, schemas),
        "responses": responses(operation, schemas, refusals),
    });
    if let Some(body) = &operation.body {
        described["requestBody"] = request_body(body, schemas);
    }
    described
}

fn description(operation: &Operation) -> String {
    let access = match &operation.access {
        Access::Open => "Needs no token.".to_owned(),
        Access::Token(scopes) if scopes.is_empty() => "Needs a token of any scope.".to_owned(),
        Access::Token(scopes) => {
            let scopes: Vec<_> = scopes.iter().map(|scope| format!("`{scope}`")).collect();
            format!("Needs a token with the scope {}.", scopes.join(" or "))
        }
        Access::Signed => "Signed by the node.".to_owned(),
        Access::UnderLease => "Signed by the node, under the current lease of the attempt.".to_owned(),
    };
    format!("{}\n\n{access}", operation.description).trim_start().to_owned()
}

fn parameters(operation: &Operation, schemas: &mut Schemas) -> Vec<Value> {
    let mut described = Vec::new();
    for parameter in &operation.parameters {
        described.push(json!({
            "in": parameter.place,
            "name": parameter.name,
            "description": parameter.about,
            "required": parameter.required,
            "schema": without_null(schemas.taken(parameter.schema)),
        }));
    }
    let query = operation.query.map(|query| schemas.taken(query)).unwrap_or_default();
    let required = query["required"].as_array().cloned().unwrap_or_default();
    for (name, schema) in query["properties"].as_object().into_iter().flatten() {
        let mut schema = without_null(schema.clone());
        let about = schema.as_object_mut().and_then(|fields| fields.remove("description"));
        described.push(json!({
            "in": "query",
            "name": name,
            "description": about,
            "required": required.iter().any(|field| field == name),
            "schema": schema,
        }));
    }
    described
}

fn request_body(body: &Body, schemas: &mut Schemas) -> Value {
    match body {
        Body::Json { schema, name } => json!({
            "required": true,
            "content": {"application/json": {"schema": schemas.taken(*schema), "examples": samples(name)}},
        }),
        Body::Items { schema, name, about } => {
            let one = schemas.taken(*schema);
            let all: Vec<_> = samples(name).into_values().map(|sample| sample["value"].clone()).collect();
            let lines: Vec<_> = all.iter().map(ToString::to_string).collect();
            json!({"required": true, "description": about, "content": {
                "application/json": {
                    "schema": {"type": "array", "items": one}, "examples": {"array": {"value": all}},
                },
                "application/x-ndjson": {"schema": {"type": "string"}, "examples": {"lines": {"value": lines.join("\n")}}},
            }})
        }
        Body::Bytes { media_types, about, required } => {
            let content: Map<_, _> = media_types.iter().map(|kind| ((*kind).to_owned(), json!({}))).collect();
            json!({"required": required, "description": about, "content": content})
        }
    }
}

fn responses(
    operation: &Operation,
    schemas: &mut Schemas,
    refusals: &mut BTreeMap<String, Value>,
) -> Map<String, Value> {
    let mut responses = Map::new();
    for answer in &operation.answers {
        let mut described = response(answer, schemas);
        if matches!(operation.access, Access::Token(_)) {
            for name in ALLOWANCE {
                described["headers"][name] = json!({"$ref": format!("#/components/headers/{name}")});
            }
        }
        match responses.get_mut(&answer.status.to_string()) {
            Some(earlier) => also(earlier, &described),
            None => {
                responses.insert(answer.status.to_string(), described);
            }
        }
    }
    let mut by_status: BTreeMap<u16, BTreeSet<ErrorCode>> = BTreeMap::new();
    for code in operation.codes() {
        by_status.entry(code.status()).or_default().insert(code);
    }
    for (status, codes) in by_status {
        // Some have an answer of their own with the same status.
        if let Some(own) = responses.get_mut(&status.to_string()) {
            own["content"][PROBLEM] = refusal(status, &codes)["content"][PROBLEM].take();
            continue;
        }
        let name = codes.iter().map(|code| code.as_str()).collect::<Vec<_>>().join(".");
        responses.insert(status.to_string(), json!({"$ref": format!("#/components/responses/{name}")}));
        refusals.entry(name).or_insert_with(|| refusal(status, &codes));
    }
    responses
}

fn response(answer: &Answer, schemas: &mut Schemas) -> Value {
    let mut headers = Map::new();
    headers.insert("x-request-id".into(), json!({"$ref": "#/components/headers/x-request-id"}));
    for Header { name, about, schema, required } in &answer.headers {
        headers.insert((*name).into(), json!({"description": about, "required": required, "schema": schema}));
    }
    let mut described = json!({"description": answer.about, "headers": headers});
    match &answer.content {
        Content::Nothing => {}
        Content::Json { schema, name } => {
            described["content"]["application/json"] =
                json!({"schema": schemas.shown(*schema), "examples": samples(name)});
        }
        Content::Stream(messages) => described["content"]["text/event-stream"] = stream(messages, schemas),
        Content::Other { media_type, example: None } => described["content"][media_type] = json!({}),
        Content::Other { media_type, example: Some(example) } => {
            let kind = if example.is_string() { "string" } else { "object" };
            described["content"][media_type] =
                json!({"schema": {"type": kind}, "examples": {"example": {"value": example}}});
        }
    }
    described
}

/// A stream of messages. The data of each, which no keyword of OpenAPI 3.1 can describe, is in `x-messages`.
fn stream(messages: &[(&str, SchemaOf, Cow<'_, str>)], schemas: &mut Schemas) -> Value {
    let mut types = Map::new();
    let mut texts = Vec::new();
    for (number, (message, schema, name)) in (41..).zip(messages) {
        let data = samples(name).into_values().next().unwrap_or_default();
        texts.push(format!("id: {number}\nevent: {message}\ndata: {}\n\n", data["value"]));
        types.insert((*message).to_owned(), schemas.shown(*schema));
    }
    json!({"schema": {"type": "string"}, "examples": {"example": {"value": texts.concat()}}, "x-messages": types})
}

/// Adds a second form of an answer with the same status. Only headers of both are certain.
fn also(earlier: &mut Value, other: &Value) {
    let text = |value: &Value| value["description"].as_str().unwrap_or_default().to_owned();
    earlier["description"] = json!(format!("{} {}", text(earlier), text(other)));
    let (mine, others) = (earlier["headers"].take(), &other["headers"]);
    let names = [&mine, others].into_iter().filter_map(Value::as_object).flatten();
    for (name, header) in names {
        let mut header = header.clone();
        if [&mine, others].iter().any(|headers| headers[name].is_null() || headers[name]["required"] == false)
        {
            header["required"] = json!(false);
        }
        earlier["headers"][name] = header;
    }
    for (kind, media) in other["content"].as_object().into_iter().flatten() {
        let present = &mut earlier["content"][kind];
        if present.is_null() {
            *present = media.clone();
            continue;
        }
        present["schema"] = json!({"anyOf": [present["schema"], media["schema"]]});
        // A mark at the end of a reference is gone later.
        let of = media["schema"]["$ref"].as_str().and_then(|reference| reference.rsplit('/').next());
        let of = of.unwrap_or_default().trim_end_matches('?').to_owned();
        for (_, example) in media["examples"].as_object().into_iter().flatten() {
            present["examples"][&of] = example.clone();
        }
    }
}

/// The problem documents of one status.
fn refusal(status: u16, codes: &BTreeSet<ErrorCode>) -> Value {
    let titles: Vec<_> = codes.iter().map(|code| code.title()).collect();
    let examples: Map<_, _> =
        codes.iter().map(|code| (code.to_string(), json!({"value": example(*code)}))).collect();
    let mut headers = json!({"x-request-id": {"$ref": "#/components/headers/x-request-id"}});
    if codes.contains(&ErrorCode::Unauthenticated) && codes.len() == 1 {
        headers["www-authenticate"] =
            json!({"description": "How to authenticate.", "required": true, "schema": {"type": "string"}});
    }
    if status == 429 {
        for name in ALLOWANCE {
            headers[name] = json!({"$ref": format!("#/components/headers/{name}")});
        }
    }
    if [429, 503].contains(&status) {
        headers["retry-after"] = json!({
            "description": "Seconds after which to try again.", "schema": {"type": "integer", "minimum": 0},
        });
    }
    let mut properties = json!({"status": {"const": status}, "code": {"enum": codes}});
    if codes.contains(&ErrorCode::RangeNotSatisfiable) {
        headers["content-range"] = json!({
            "description": "How many bytes there are.", "schema": {"type": "string", "pattern": "^bytes \\*/[0-9]+$"},
        });
    }
    if codes.contains(&ErrorCode::UploadOffsetMismatch) {
        let offset = |about: &str| json!({"description": about, "type": "integer", "minimum": 0});
        headers["upload-offset"] = json!({
            "description": "Where the upload ends (IETF).", "schema": {"type": "string", "pattern": "^[0-9]+$"},
        });
        properties["expected-offset"] = offset("Where the upload ends.");
        properties["provided-offset"] = offset("Where the piece begins.");
    }
    json!({
        "description": format!("Refused: {}.", titles.join(", ")),
        "headers": headers,
        "content": {PROBLEM: {
            "schema": {"allOf": [{"$ref": "#/components/schemas/Problem"}], "properties": properties},
            "examples": examples,
        }},
    })
}

fn example(code: ErrorCode) -> Value {
    let problem = Problem {
        kind: "about:blank".into(),
        title: code.title().into(),
        status: code.status(),
        detail: format!("what went wrong in this one case of {code}"),
        code,
        hint: Some("what to do next".into()),
        request_id: Some("req_3f2504e04f8941d39a0c".into()),
        errors: Vec::new(),
    };
    let mut problem = json!(problem);
    match code {
        ErrorCode::UploadOffsetMismatch => {
            problem["type"] = json!(ops::OFFSET_PROBLEM);
            problem["expected-offset"] = json!(1_048_576);
            problem["provided-offset"] = json!(0);
        }
        ErrorCode::UploadLengthMismatch => problem["type"] = json!(ops::LENGTH_PROBLEM),
        _ => {}
    }
    problem
}

/// The same operation with the method HEAD: no content.
fn twin(described: &Value, id: &str) -> Value {
    let mut twin = described.clone();
    twin["operationId"] = json!(id);
    twin["summary"] = json!(format!("{}: headers only", twin["summary"].as_str().unwrap_or_default()));
    for (_, response) in twin["responses"].as_object_mut().into_iter().flatten() {
        if let Some(fields) = response.as_object_mut() {
            fields.remove("content");
        }
    }
    twin
}
