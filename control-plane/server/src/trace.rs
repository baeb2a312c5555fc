//! Which trace a job and its attempts belong to. Ids that nobody gave are made from the job's id, so that
//! every part of the system finds the same ones without asking.

use gristmill_protocol::{JobId, JobSpec, TraceContext, trace::Sampling};
use sha2::{Digest, Sha256};

fn id<const N: usize>(of: &str) -> [u8; N] {
    let digest = Sha256::digest(of);
    std::array::from_fn(|at| digest[at])
}

/// The context of a job's submit: the submitter's trace, or one of the job's own, with a span that no
/// other job has.
pub(crate) fn submit_trace(sampling: Sampling, spec: &JobSpec, job: JobId) -> TraceContext {
    let own = || TraceContext::of(id(&job.to_string()), [0; 8]);
    let trace = sampling.decide(spec.traceparent.unwrap_or_else(own), spec.traceparent.is_some());
    trace.with_span(id(&format!("{job} submit")))
}

/// The context of one attempt's lease: the job's trace with a span that no other attempt has.
pub(crate) fn attempt_trace(sampling: Sampling, spec: &JobSpec, job: JobId, attempt: u32) -> TraceContext {
    submit_trace(sampling, spec, job).with_span(id(&format!("{job} {attempt}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Sampling = Sampling::ALL;

    #[test]
    fn attempts_share_the_trace_of_the_submitter_or_of_the_job_and_have_spans_of_their_own() {
        let job = JobId::from_parts(1_700_000_000_000, [7; 10]);
        let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let spec = JobSpec { traceparent: given.parse().ok(), ..JobSpec::default() };
        let (first, second) = (attempt_trace(ALL, &spec, job, 1), attempt_trace(ALL, &spec, job, 2));
        assert_eq!(first.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(first.trace_id(), second.trace_id());
        assert!(first != second && first.to_string().ends_with("-00"), "{first} {second}");

        let own = JobSpec::default();
        assert_eq!(attempt_trace(ALL, &own, job, 1).trace_id(), attempt_trace(ALL, &own, job, 2).trace_id());
        assert_ne!(attempt_trace(ALL, &own, job, 1).trace_id(), first.trace_id());
        let other = JobId::from_parts(1_700_000_000_000, [8; 10]);
        assert_ne!(
            attempt_trace(ALL, &own, job, 1).trace_id(),
            attempt_trace(ALL, &own, other, 1).trace_id()
        );
    }
}
