//! The spans that are exported of what the server does for a job. Nothing of its content is in them.

use gristmill_lifecycle::command::{LeaseGranted, SubmitReply};
use gristmill_protocol::{
    JobSpec,
    trace::{SPAN_TARGET, Sampling},
};
use tracing::{
    Span,
    field::{Empty, display},
    info_span,
};

use crate::{
    document::JobDocument,
    principal::NodePrincipal,
    trace::{attempt_trace, submit_trace},
};

/// The acceptance of a job, until the span is dropped.
pub(crate) fn submit(tenant: &str) -> Span {
    info_span!(
        target: SPAN_TARGET, "submit",
        otel.context = Empty, otel.parent = Empty,
        gristmill.tenant = tenant, gristmill.job.id = Empty, gristmill.module = Empty,
    )
}

/// Says which job a submit has made, if it has. From then on the span is in the job's trace.
pub(crate) fn accepted(span: &Span, sampling: Sampling, reply: &SubmitReply) {
    if span.is_disabled() {
        return;
    }
    let SubmitReply::Created(job) = reply else { return };
    let Ok(document) = JobDocument::read(job.document.as_deref().unwrap_or_default()) else { return };
    let spec = &document.spec;
    span.record("otel.context", display(submit_trace(sampling, spec, job.id)));
    span.record("otel.parent", spec.traceparent.map(display));
    span.record("gristmill.job.id", display(job.id));
    span.record("gristmill.module", &*spec.module);
}

/// The grant of a lease to a node. The attempt on the node is its child, and so it is the context that
/// the node learns.
pub(crate) fn lease(sampling: Sampling, node: &NodePrincipal, lease: &LeaseGranted, spec: &JobSpec) -> Span {
    info_span!(
        target: SPAN_TARGET, "lease",
        otel.context = %attempt_trace(sampling, spec, lease.job, lease.attempt),
        otel.parent = %submit_trace(sampling, spec, lease.job),
        gristmill.tenant = lease.tenant, gristmill.job.id = %lease.job, gristmill.module = spec.module,
        gristmill.attempt = lease.attempt, gristmill.fence = lease.fence,
        gristmill.node.id = %node.node, gristmill.zone = node.zone,
    )
}
