//! Uploads that can be resumed, in two protocols.

use gristmill_protocol::{
    ErrorCode::{
        ChecksumMismatch, Conflict, DigestMismatch, Forbidden, MethodNotAllowed, NotFound,
        PreconditionFailed, UploadLengthMismatch, UploadLimit, UploadOffsetMismatch,
    },
    Page, UploadId,
    module::BlobView,
    tenancy::Scope,
    upload::UploadView,
};
use serde_json::{Value, json};

use crate::http::{
    openapi::{
        Operation, Tag, group,
        words::{
            AnyDigest, MethodOverride, TusVersion, UploadBytes, UploadChecksum, UploadComplete, UploadDefer,
            UploadMetadata,
        },
    },
    user::uploads,
};

const UPLOAD: &str = "The upload.";
const TUS: &str = "Says that this is tus.";
const PIECES: &[&str] = &["application/partial-upload", "application/offset+octet-stream"];

pub(super) fn operations() -> Vec<Operation> {
    group(Tag::Uploads, [beginning(), going_on(), asking()].concat())
}

fn upload(operation: Operation) -> Operation {
    operation.needs_one_of(&[Scope::Submit, Scope::Publish])
}

fn number() -> Value {
    json!({"type": "string", "pattern": "^[0-9]+$"})
}

/// The headers of an answer in tus.
fn tus(operation: Operation) -> Operation {
    operation.with("tus-resumable", "The version of tus.", json!({"type": "string", "const": "1.0.0"}))
}

/// How far an upload has come, in tus.
fn tus_state(operation: Operation) -> Operation {
    let expires = json!({"type": "string", "pattern": " GMT$"});
    let operation = tus(operation)
        .with("upload-offset", "Bytes that have come and are durable.", number())
        .with("upload-expires", "When it is thrown away unless it makes progress (tus).", expires);
    stored(operation)
}

/// How far an upload has come, as the IETF says it.
fn ietf_state(operation: Operation) -> Operation {
    let complete = json!({"type": "string", "enum": ["?0", "?1"]});
    let limits = json!({"type": "string", "pattern": "^max-size=[0-9]+, max-age=[0-9]+$"});
    let operation = operation
        .with("upload-complete", "Whether all bytes have come (IETF).", complete)
        .with("upload-offset", "Bytes that have come and are durable.", number())
        .with(
            "upload-limit",
            "The largest upload in bytes, and the seconds that are left for progress (IETF).",
            limits,
        );
    stored(operation)
}

/// The digest of an upload that is complete.
fn stored(operation: Operation) -> Operation {
    let digest = json!({"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"});
    let structured = json!({"type": "string", "pattern": "^sha-256=:[A-Za-z0-9+/]{43}=:$"});
    operation.may_have("gristmill-digest", "The blob that the complete upload has become.", digest).may_have(
        "repr-digest",
        "The same as a field of RFC 9530.",
        structured,
    )
}

/// Of a header that only a piece has.
const OF_PIECES: &str = "For `PATCH`, as there; not looked at otherwise.";

/// What a piece says of itself.
fn piece(operation: Operation) -> Operation {
    operation
        .header::<TusVersion>("tus-resumable", TUS)
        .header::<UploadComplete>("upload-complete", "IETF: `?1` with the last bytes, else `?0`.")
        .header::<UploadBytes>("upload-length", "Bytes of the whole, if they are known. A length, once given, stays.")
        .header::<UploadChecksum>("upload-checksum", "tus: the sum of this piece; a piece that does not have it is dropped whole.")
        .header::<AnyDigest>("content-digest", "IETF: the SHA-256 of this piece (RFC 9530); a piece that does not have it is dropped whole. Other algorithms are passed over.")
}

fn appended(operation: Operation) -> Operation {
    let operation = ietf_state(operation.answers_nothing(204, "The piece is durable."));
    let operation = tus_state(operation.answers_nothing(204, "In tus the same, also with the last piece."));
    ietf_state(
        operation.answers::<BlobView>(201, "IETF: these were the last bytes; the blob is there.").located(),
    )
    .refuses(&[UploadOffsetMismatch, UploadLengthMismatch, ChecksumMismatch, DigestMismatch])
    .refuses(&[Conflict, NotFound, PreconditionFailed])
}

fn beginning() -> Vec<Operation> {
    let create = piece(upload(Operation::post("/v1/uploads", uploads::create)))
        .named("createUpload", "Begin an upload", "In tus with `Tus-Resumable`, by the IETF's draft with `Upload-Complete`; with the first bytes, with all of them, or with none. The answer says where to send more.")
        .header::<UploadDefer>("upload-defer-length", "tus: instead of `Upload-Length`, when that is not known yet.")
        .header::<UploadMetadata>("upload-metadata", "tus: pairs of a key and a base64 value, separated by commas. The key `digest` declares the digest of all bytes.")
        .header::<AnyDigest>("repr-digest", "IETF: the SHA-256 of all bytes (RFC 9530). When they are there already, nothing needs to be sent.")
        .takes_bytes(&["application/octet-stream", "application/offset+octet-stream"], "The first bytes; in tus as `application/offset+octet-stream`.")
        .or_none();
    let create =
        tus_state(create.answers_nothing(201, "tus: begun; `Location` is where the pieces go.").located());
    let create =
        ietf_state(create.answers_nothing(201, "IETF: begun; `Location` is where the pieces go.").located());
    let create = ietf_state(
        create.answers::<BlobView>(201, "IETF: all bytes are there; `Location` is the blob.").located(),
    )
    .refuses(&[UploadLimit, UploadLengthMismatch, ChecksumMismatch, DigestMismatch])
    .refuses(&[Conflict, NotFound, PreconditionFailed]);
    vec![
        create,
        upload(Operation::get("/v1/uploads", uploads::list))
            .named("listUploads", "List unfinished uploads", "The caller's own, or all of the tenant for an admin, oldest first. Asking does not disturb them.")
            .answers::<Page<UploadView>>(200, "All of them."),
        offers(Operation::options("/v1/uploads", uploads::options)).named(
            "describeUploads",
            "What uploads can do",
            "Versions, extensions and limits of both protocols.",
        ),
    ]
}

fn offers(operation: Operation) -> Operation {
    let text = |pattern: &str| json!({"type": "string", "pattern": pattern});
    tus(operation.open().answers_nothing(204, "In the headers."))
        .with("tus-version", "The versions of tus.", text("^1\\.0\\.0$"))
        .with("tus-extension", "The extensions of tus.", json!({"type": "string", "pattern": "^[a-z-]+(,[a-z-]+)*$", "examples": ["creation,termination,checksum"]}))
        .with("tus-max-size", "The largest upload in bytes.", number())
        .with("tus-checksum-algorithm", "The algorithms of `Upload-Checksum`.", text("^sha1,sha256$"))
        .with(
            "upload-limit",
            "The largest upload in bytes, and the seconds in which it has to make progress (IETF).",
            text("^max-size=[0-9]+, max-age=[0-9]+$"),
        )
        .with("accept-patch", "The media types of pieces.", text("^application/"))
        .refuses(&[Forbidden])
}

fn going_on() -> Vec<Operation> {
    let append = upload(Operation::patch("/v1/uploads/{id}", uploads::append))
        .named("appendUpload", "Append a piece", "The piece begins where the upload ends. What came before a connection broke is kept, unless the piece has a checksum; ask for the offset and go on. In tus with `Content-Type: application/offset+octet-stream`, by the IETF's draft with `application/partial-upload`.")
        .at::<UploadId>("id", UPLOAD)
        .must_header::<UploadBytes>("upload-offset", "Where the piece begins.")
        .takes_bytes(PIECES, "The piece.");
    let post = upload(Operation::post("/v1/uploads/{id}", uploads::overridden))
        .named("overrideUpload", "Append, ask or delete by POST", "For clients that can send nothing else: does what `X-HTTP-Method-Override` says, with the same headers and answers; without it, `method_not_allowed`.")
        .at::<UploadId>("id", UPLOAD)
        .header::<MethodOverride>("x-http-method-override", "The method that is meant.")
        .header::<TusVersion>("tus-resumable", TUS)
        .header::<String>("upload-offset", OF_PIECES)
        .header::<String>("upload-complete", OF_PIECES)
        .header::<String>("upload-length", OF_PIECES)
        .header::<String>("upload-checksum", OF_PIECES)
        .header::<String>("content-digest", OF_PIECES)
        .takes_bytes(PIECES, "The piece, for `PATCH`.")
        .or_none();
    let post = tus(appended(post).answers_nothing(204, "Thrown away."));
    vec![
        appended(piece(append)),
        upload(Operation::delete("/v1/uploads/{id}", uploads::delete))
            .named("deleteUpload", "Throw an upload away", "A piece that is still on its way is cut off. The blob that a complete upload has become stays.")
            .at::<UploadId>("id", UPLOAD)
            .header::<TusVersion>("tus-resumable", TUS)
            .answers_nothing(204, "It is gone.")
            .may_have("tus-resumable", "The version of tus.", json!({"type": "string", "const": "1.0.0"}))
            .refuses(&[NotFound, PreconditionFailed]),
        heading(post.answers_nothing(200, "How far it is, in tus.")).refuses(&[MethodNotAllowed]),
    ]
}

/// How far an upload is and how long it will be, in tus.
fn heading(operation: Operation) -> Operation {
    tus_state(operation)
        .may_have("upload-length", "Bytes of the whole.", number())
        .may_have(
            "upload-defer-length",
            "The length is not known yet.",
            json!({"type": "string", "const": "1"}),
        )
        .may_have("upload-metadata", "What the client said when it began.", json!({"type": "string"}))
}

fn asking() -> Vec<Operation> {
    let about =
        "A piece that is still on its way is cut off first, so that the offset is the one at which to go on.";
    let head = upload(Operation::head("/v1/uploads/{id}", uploads::head))
        .named("headUpload", "Ask where to go on", about)
        .at::<UploadId>("id", UPLOAD)
        .header::<TusVersion>("tus-resumable", TUS);
    let head = heading(head.answers_nothing(200, "tus: how far it is."));
    let head = ietf_state(head.answers_nothing(204, "IETF: how far it is."))
        .may_have("upload-length", "Bytes of the whole.", number())
        .refuses(&[NotFound, DigestMismatch, PreconditionFailed]);
    let get = upload(Operation::get("/v1/uploads/{id}", uploads::get))
        .named("getUpload", "Show an upload", about)
        .at::<UploadId>("id", UPLOAD)
        .answers::<UploadView>(200, "How far it is.");
    vec![
        head,
        ietf_state(get)
            .may_have("upload-length", "Bytes of the whole.", number())
            .refuses(&[NotFound, DigestMismatch]),
        offers(Operation::options("/v1/uploads/{id}", uploads::options))
            .named("describeUpload", "What an upload can do", "The same as for all of them.")
            .at::<UploadId>("id", "Any upload, also one that is not there."),
    ]
}
