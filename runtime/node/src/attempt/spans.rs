//! The spans that are exported of an attempt and its phases. Nothing of the job's content is in them.

use gristmill_protocol::{
    NodeId, Reason, TraceContext, WorkPhase, node_api::LeaseGrant, reason::OutcomeState, trace::SPAN_TARGET,
};
use tracing::{
    Span,
    field::{Empty, display},
    info_span,
};

use super::AttemptEnd;

/// The span of an attempt, a child of its lease. If it is exported, it takes the lease's place as what
/// the guest learns of its trace.
pub(super) fn attempt(grant: &mut LeaseGrant, node: NodeId, zone: &str) -> Span {
    let span = info_span!(
        target: SPAN_TARGET, parent: None, "attempt",
        otel.context = Empty, otel.parent = Empty, otel.status_code = Empty,
        gristmill.tenant = grant.tenant, gristmill.job.id = %grant.job, gristmill.attempt = grant.attempt,
        gristmill.fence = grant.fence, gristmill.module.digest = %grant.module,
        gristmill.node.id = %node, gristmill.zone = zone,
        gristmill.outcome.state = Empty, gristmill.outcome.reason = Empty,
    );
    let lease = grant.traceparent.as_deref().and_then(|text| text.parse::<TraceContext>().ok());
    if let Some(lease) = lease.filter(|_| !span.is_disabled()) {
        let own = lease.with_span(rand::random());
        span.record("otel.parent", display(lease));
        span.record("otel.context", display(own));
        grant.traceparent = Some(own.to_string());
    }
    span
}

/// Says how the attempt ended; nothing if its lease was lost or given back.
pub(super) fn end(span: &Span, ended: &AttemptEnd) {
    let Some(outcome) = &ended.outcome else { return };
    span.record("gristmill.outcome.state", outcome.state.as_str());
    span.record("gristmill.outcome.reason", outcome.reason.map(Reason::as_str));
    if outcome.state != OutcomeState::Succeeded {
        span.record("otel.status_code", "ERROR");
    }
}

/// The span of a phase, a child of the attempt's.
pub(super) fn phase(phase: WorkPhase) -> Span {
    info_span!(target: SPAN_TARGET, "phase", otel.name = phase.as_str())
}
