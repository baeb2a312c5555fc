//! What the derived JSON Schemas say beside the shape of a type: patterns, and lists of words.

use std::fmt::Write;

use schemars::{Schema, json_schema};
use serde_json::{Value, json};

/// Names of modules, tenants and zones.
pub const NAME_PATTERN: &str = "^[a-z][a-z0-9-]{0,62}$";
/// Names of nodes.
pub const NODE_NAME_PATTERN: &str = "^[a-z0-9][a-z0-9.-]{0,62}$";
/// Keys and values of labels; a key is not empty.
pub const LABEL_PATTERN: &str = "^[A-Za-z0-9_./-]{0,63}$";
/// Texts for people: no control characters.
pub const LINE_PATTERN: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";
/// Texts that a program gets: no zero byte.
pub const WORD_PATTERN: &str = r"^[^\u0000]*$";
/// Standard base64 with padding.
pub const BASE64_PATTERN: &str =
    "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";
/// Names of inputs: a plain file name, or an absolute path of such names outside the reserved places.
pub const INPUT_NAME_PATTERN: &str = r"^(?!\.{1,2}$|params\.json$|/in/params\.json$|/(in|out|tmp)$|/out/)((/(?!\.{1,2}(/|$))[^/\u0000]{1,255})+|[^/\u0000]{1,255})$";

/// The schema of a text in a form of its own.
pub(crate) fn text(pattern: &str, description: &str, example: &str) -> Schema {
    json_schema!({
        "type": "string", "pattern": pattern, "description": description, "examples": [example],
    })
}

/// Turns the derived schema of a closed list, one branch for each value, into one `enum` whose description
/// says what each value means. Readers of the API have to expect values that are new.
pub(crate) fn closed_list(schema: &mut Schema) {
    let Some(Value::Array(values)) = schema.remove("oneOf") else { return };
    let mut words = Vec::new();
    let mut meanings = String::new();
    for value in values {
        let Some(word) = value["const"].as_str() else { continue };
        let meaning = value["description"].as_str().unwrap_or_default().replace('\n', " ");
        let _ = write!(meanings, "\n- `{word}`: {meaning}");
        words.push(word.to_owned());
    }
    let about = schema.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
    schema.insert("type".into(), json!("string"));
    schema.insert("enum".into(), json!(words));
    schema.insert("description".into(), json!(format!("{about}\n{meanings}")));
}

/// At most 64 labels.
pub(crate) fn labels(schema: &mut Schema) {
    schema.remove("additionalProperties");
    schema.insert("maxProperties".into(), json!(64));
    schema.insert("additionalProperties".into(), json!({"type": "string", "pattern": LABEL_PATTERN}));
    schema.insert("propertyNames".into(), json!({"pattern": "^[A-Za-z0-9_./-]{1,63}$"}));
}

/// Variables of an environment.
pub(crate) fn environment(schema: &mut Schema) {
    schema.insert("maxProperties".into(), json!(1_024));
    schema.insert("additionalProperties".into(), json!({"type": "string", "pattern": WORD_PATTERN}));
    schema.insert("propertyNames".into(), json!({"pattern": r"^(?!GRISTMILL_)[^=\u0000]+$"}));
}
