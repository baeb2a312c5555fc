//! One operation of the API: its route and its description, which are never apart.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use axum::{
    handler::Handler,
    routing::{self, MethodRouter},
};
use gristmill_protocol::{ErrorCode, WorkPhase, tenancy::Scope};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};

use crate::app::App;

/// When what is asked for is not sent again.
pub(in crate::http) const KNOWN: &str = "The caller has this (`If-None-Match`).";

/// How a type gets into the components.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// Under which heading an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::http) enum Tag {
    Modules,
    Blobs,
    Uploads,
    Jobs,
    Events,
    Zones,
    Nodes,
    Tenancy,
    System,
    NodeProtocol,
}

/// What a request has to prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing.
    Open,
    /// A token, with one of these scopes if there are any.
    Token(Vec<Scope>),
    /// The signature of a node.
    Signed,
    /// The signature of a node and a lease that it holds.
    UnderLease,
}

/// A parameter of the path or a header.
#[derive(Debug, Clone)]
pub(super) struct Parameter {
    pub(super) place: &'static str,
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) required: bool,
    pub(super) schema: SchemaOf,
}

/// What a request carries.
#[derive(Debug, Clone)]
pub(super) enum Body {
    /// JSON of this type, whose name finds the examples.
    Json { schema: SchemaOf, name: Cow<'static, str> },
    /// Bytes in one of these media types.
    Bytes { media_types: &'static [&'static str], about: &'static str, required: bool },
    /// Many of this type, as an array or as lines.
    Items { schema: SchemaOf, name: Cow<'static, str>, about: &'static str },
}

/// What an answer carries.
#[derive(Debug, Clone)]
pub(super) enum Content {
    Nothing,
    Json {
        schema: SchemaOf,
        name: Cow<'static, str>,
    },
    /// Server-sent events: the names of the messages, with the types of their data.
    Stream(Vec<(&'static str, SchemaOf, Cow<'static, str>)>),
    /// Anything else: its media type and an example, unless it is bytes.
    Other {
        media_type: &'static str,
        example: Option<Value>,
    },
}

/// A header of an answer.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) schema: Value,
    /// Whether it is always there.
    pub(super) required: bool,
}

/// One answer that is no error.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) about: &'static str,
    pub(super) content: Content,
    /// Headers beside those of every answer.
    pub(super) headers: Vec<Header>,
}

/// One method of one path. Built from the outside in: what it is, who may call it, what it takes, what it
/// answers; the errors that every operation of its kind can give are added by themselves.
#[derive(Debug, Clone)]
pub(in crate::http) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) description: &'static str,
    pub(super) tag: Tag,
    pub(super) access: Access,
    pub(super) parameters: Vec<Parameter>,
    pub(super) query: Option<SchemaOf>,
    pub(super) body: Option<Body>,
    pub(super) answers: Vec<Answer>,
    pub(super) refusals: BTreeSet<ErrorCode>,
    /// The name of its twin with the method HEAD.
    pub(super) head_id: Option<&'static str>,
    route: MethodRouter<Arc<App>>,
}

macro_rules! methods {
    ($($method:ident)*) => {$(
        /// An operation with this method. Needs a token, unless it says otherwise.
        pub(in crate::http) fn $method<H, T>(path: &'static str, handler: H) -> Self
        where
            H: Handler<T, Arc<App>>,
            T: 'static,
        {
            Self::new(stringify!($method), path, routing::$method(handler))
        }
    )*};
}

impl Operation {
    methods! { get head put post patch delete options }

    fn new(method: &'static str, path: &'static str, route: MethodRouter<Arc<App>>) -> Self {
        Self {
            method,
            path,
            id: "",
            summary: "",
            description: "",
            tag: Tag::System,
            access: Access::Token(Vec::new()),
            parameters: Vec::new(),
            query: None,
            body: None,
            answers: Vec::new(),
            refusals: BTreeSet::new(),
            head_id: None,
            route,
        }
    }

    /// Its path and what serves it.
    pub(in crate::http) fn into_route(self) -> (&'static str, MethodRouter<Arc<App>>) {
        (self.path, self.route)
    }

    /// Its name for generated clients, a line for lists, and the rest that a caller needs to know.
    pub(in crate::http) fn named(
        mut self,
        id: &'static str,
        summary: &'static str,
        description: &'static str,
    ) -> Self {
        (self.id, self.summary, self.description) = (id, summary, description);
        self
    }

    /// The heading.
    pub(in crate::http) fn under(mut self, tag: Tag) -> Self {
        self.tag = tag;
        self
    }

    /// Needs a token with this scope.
    pub(in crate::http) fn needs(mut self, scope: Scope) -> Self {
        self.access = Access::Token(vec![scope]);
        self
    }

    /// Needs a token with one of these scopes.
    pub(in crate::http) fn needs_one_of(mut self, scopes: &[Scope]) -> Self {
        self.access = Access::Token(scopes.to_vec());
        self
    }

    /// Needs no token.
    pub(in crate::http) fn open(mut self) -> Self {
        self.access = Access::Open;
        self
    }

    /// Needs the signature of a node.
    pub(in crate::http) fn signed(mut self) -> Self {
        self.access = Access::Signed;
        self
    }

    /// Needs the signature of a node and the lease of the attempt in the path.
    pub(in crate::http) fn under_lease(mut self) -> Self {
        self.access = Access::UnderLease;
        self.refuses(&[ErrorCode::LeaseLost, ErrorCode::NotFound])
    }

    fn parameter<T: JsonSchema>(
        mut self,
        place: &'static str,
        name: &'static str,
        about: &'static str,
        required: bool,
    ) -> Self {
        let schema = SchemaGenerator::subschema_for::<T>;
        self.parameters.push(Parameter { place, name, about, required, schema });
        self
    }

    /// Describes a part of the path.
    pub(in crate::http) fn at<T: JsonSchema>(self, name: &'static str, about: &'static str) -> Self {
        self.parameter::<T>("path", name, about, true)
    }

    /// Describes a header that may be there.
    pub(in crate::http) fn header<T: JsonSchema>(self, name: &'static str, about: &'static str) -> Self {
        self.parameter::<T>("header", name, about, false)
    }

    /// Describes a header that has to be there.
    pub(in crate::http) fn must_header<T: JsonSchema>(self, name: &'static str, about: &'static str) -> Self {
        self.parameter::<T>("header", name, about, true)
    }

    /// Takes the fields of `T` from the query.
    pub(in crate::http) fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(T::json_schema);
        self
    }

    /// Takes a JSON body.
    pub(in crate::http) fn takes<T: JsonSchema>(mut self) -> Self {
        self.body = Some(Body::Json { schema: SchemaGenerator::subschema_for::<T>, name: T::schema_name() });
        self.refuses(&[ErrorCode::BodyTooLarge, ErrorCode::UnsupportedMediaType])
    }

    /// Takes bytes in one of these media types.
    pub(in crate::http) fn takes_bytes(
        mut self,
        media_types: &'static [&'static str],
        about: &'static str,
    ) -> Self {
        self.body = Some(Body::Bytes { media_types, about, required: true });
        self.refuses(&[ErrorCode::BodyTooLarge, ErrorCode::UnsupportedMediaType])
    }

    /// The bytes that it takes need not be there.
    pub(in crate::http) fn or_none(mut self) -> Self {
        if let Some(Body::Bytes { required, .. }) = &mut self.body {
            *required = false;
        }
        self
    }

    /// Takes many things of one type.
    pub(in crate::http) fn takes_many<T: JsonSchema>(mut self, about: &'static str) -> Self {
        let schema = SchemaGenerator::subschema_for::<T>;
        self.body = Some(Body::Items { schema, name: T::schema_name(), about });
        self.refuses(&[ErrorCode::BodyTooLarge, ErrorCode::UnsupportedMediaType])
    }

    /// With `If-Match`, it is done only to the version that the caller knows.
    pub(in crate::http) fn under_condition(self) -> Self {
        self.header::<super::words::OneVersionTag>(
            "if-match",
            "Entity tag of the version that the caller knows, or `*`; nothing is changed if it is another one now.",
        )
        .refuses(&[ErrorCode::PreconditionFailed])
    }

    fn answer(mut self, status: u16, about: &'static str, content: Content) -> Self {
        self.answers.push(Answer { status, about, content, headers: Vec::new() });
        self
    }

    /// Answers with JSON.
    pub(in crate::http) fn answers<T: JsonSchema>(self, status: u16, about: &'static str) -> Self {
        let content = Content::Json { schema: SchemaGenerator::subschema_for::<T>, name: T::schema_name() };
        self.answer(status, about, content)
    }

    /// Answers with nothing but a status.
    pub(in crate::http) fn answers_nothing(self, status: u16, about: &'static str) -> Self {
        self.answer(status, about, Content::Nothing)
    }

    /// Answers in another media type than JSON of a type; bytes have no example.
    pub(in crate::http) fn answers_in(
        self,
        status: u16,
        media_type: &'static str,
        example: Option<Value>,
        about: &'static str,
    ) -> Self {
        self.answer(status, about, Content::Other { media_type, example })
    }

    /// Answers with server-sent events, whose types follow.
    pub(in crate::http) fn streams(self, about: &'static str) -> Self {
        self.answer(200, about, Content::Stream(Vec::new()))
    }

    /// Adds a type of messages to the stream described last.
    pub(in crate::http) fn message<T: JsonSchema>(mut self, name: &'static str) -> Self {
        if let Some(Answer { content: Content::Stream(messages), .. }) = self.answers.last_mut() {
            messages.push((name, SchemaGenerator::subschema_for::<T>, T::schema_name()));
        }
        self
    }

    /// Adds a header to the answer described last.
    pub(in crate::http) fn with(self, name: &'static str, about: &'static str, schema: Value) -> Self {
        self.answer_header(Header { name, about, schema, required: true })
    }

    /// Adds a header to the answer described last that is not always there.
    pub(in crate::http) fn may_have(self, name: &'static str, about: &'static str, schema: Value) -> Self {
        self.answer_header(Header { name, about, schema, required: false })
    }

    fn answer_header(mut self, header: Header) -> Self {
        if let Some(answer) = self.answers.last_mut() {
            answer.headers.push(header);
        }
        self
    }

    /// The answer described last carries the thing's version as its entity tag.
    pub(in crate::http) fn tagged(self) -> Self {
        self.tagged_as("The version, in quotes.", "^\"[0-9]+\"$")
    }

    /// The answer described last carries an entity tag with this pattern. What is read can be asked for under
    /// conditions on it.
    pub(in crate::http) fn tagged_as(self, about: &'static str, pattern: &str) -> Self {
        let tag = || json!({"type": "string", "pattern": pattern});
        let tagged = self.with("etag", about, tag());
        if tagged.method != "get" {
            return tagged;
        }
        tagged.conditions().answers_nothing(304, KNOWN).with("etag", about, tag())
    }

    /// Can be read under conditions, which `http/conditions.rs` decides for all.
    pub(in crate::http) fn conditions(self) -> Self {
        use super::words::KnownTags;
        self.header::<KnownTags>(
            "if-match",
            "Entity tags of what the caller expects, or `*`; it is refused if it is another one now.",
        )
        .header::<KnownTags>(
            "if-none-match",
            "Entity tags of what the caller has, or `*`; it is not sent again.",
        )
        .refuses(&[ErrorCode::PreconditionFailed])
    }

    /// The answer described last carries the job's version as its entity tag, and its phase.
    pub(in crate::http) fn tagged_with_phase(self) -> Self {
        let pattern = format!(
            "^\"[0-9]+(\\.({}))?\"$",
            WorkPhase::ALL.iter().map(|phase| phase.as_str()).collect::<Vec<_>>().join("|")
        );
        self.tagged_as(
            "The version in quotes, followed by a dot and the phase once the node has told it.",
            &pattern,
        )
    }

    /// The answer described last says where the new thing is.
    pub(in crate::http) fn located(self) -> Self {
        self.with("location", "Path of the new thing.", json!({"type": "string", "pattern": "^/"}))
    }

    /// Answers with a blob, whole or in parts, also to HEAD.
    pub(in crate::http) fn downloads(self, head_id: Option<&'static str>) -> Self {
        self.downloads_as("application/octet-stream", "^\"sha256:[0-9a-f]{64}\"$", head_id)
    }

    /// Answers with bytes that never change, whole or in parts, also to HEAD. The entity tag has this pattern.
    pub(in crate::http) fn downloads_as(
        mut self,
        media_type: &'static str,
        tag: &'static str,
        head_id: Option<&'static str>,
    ) -> Self {
        use super::words::{ByteRange, ContentTags};
        let described = |operation: Self| {
            operation
                .with("etag", "Names the content.", json!({"type": "string", "pattern": tag}))
                .with("accept-ranges", "Ranges are served.", json!({"const": "bytes"}))
                .with(
                    "content-disposition",
                    "A file to be saved, never shown.",
                    json!({"type": "string", "pattern": "^attachment"}),
                )
        };
        let which = json!({"type": "string", "pattern": "^bytes [0-9]+-[0-9]+/[0-9]+$"});
        self.head_id = head_id;
        self = self
            .header::<ByteRange>("range", "Up to 16 ranges of bytes that do not overlap; anything else is ignored and answered in full.")
            .header::<ContentTags>("if-range", "Entity tag of the content that the ranges are of; all of it is sent if it is another one.")
            .conditions();
        self = described(self.answers_in(200, media_type, None, "The bytes."));
        self = described(self.answers_in(206, media_type, None, "The one range that was asked for.")).with(
            "content-range",
            "Which bytes these are.",
            which,
        );
        self =
            described(self.answers_in(206, "multipart/byteranges", None, "The ranges that were asked for."));
        described(self.answers_nothing(304, KNOWN)).refuses(&[ErrorCode::RangeNotSatisfiable])
    }

    /// Can also fail with these codes.
    pub(in crate::http) fn refuses(mut self, codes: &[ErrorCode]) -> Self {
        self.refusals.extend(codes);
        self
    }

    /// Every code that it can fail with.
    pub(super) fn codes(&self) -> BTreeSet<ErrorCode> {
        let of_access: &[ErrorCode] = match &self.access {
            Access::Open => &[],
            Access::Token(_) => &[ErrorCode::Unauthenticated, ErrorCode::Forbidden, ErrorCode::RateLimited],
            Access::Signed | Access::UnderLease => &[
                ErrorCode::Unauthenticated,
                ErrorCode::ClockSkew,
                ErrorCode::Forbidden,
                ErrorCode::RateLimited,
            ],
        };
        let of_all = [
            ErrorCode::InvalidRequest,
            ErrorCode::TargetTooLong,
            ErrorCode::HeadTooLarge,
            ErrorCode::Internal,
            ErrorCode::Unavailable,
        ];
        self.refusals.iter().chain(of_access).chain(&of_all).copied().collect()
    }
}

/// Puts operations under a heading.
pub(in crate::http) fn group(tag: Tag, operations: Vec<Operation>) -> Vec<Operation> {
    operations.into_iter().map(|operation| operation.under(tag)).collect()
}
