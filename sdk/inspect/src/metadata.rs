//! What a module says about itself in custom sections. Name and debug sections are never read.

use gristmill_protocol::ErrorCode;
use wasmparser::CustomSectionReader;

use crate::refusal::Refusal;

/// The custom section that holds the JSON Schema of the job's params.
pub const PARAMS_SECTION: &str = "gristmill:params";
/// Largest params schema, in bytes.
pub const PARAMS_SCHEMA_BYTES_MAX: usize = 64 << 10;
/// Deepest nesting of a params schema. It is sent and stored within other JSON, and readers have limits.
const PARAMS_SCHEMA_DEPTH_MAX: usize = 64;
/// Longest text that is kept, in bytes.
const TEXT_BYTES_MAX: usize = 4 << 10;

/// Bytes of a text that are read, blanks around it included.
const TEXT_BYTES_READ: usize = 16 << 10;

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    pub(crate) description: Option<String>,
    pub(crate) licenses: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) params_schema: Option<serde_json::Value>,
}

impl Texts {
    pub(crate) fn note(&mut self, section: &CustomSectionReader<'_>) -> Result<(), Refusal> {
        match section.name() {
            "description" => self.description = text(section.data()),
            "licenses" => self.licenses = text(section.data()),
            "source" => self.source = text(section.data()),
            PARAMS_SECTION => self.params_schema = Some(params_schema_json(section.data())?),
            _ => {}
        }
        Ok(())
    }
}

/// A text as far as it is UTF-8 and short enough. Nothing beyond [`TEXT_BYTES_READ`] is looked at.
fn text(bytes: &[u8]) -> Option<String> {
    let head = &bytes[..bytes.len().min(TEXT_BYTES_READ)];
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The cut may go through a character.
        Err(cut) if cut.error_len().is_none() && head.len() < bytes.len() => {
            std::str::from_utf8(&head[..cut.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let text = text.trim();
    let end = text.floor_char_boundary(TEXT_BYTES_MAX);
    (!text.is_empty()).then(|| text[..end].to_owned())
}

/// Reads the JSON of a params schema. Whether it is a JSON Schema is for the caller to find out. Fails
/// with `module_invalid` when it is no JSON, larger than [`PARAMS_SCHEMA_BYTES_MAX`] or nested too deep.
pub fn params_schema_json(bytes: &[u8]) -> Result<serde_json::Value, Refusal> {
    let invalid = |detail: String| {
        Refusal::new(
            ErrorCode::ModuleInvalid,
            format!("the params schema {detail}"),
            "give a self-contained JSON Schema of at most 64 KiB",
        )
    };
    if bytes.len() > PARAMS_SCHEMA_BYTES_MAX {
        return Err(invalid(format!("has {} bytes; 64 KiB are allowed", bytes.len())));
    }
    let schema = serde_json::from_slice(bytes).map_err(|error| invalid(format!("is not JSON: {error}")))?;
    if is_deeper(&schema, PARAMS_SCHEMA_DEPTH_MAX) {
        return Err(invalid(format!("is nested more than {PARAMS_SCHEMA_DEPTH_MAX} deep")));
    }
    Ok(schema)
}

fn is_deeper(value: &serde_json::Value, levels: usize) -> bool {
    let deeper = |inner: &serde_json::Value| levels == 0 || is_deeper(inner, levels - 1);
    match value {
        serde_json::Value::Array(items) => items.iter().any(deeper),
        serde_json::Value::Object(fields) => fields.values().any(deeper),
        _ => false,
    }
}
