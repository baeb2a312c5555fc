//! Forms of texts in paths, queries and headers, as schemas alone.

use std::borrow::Cow;

use gristmill_protocol::{AttemptState, JobState, event::EventKind, schema::NAME_PATTERN};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident = $schema:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub(in crate::http) struct $name;

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    )*};
}

/// Words of a list, separated by commas.
fn list_of<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<_> = words.collect();
    let one = words.join("|");
    format!("^({one})(,({one}))*$")
}

words! {
    /// Name of a zone or tenant.
    Name = json_schema!({"type": "string", "pattern": NAME_PATTERN, "examples": ["lab"]});
    /// Name of a module, with its owner if that is another tenant.
    ModuleName = json_schema!({
        "type": "string", "pattern": "^([a-z][a-z0-9-]{0,62}:)?[a-z][a-z0-9-]{0,62}$", "examples": ["csv-summary"],
    });
    /// Name of a module of the caller's tenant.
    OwnModuleName = json_schema!({"type": "string", "pattern": NAME_PATTERN, "examples": ["csv-summary"]});
    /// Semantic version.
    Version = json_schema!({
        "type": "string", "maxLength": 128, "examples": ["1.0.0"],
        "pattern": "^(0|[1-9][0-9]{0,8})\\.(0|[1-9][0-9]{0,8})\\.(0|[1-9][0-9]{0,8})(-(0|[1-9][0-9]{0,8}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)(\\.(0|[1-9][0-9]{0,8}|[0-9]*[A-Za-z-][0-9A-Za-z-]*))*)?(\\+[0-9A-Za-z-]+(\\.[0-9A-Za-z-]+)*)?$",
    });
    /// Number of an attempt.
    AttemptNumber = json_schema!({
        "type": "integer", "minimum": 1, "maximum": 4_294_967_295_u32, "examples": [1],
    });
    /// Path of an output.
    OutputPath = json_schema!({"type": "string", "minLength": 1, "examples": ["summary.csv"]});
    /// How long to wait.
    Wait = json_schema!({
        "type": "string", "examples": ["30s"],
        "pattern": "^(([0-9]{1,6}(\\.[0-9]{1,6})?)(ms|s|m|min|h|d)){1,4}$|^[0-9]{1,6}(\\.[0-9]{1,6})?$",
    });
    /// A switch of the query.
    Switch = json_schema!({"type": "string", "enum": ["true", "false", ""], "examples": ["true"]});
    /// Key under which a repeated request is the same request.
    IdempotencyKey = json_schema!({
        "type": "string", "pattern": "^[!-~]([ -~]{0,253}[!-~])?$", "examples": ["nightly-2026-09-12"],
    });
    /// Entity tags of versions, or any.
    VersionTag = json_schema!({
        "type": "string", "pattern": "^(\\*|([, \\t]|(W/)?\"[!#-~]*\")*)$", "examples": ["\"3\""],
    });
    /// Entity tag of one version, or any.
    OneVersionTag = json_schema!({
        "type": "string", "pattern": "^(\\*|(W/)?\"[!#-~]*\")$", "examples": ["\"3\""],
    });
    /// Entity tags of content.
    ContentTags = json_schema!({
        "type": "string",
        "examples": ["\"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\""],
    });
    /// Entity tags that the caller knows.
    KnownTags = json_schema!({"type": "string", "examples": ["\"3\""]});
    /// A range of bytes.
    ByteRange = json_schema!({"type": "string", "examples": ["bytes=0-1023"]});
    /// RFC 9530.
    ContentDigest = json_schema!({
        "type": "string", "pattern": "^sha-256=:[A-Za-z0-9+/]{43}=:$",
        "examples": ["sha-256=:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=:"],
    });
    /// A stream of a log, or both by time.
    LogChoice = json_schema!({"type": "string", "enum": ["log", "stdout", "stderr"], "examples": ["stdout"]});
    /// Opaque.
    PageToken = json_schema!({"type": "string", "pattern": "^[A-Za-z0-9_-]+$"});
    /// Kinds of events.
    EventKinds = json_schema!({
        "type": "string", "pattern": list_of(EventKind::ALL.iter().map(|kind| kind.as_str())),
        "examples": ["job_submitted,job_finished"],
    });
    /// States of jobs and attempts.
    EventStates = json_schema!({
        "type": "string",
        "pattern": list_of(
            JobState::ALL.iter().map(|state| state.as_str()).chain(AttemptState::ALL.iter().map(|state| state.as_str()))
        ),
        "examples": ["succeeded,failed,cancelled"],
    });
    /// Id of an event.
    EventPosition = json_schema!({
        "type": "integer", "minimum": 0, "maximum": u64::MAX, "examples": [41],
    });
    /// Id of a message of a followed log.
    LogPosition = json_schema!({
        "type": "string", "pattern": "^[0-9]{1,19}(-[0-9]{1,19})?$", "examples": ["1024", "900-124"],
    });
    /// The trace of a call.
    Traceparent = json_schema!({
        "type": "string", "examples": ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
    });
    /// The form of a list of outputs.
    OutputsFormat = json_schema!({"type": "string", "enum": ["json", "tar"], "examples": ["tar"]});
    /// The version of tus.
    TusVersion = json_schema!({"type": "string", "const": "1.0.0", "examples": ["1.0.0"]});
    /// Bytes of an upload.
    UploadBytes = json_schema!({
        "type": "integer", "minimum": 0, "maximum": 999_999_999_999_999_u64, "examples": [1_048_576],
    });
    /// A structured field's boolean.
    UploadComplete = json_schema!({"type": "string", "pattern": "^\\?[01]$", "examples": ["?0"]});
    /// The length comes later.
    UploadDefer = json_schema!({"type": "string", "const": "1", "examples": ["1"]});
    /// Pairs of tus.
    UploadMetadata = json_schema!({
        "type": "string", "maxLength": 4_096, "examples": ["filename ZGF0YS5jc3Y=,is_private"],
    });
    /// Checksum of tus.
    UploadChecksum = json_schema!({
        "type": "string", "pattern": "^(sha1 [A-Za-z0-9+/]{27}=|sha256 [A-Za-z0-9+/]{43}=)$",
        "examples": ["sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="],
    });
    /// RFC 9530, with whatever algorithms.
    AnyDigest = json_schema!({
        "type": "string", "examples": ["sha-256=:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=:"],
    });
    /// The method that is meant.
    MethodOverride = json_schema!({
        "type": "string", "enum": ["PATCH", "HEAD", "DELETE"], "examples": ["PATCH"],
    });
    /// A label to look for.
    LabelPair = json_schema!({"type": "string", "pattern": ":", "examples": ["disk:fast"]});
}
