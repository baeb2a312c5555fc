//! What an operator reads about jobs in the log: leases that ran out, jobs that wait again, jobs that
//! ended. What is daily on the way there is in the events.

use gristmill_lifecycle::WorkingSet;
use gristmill_protocol::{JobId, NodeId, Reason, event::EventKind};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct News {
    kind: EventKind,
    job: JobId,
    tenant: String,
    attempt: u32,
    node: Option<NodeId>,
    zone: Option<String>,
    state: &'static str,
    reason: Option<Reason>,
}

/// What a batch has to tell. Tell it only when it is durable.
pub(super) fn news(set: &WorkingSet<'_>) -> Vec<News> {
    let told = set.events.iter().filter(|event| match event.kind {
        EventKind::JobRequeued | EventKind::JobFinished => true,
        EventKind::AttemptEnded => event.reason == Some(Reason::LeaseExpired),
        _ => false,
    });
    let news = told.filter_map(|event| {
        let job = &set.jobs.get(&event.job)?.row;
        Some(News {
            kind: event.kind,
            job: event.job,
            tenant: event.tenant.clone(),
            attempt: event.attempt.unwrap_or(job.attempt),
            node: event.node.or(job.node),
            zone: event.zone.clone(),
            state: event.state,
            reason: event.reason,
        })
    });
    news.collect()
}

/// Writes it into the log.
pub(super) fn tell(news: &News) {
    macro_rules! line {
        ($level:ident, $text:literal) => {
            tracing::$level!(
                job = %news.job,
                attempt = news.attempt,
                node = news.node.map(tracing::field::display),
                zone = news.zone,
                tenant = news.tenant,
                state = news.state,
                reason = news.reason.map(tracing::field::display),
                $text
            )
        };
    }
    match news.kind {
        EventKind::AttemptEnded => line!(warn, "a lease ran out"),
        EventKind::JobRequeued => line!(info, "the job waits again"),
        _ => line!(info, "the job ended"),
    }
}
