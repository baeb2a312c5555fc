//! API errors: a closed list of codes and the problem document of RFC 9457.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reason::closed_list;

closed_list! {
    /// What went wrong with a request.
    ErrorCode {
        /// The bytes are no valid WASM module or component.
        ModuleInvalid = "module_invalid",
        /// The module is larger than the size limit.
        ModuleTooLarge = "module_too_large",
        /// The module has more functions, locals, blocks or types than the complexity limits allow.
        ModuleTooComplex = "module_too_complex",
        /// The module exports neither `_start` nor `wasi:cli/run`.
        ModuleNoEntry = "module_no_entry",
        /// The module imports something that no node provides.
        ImportNotAllowed = "import_not_allowed",
        /// The module uses a WASM feature that is switched off.
        UnsupportedFeature = "unsupported_feature",
        /// This version exists with other bytes.
        VersionExists = "version_exists",
        /// Bytes do not have the digest that was declared.
        DigestMismatch = "digest_mismatch",
        /// A piece of an upload does not have the checksum that came with it.
        ChecksumMismatch = "checksum_mismatch",
        /// The piece does not begin where the upload ends.
        UploadOffsetMismatch = "upload_offset_mismatch",
        /// The lengths that were given for one upload differ.
        UploadLengthMismatch = "upload_length_mismatch",
        /// The tenant's unfinished uploads are at their limit, in number or bytes.
        UploadLimit = "upload_limit",
        /// The idempotency key was used with another body.
        IdempotencyKeyMismatch = "idempotency_key_mismatch",
        /// The lease is no longer held.
        LeaseLost = "lease_lost",
        /// The queue is at its depth limit.
        QueueFull = "queue_full",
        /// Too many requests.
        RateLimited = "rate_limited",
        /// No zone or node can ever run the job.
        NeverRunnable = "never_runnable",
        /// Events that were asked for are no longer kept.
        EventsGone = "events_gone",
        /// There is no such thing, or it is not visible to this token.
        NotFound = "not_found",
        /// The token lacks the scope for this.
        Forbidden = "forbidden",
        /// There is no valid credential on the request.
        Unauthenticated = "unauthenticated",
        /// The request's signature is older or newer than the server's clock allows.
        ClockSkew = "clock_skew",
        /// The request is malformed or a value is out of range.
        InvalidRequest = "invalid_request",
        /// The method is not allowed on this path.
        MethodNotAllowed = "method_not_allowed",
        /// The body is larger than this path allows.
        BodyTooLarge = "body_too_large",
        /// The request target, path and query, is longer than allowed.
        TargetTooLong = "target_too_long",
        /// The request has too many headers, or its head too many bytes.
        HeadTooLarge = "head_too_large",
        /// The body has another content type than this path expects.
        UnsupportedMediaType = "unsupported_media_type",
        /// The state of the thing does not allow this now.
        Conflict = "conflict",
        /// The `If-Match` precondition failed, or the range cannot be served.
        PreconditionFailed = "precondition_failed",
        /// The requested range lies outside the content.
        RangeNotSatisfiable = "range_not_satisfiable",
        /// The node speaks a protocol version that this server does not.
        ProtocolVersion = "protocol_version",
        /// The server is starting, stopping or overloaded.
        Unavailable = "unavailable",
        /// The server failed; the request id finds the cause in its log.
        Internal = "internal",
    }
}

impl ErrorCode {
    /// The HTTP status that goes with the code.
    pub fn status(self) -> u16 {
        match self {
            Self::ModuleInvalid
            | Self::ModuleTooComplex
            | Self::ModuleNoEntry
            | Self::ImportNotAllowed
            | Self::UnsupportedFeature
            | Self::DigestMismatch
            | Self::IdempotencyKeyMismatch
            | Self::NeverRunnable => 422,
            Self::ModuleTooLarge | Self::BodyTooLarge => 413,
            Self::VersionExists | Self::LeaseLost | Self::UploadOffsetMismatch | Self::Conflict => 409,
            Self::QueueFull | Self::UploadLimit | Self::RateLimited => 429,
            Self::NotFound => 404,
            Self::EventsGone => 410,
            Self::Forbidden => 403,
            Self::Unauthenticated | Self::ClockSkew => 401,
            Self::InvalidRequest | Self::UploadLengthMismatch | Self::ProtocolVersion => 400,
            Self::MethodNotAllowed => 405,
            Self::TargetTooLong => 414,
            Self::HeadTooLarge => 431,
            Self::UnsupportedMediaType => 415,
            Self::PreconditionFailed => 412,
            Self::RangeNotSatisfiable => 416,
            // The status that tus 1.0 gives it.
            Self::ChecksumMismatch => 460,
            Self::Unavailable => 503,
            Self::Internal => 500,
        }
    }

    /// What to do next where nothing more is known of the case.
    pub fn hint(self) -> &'static str {
        match self {
            Self::ModuleInvalid => "build the module for wasm32-wasip1 or wasm32-wasip2 and send that file",
            Self::ModuleTooLarge => "leave out debug symbols, and give large data to jobs as inputs",
            Self::ModuleTooComplex => "optimise the program for size, or split it",
            Self::ModuleNoEntry => "build a program with a main function rather than a library",
            Self::ImportNotAllowed => "build for WASI preview 1 or 0.2; nodes provide nothing else",
            Self::UnsupportedFeature => "switch the feature off in the compiler",
            Self::VersionExists => "publish these bytes as another version",
            Self::DigestMismatch => {
                "name the digest of the bytes themselves; if it is right, send them again"
            }
            Self::ChecksumMismatch => "nothing of the piece was kept; send it again",
            Self::UploadOffsetMismatch => "HEAD on the upload tells the offset; go on from there",
            Self::UploadLengthMismatch => "a length, once given, stays; begin a new upload for other bytes",
            Self::UploadLimit => "finish or delete unfinished uploads: GET and DELETE /v1/uploads",
            Self::IdempotencyKeyMismatch => {
                "use a new key for a new job, or send the very same request again"
            }
            Self::LeaseLost => "stop the guest and report nothing; the job is in other hands or has ended",
            Self::QueueFull => "submit again after a while; jobs that were accepted are not affected",
            Self::RateLimited => "wait as long as Retry-After says; ?wait= replaces many polls by one",
            Self::NeverRunnable => "ask for less, for other labels or for another zone",
            Self::NotFound => "check the name or id; the lists show what this token may see",
            Self::EventsGone => "read the jobs as they are now, and follow events from the newest on",
            Self::Forbidden => "ask an administrator for a token that may do this",
            Self::Unauthenticated => "send the header Authorization: Bearer TOKEN",
            Self::ClockSkew => "set the machine's clock, best by NTP",
            Self::InvalidRequest => "nothing was done: correct the request and send it again",
            Self::MethodNotAllowed => "the header Allow names what the path takes",
            Self::BodyTooLarge => "send less at once; large data goes into blobs, which jobs name by digest",
            Self::TargetTooLong => "send long values in the body of the request",
            Self::HeadTooLarge => "send fewer or shorter headers",
            Self::UnsupportedMediaType => "/openapi.json names the Content-Type that the path takes",
            Self::Conflict => "look at its present state; it has to change before this can be done",
            Self::PreconditionFailed => "read it again, apply the change to that, and repeat",
            Self::RangeNotSatisfiable => "ask for bytes that are there; HEAD tells how many",
            Self::ProtocolVersion => "install server and node of one release",
            Self::Unavailable => "repeat the request in a moment",
            Self::Internal => "the request id finds the cause in the server's log",
        }
    }

    /// Short human title, the same for every occurrence (RFC 9457 `title`).
    pub fn title(self) -> &'static str {
        match self {
            Self::ModuleInvalid => "not a valid WASM module",
            Self::ModuleTooLarge => "module too large",
            Self::ModuleTooComplex => "module too complex",
            Self::ModuleNoEntry => "module has no entry point",
            Self::ImportNotAllowed => "import not allowed",
            Self::UnsupportedFeature => "unsupported WASM feature",
            Self::VersionExists => "version exists",
            Self::DigestMismatch => "digest mismatch",
            Self::ChecksumMismatch => "checksum mismatch",
            Self::UploadOffsetMismatch => "offset from request does not match offset of upload",
            Self::UploadLengthMismatch => "inconsistent length values for upload",
            Self::UploadLimit => "too many unfinished uploads",
            Self::IdempotencyKeyMismatch => "idempotency key used with another body",
            Self::LeaseLost => "lease lost",
            Self::QueueFull => "queue full",
            Self::RateLimited => "too many requests",
            Self::NeverRunnable => "no node can ever run this job",
            Self::NotFound => "not found",
            Self::EventsGone => "events no longer kept",
            Self::Forbidden => "forbidden",
            Self::Unauthenticated => "not authenticated",
            Self::ClockSkew => "clock skew",
            Self::InvalidRequest => "invalid request",
            Self::MethodNotAllowed => "method not allowed",
            Self::BodyTooLarge => "body too large",
            Self::TargetTooLong => "request target too long",
            Self::HeadTooLarge => "request head too large",
            Self::UnsupportedMediaType => "unsupported media type",
            Self::Conflict => "conflict",
            Self::PreconditionFailed => "precondition failed",
            Self::RangeNotSatisfiable => "range not satisfiable",
            Self::ProtocolVersion => "unsupported protocol version",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal error",
        }
    }
}

/// The body of every error answer (RFC 9457, `application/problem+json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// `about:blank`, or the registered type of the problem; the code says what went wrong.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Short text, the same for every occurrence of the code.
    pub title: String,
    /// The HTTP status.
    #[schemars(range(min = 400, max = 599))]
    pub status: u16,
    /// What went wrong in this one case.
    pub detail: String,
    /// The machine-readable code.
    pub code: ErrorCode,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Finds the request in the server's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Each field that is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// One wrong field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) into the request body, or the parameter's name.
    pub pointer: String,
    /// What is wrong with it, and what would be right.
    pub detail: String,
}
