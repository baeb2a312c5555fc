//! The node protocol.

use gristmill_protocol::{
    Digest,
    ErrorCode::{
        BodyTooLarge, Conflict, DigestMismatch, Forbidden, NotFound, ProtocolVersion, RateLimited,
        Unauthenticated,
    },
    JobId,
    attempt::LogStream,
    module::BlobView,
    node_api::{
        AcquireGrant, AcquireRequest, CONTENT_DIGEST_HEADER, EnrollGrant, EnrollRequest, HeartbeatGrant,
        HeartbeatRequest, RenewGrant, RenewRequest, UpdatesGrant, UpdatesRequest, WatchGrant, WatchRequest,
    },
};

use crate::http::{
    node,
    openapi::{
        Operation, Tag, group,
        words::{AttemptNumber, ContentDigest},
    },
};

const BODY_DIGEST: &str = "Digest of the body (RFC 9530), covered by the signature.";
const JOB: &str = "The job.";
const NUMBER: &str = "Number of the attempt, from 1.";

pub(super) fn operations() -> Vec<Operation> {
    group(Tag::NodeProtocol, [of_nodes(), of_attempts()].concat())
}

fn of_nodes() -> Vec<Operation> {
    let signed = |operation: Operation| {
        operation.signed().must_header::<ContentDigest>(CONTENT_DIGEST_HEADER, BODY_DIGEST)
    };
    vec![
        Operation::post("/v1/node/enroll", node::enroll)
            .named("enrollNode", "Join", "Redeems a join token; the node's public key becomes its identity. Repeated with the same key and token, it is the same node.")
            .open()
            .takes::<EnrollRequest>()
            .answers::<EnrollGrant>(200, "Enrolled.")
            .refuses(&[Unauthenticated, Forbidden, ProtocolVersion, Conflict, RateLimited]),
        signed(Operation::post("/v1/node/heartbeat", node::heartbeat))
            .named("heartbeatNode", "Say that the node lives", "Renews no lease.")
            .takes::<HeartbeatRequest>()
            .answers::<HeartbeatGrant>(200, "Heard.")
            .refuses(&[NotFound, Conflict]),
        signed(Operation::post("/v1/node/leases/acquire", node::acquire))
            .named("acquireLeases", "Ask for work", "Held up to `wait_ms` while there is none.")
            .takes::<AcquireRequest>()
            .answers::<AcquireGrant>(200, "Leases, or none.")
            .refuses(&[NotFound, Conflict]),
        signed(Operation::post("/v1/node/leases/renew", node::renew))
            .named("renewLeases", "Prolong leases", "One verdict for each, in the order of the request.")
            .takes::<RenewRequest>()
            .answers::<RenewGrant>(200, "The verdicts."),
        signed(Operation::post("/v1/node/leases/watch", node::watch))
            .named("watchLeases", "Wait for cancels", "Held up to `wait_ms`; answers at once when one of the leases is cancelled or lost.")
            .takes::<WatchRequest>()
            .answers::<WatchGrant>(200, "What to stop."),
        signed(Operation::post("/v1/node/updates", node::updates))
            .named("reportUpdates", "Report starts, ends and releases", "Each is decided by itself, in order; a repeated one changes nothing. At most 32 MiB.")
            .takes::<UpdatesRequest>()
            .answers::<UpdatesGrant>(200, "The verdicts."),
    ]
}

fn of_attempts() -> Vec<Operation> {
    let attempt = |operation: Operation| {
        operation.under_lease().at::<JobId>("job", JOB).at::<AttemptNumber>("number", NUMBER)
    };
    vec![
        attempt(Operation::get("/v1/node/attempts/{job}/{number}/blobs/{digest}", node::blob))
            .named(
                "getAttemptBlob",
                "Fetch the module, stdin or an input",
                "Only what the attempt was given.",
            )
            .at::<Digest>("digest", "SHA-256 of the bytes.")
            .downloads(Some("headAttemptBlob")),
        attempt(Operation::head("/v1/node/attempts/{job}/{number}/outputs/{digest}", node::head_output))
            .named("headAttemptOutput", "Ask whether an output is stored", "Then it need not be uploaded.")
            .at::<Digest>("digest", "SHA-256 of the bytes.")
            .answers_nothing(200, "It is stored."),
        attempt(Operation::put("/v1/node/attempts/{job}/{number}/outputs/{digest}", node::put_output))
            .named(
                "putAttemptOutput",
                "Store an output's bytes",
                "They become an output only by the report of the success.",
            )
            .at::<Digest>("digest", "SHA-256 of the body.")
            .takes_bytes(&["application/octet-stream"], "The bytes.")
            .answers::<BlobView>(201, "The bytes are there.")
            .located()
            .refuses(&[DigestMismatch]),
        attempt(Operation::put("/v1/node/attempts/{job}/{number}/logs/{stream}", node::log))
            .named(
                "appendLog",
                "Append to a log",
                "At most 1 MiB at an offset; bytes that are there already change nothing.",
            )
            .at::<LogStream>("stream", "The stream.")
            .query::<node::LogPlace>()
            .must_header::<ContentDigest>(CONTENT_DIGEST_HEADER, BODY_DIGEST)
            .takes_bytes(&["application/octet-stream"], "The raw bytes.")
            .answers_nothing(204, "They are there.")
            .refuses(&[BodyTooLarge, Conflict]),
    ]
}
