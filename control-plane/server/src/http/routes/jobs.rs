//! Jobs.

use gristmill_protocol::{
    AttemptView,
    ErrorCode::{Conflict, IdempotencyKeyMismatch, NeverRunnable, NotFound, QueueFull, RangeNotSatisfiable},
    JobId, JobSpec, JobView, Page,
    attempt::{LogEndView, LogPieceView},
    bulk::{BulkCancelView, BulkCountView, BulkItem, BulkSelection, BulkSubmitView},
    job::OutputsView,
    tenancy::Scope,
    zone::PlacementView,
};
use serde_json::json;

use crate::http::{
    openapi::{
        KNOWN, Operation, Tag, group,
        words::{
            AttemptNumber, ByteRange, ContentTags, IdempotencyKey, LogPosition, OutputPath, Traceparent,
        },
    },
    user::{bulk, jobs, logs},
};

const JOB: &str = "The job.";
const KEY: &str = "The same key with the same request again gets the same job; another request is refused.";

pub(super) fn operations() -> Vec<Operation> {
    group(Tag::Jobs, [asking(), reading(), results(), many()].concat())
}

fn asking() -> Vec<Operation> {
    vec![
        Operation::post("/v1/jobs", jobs::submit)
            .named("submitJob", "Submit a job", "The job is durable when this answers. With `wait`, the answer comes when the job has ended or the time is up. With `validate_only=true` nothing is queued, and the answer says where the job could run.")
            .needs(Scope::Submit)
            .query::<jobs::SubmitQuery>()
            .header::<IdempotencyKey>("idempotency-key", KEY)
            .header::<Traceparent>("traceparent", "W3C trace context that the job belongs to, unless its spec names one; one that is not right is ignored.")
            .takes::<JobSpec>()
            .answers::<JobView>(201, "Accepted.")
            .tagged_with_phase()
            .located()
            .answers::<JobView>(200, "The job that the same request made before.")
            .answers::<PlacementView>(200, "With `validate_only=true`, where it could run.")
            .refuses(&[NotFound, IdempotencyKeyMismatch, NeverRunnable, QueueFull]),
        Operation::post("/v1/jobs/{id}/cancel", jobs::cancel)
            .named("cancelJob", "Cancel a job", "A queued job is cancelled at once, a running one when its guest has stopped. After this answers, the job can no longer succeed. A job that has ended stays as it is.")
            .needs(Scope::Submit)
            .at::<JobId>("id", JOB)
            .under_condition()
            .answers::<JobView>(200, "The job as it is now.")
            .tagged_with_phase()
            .refuses(&[NotFound]),
        Operation::post("/v1/jobs/{id}/retry", jobs::retry)
            .named("retryJob", "Run a job again", "A new job with the same spec and the same bytes of the module. The former job has to have ended.")
            .needs(Scope::Submit)
            .at::<JobId>("id", JOB)
            .header::<IdempotencyKey>("idempotency-key", KEY)
            .answers::<JobView>(201, "The new job.")
            .tagged_with_phase()
            .located()
            .answers::<JobView>(200, "The job that the same key made before.")
            .tagged_with_phase()
            .refuses(&[NotFound, Conflict, IdempotencyKeyMismatch, NeverRunnable, QueueFull]),
    ]
}

fn reading() -> Vec<Operation> {
    vec![
        Operation::get("/v1/jobs", jobs::list)
            .named("listJobs", "List jobs", "Jobs of the tenant, newest first; all given filters hold.")
            .needs(Scope::Read)
            .query::<jobs::JobQuery>()
            .answers::<Page<JobView>>(200, "One page."),
        Operation::get("/v1/jobs/{id}", jobs::get)
            .named("getJob", "Show a job", "With `wait`, the answer comes when the job has ended or the time is up; with `If-None-Match` as well, as soon as the job's version or phase is another one than that.")
            .needs(Scope::Read)
            .at::<JobId>("id", JOB)
            .query::<jobs::WaitQuery>()
            .answers::<JobView>(200, "The job.")
            .tagged_with_phase()
            .refuses(&[NotFound]),
        Operation::get("/v1/jobs/{id}/placement", jobs::placement)
            .named("explainJob", "Explain where a job can run", "For every zone and node why the job can or cannot run there, and whether waiting helps.")
            .needs(Scope::Read)
            .at::<JobId>("id", JOB)
            .answers::<PlacementView>(200, "The explanation.")
            .refuses(&[NotFound]),
        Operation::get("/v1/jobs/{id}/attempts", jobs::attempts)
            .named("listAttempts", "List a job's attempts", "All of them, by number, with what each used.")
            .needs(Scope::Read)
            .at::<JobId>("id", JOB)
            .answers::<Page<AttemptView>>(200, "All attempts.")
            .refuses(&[NotFound]),
    ]
}

fn results() -> Vec<Operation> {
    vec![
        log(),
        Operation::get("/v1/jobs/{id}/outputs", jobs::outputs)
            .named("listOutputs", "List a job's outputs, or fetch all of them", "All files that the job left below `/out`, if it succeeded; none before. With `format=tar`, or `Accept: application/x-tar`, the files themselves as one archive, the same bytes in every answer; `conflict` when the job has not succeeded.")
            .needs(Scope::Read)
            .at::<JobId>("id", JOB)
            .query::<jobs::OutputsQuery>()
            .answers::<OutputsView>(200, "All outputs, by path.")
            .downloads_as("application/x-tar", "^\"tar-[0-9a-f]{32}\"$", Some("headOutputs"))
            .refuses(&[NotFound, Conflict]),
        Operation::get("/v1/jobs/{id}/outputs/{*path}", jobs::output)
            .named("getOutput", "Download an output", "One file, unchanged.")
            .needs(Scope::Read)
            .at::<JobId>("id", JOB)
            .at::<OutputPath>("path", "Path below `/out`; its slashes may stay as they are.")
            .downloads(Some("headOutput"))
            .refuses(&[NotFound]),
    ]
}

fn log() -> Operation {
    let tag = || json!({"type": "string", "pattern": "^\"log-[0-9]+\"$"});
    let described = |operation: Operation| {
        operation
            .with("gristmill-log-next", "Where to go on.", json!({"type": "integer", "minimum": 0}))
            .with("gristmill-log-end", "Whether that is the end.", json!({"enum": ["true", "false"]}))
            .with("accept-ranges", "Ranges are served.", json!({"const": "bytes"}))
            .may_have("etag", "Names the log once it is complete; one that still grows has none.", tag())
    };
    let operation = Operation::get("/v1/jobs/{id}/attempts/{number}/logs", logs::read)
        .named("readLog", "Read or follow a log", "Raw bytes as the guest wrote them, at most 1 MiB in one answer. Go on at `gristmill-log-next` until `gristmill-log-end` is `true`; with `wait`, the answer comes when there is something new. With `Accept: text/event-stream` a stream that follows the log: messages `log` with pieces of it, and at the end of the attempt one message `end`.")
        .needs(Scope::Read)
        .at::<JobId>("id", JOB)
        .at::<AttemptNumber>("number", "Number of the attempt, from 1.")
        .query::<logs::LogQuery>()
        .header::<ByteRange>("range", "One range, such as `bytes=0-99` or `bytes=-100` for the last bytes, of the log as far as it has come; anything else is ignored, and so is a range beside `offset`. One that begins where nothing is yet waits as long as `wait` says, and is `range_not_satisfiable` then.")
        .header::<ContentTags>("if-range", "Entity tag of the complete log that the range is of; the log from its beginning is sent if it is another one, or still grows.")
        .conditions()
        .header::<LogPosition>("last-event-id", "Of a stream: the id of the last message that the caller got.");
    let whole = described(operation.answers_in(
        200,
        "application/octet-stream",
        None,
        "The next bytes; none when there are none yet.",
    ))
    .streams("With `Accept: text/event-stream`, the log as it grows. Ids are byte offsets.")
    .message::<LogPieceView>("log")
    .message::<LogEndView>("end");
    described(whole.answers_in(206, "application/octet-stream", None, "The bytes that `Range` asked for."))
        .with(
            "content-range",
            "Which bytes these are.",
            json!({"type": "string", "pattern": "^bytes [0-9]+-[0-9]+/([0-9]+|\\*)$"}),
        )
        .answers_nothing(304, KNOWN)
        .with("etag", "Names the log.", tag())
        .refuses(&[NotFound, RangeNotSatisfiable])
}

fn many() -> Vec<Operation> {
    vec![
        Operation::post("/v1/bulk/jobs/submit", bulk::submit)
            .named("submitJobs", "Submit many jobs", "Specs as lines (`application/x-ndjson`) or as a JSON array, each with an `idempotency_key` beside its fields if wanted. Each is decided by itself, and its result has its place in the answer; all that are accepted are durable when this answers.")
            .needs(Scope::Submit)
            .takes_many::<BulkItem>("At most 10,000 jobs and 16 MiB, unless the server is set otherwise. An item that is wrong is refused by itself.")
            .answers::<BulkSubmitView>(200, "What became of each."),
        Operation::post("/v1/bulk/jobs/cancel", bulk::cancel)
            .named("cancelJobs", "Cancel many jobs", "Jobs by id, by the filter of the list, or all; those that have ended stay as they are. Go on with `next_page_token` in the filter while there is one.")
            .needs(Scope::Submit)
            .query::<bulk::BulkQuery>()
            .takes::<BulkSelection>()
            .answers::<BulkCancelView>(200, "How many were cancelled.")
            .answers::<BulkCountView>(200, "With `dry_run`, how many would be."),
        Operation::post("/v1/bulk/jobs/retry", bulk::retry)
            .named("retryJobs", "Run many jobs again", "Jobs that ended without success, by id, by the filter of the list, or all; each becomes a new job. Go on with `next_page_token` in the filter while there is one.")
            .needs(Scope::Submit)
            .query::<bulk::BulkQuery>()
            .header::<IdempotencyKey>("idempotency-key", "With the same key, a job that was run again is not run again once more.")
            .takes::<BulkSelection>()
            .answers::<BulkSubmitView>(200, "What became of each.")
            .answers::<BulkCountView>(200, "With `dry_run`, how many jobs it is about."),
    ]
}
