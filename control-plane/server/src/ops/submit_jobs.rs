//! Accept many jobs in one durable commit.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use gristmill_lifecycle::command::{SubmitJob, SubmitJobs};
use gristmill_protocol::{Digest, ErrorCode, JobId, JobSpec, audit::AuditOperation, tenancy::Scope};

use super::submit_job::{Known, Prepared, command, prepare, refusal, replied, submit_key, tenant_depth};
use crate::{app::App, error::ApiError, principal::Principal, spans};

/// Inline bytes that are written at a time.
const WRITES_MAX: usize = 8;
/// Items that are looked through before others get their turn.
const ITEMS_AT_A_TIME: usize = 32;

/// An item as it came: a spec with its idempotency key, or why it is none.
pub type SubmitItem = Result<(JobSpec, Option<String>), ApiError>;

/// What became of an item: the job and whether this call made it, or why there is none.
pub type SubmitOutcome = Result<(JobId, bool), ApiError>;

/// A place among the few bulk calls that are served at a time; `rate_limited` when all are taken.
/// Take it before the body is read: what a call holds in memory is bounded, and so is their number.
pub fn bulk_permit(app: &App) -> Result<tokio::sync::SemaphorePermit<'_>, ApiError> {
    app.bulk.try_acquire().map_err(|_| {
        let mut error = ApiError::new(ErrorCode::RateLimited, "too many bulk calls are under way")
            .with_hint("send it again in a moment");
        error.retry_after_s = Some(1);
        error
    })
}

/// Accepts jobs, each by itself: an item that is refused does not hinder the others, and what became
/// of each is told in their order. Needs the scope `submit`. All accepted jobs become durable in one
/// commit, before this returns. Items count against the queue's bounds in their order; those that
/// find it full are `queue_full`. An idempotency key is good for single submits and for bulk ones
/// alike, so that a call can be repeated as it is.
pub async fn submit_jobs(
    app: &App,
    who: &Principal,
    items: Vec<SubmitItem>,
) -> Result<Vec<SubmitOutcome>, ApiError> {
    who.require(Scope::Submit)?;
    let keys: Vec<_> = items
        .iter()
        .filter_map(|item| item.as_ref().ok()?.1.clone())
        .collect::<HashSet<_>>()
        .into_iter()
        .collect();
    let known_keys = app.store.idempotency_find(&who.tenant, &keys).await?;
    let depth = tenant_depth(app, &who.tenant).await?;
    let mut known = Known::default();
    let mut outcomes = Vec::with_capacity(items.len());
    let (mut places, mut commands, mut inline) = (Vec::new(), Vec::new(), HashMap::new());
    for (index, item) in items.into_iter().enumerate() {
        if index % ITEMS_AT_A_TIME == 0 {
            tokio::task::yield_now().await;
        }
        let looked = match item {
            Ok((spec, key)) => look_through(app, who, (spec, key), depth, &known_keys, &mut known).await,
            Err(error) => Err(error),
        };
        outcomes.push(match looked {
            Ok(Looked::Existing(job)) => Ok((job, false)),
            Ok(Looked::New(command, bytes)) => {
                places.push(index);
                inline.extend(bytes);
                let job = command.id;
                commands.push(*command);
                Ok((job, true))
            }
            Err(error) if error.code.status() >= 500 => return Err(error),
            Err(error) => Err(error),
        });
    }
    let writes =
        inline.into_iter().map(|(digest, bytes): (Digest, Bytes)| app.blobs.put_bytes(digest, bytes));
    // Held until the store has the commands, whose rows keep the bytes from then on.
    let _stored: Vec<_> = stream::iter(writes).buffer_unordered(WRITES_MAX).try_collect().await?;
    let replies = commit(app, who, commands).await?;
    for (place, reply) in places.into_iter().zip(replies) {
        outcomes[place] = replied(&reply).ok_or_else(|| refusal(&reply));
    }
    Ok(outcomes)
}

/// One bulk commit at a time: between two of them everybody else has a turn.
pub(super) async fn commit(
    app: &App,
    who: &Principal,
    jobs: Vec<SubmitJob>,
) -> Result<Vec<gristmill_lifecycle::command::SubmitReply>, ApiError> {
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let _turn = app.bulk_turn.lock().await;
    let is_retry = jobs.iter().any(|job| job.retry_of.is_some());
    let operation = if is_retry { AuditOperation::JobRetry } else { AuditOperation::JobSubmit };
    let note = who.note(operation, "jobs");
    let spans: Vec<_> = jobs.iter().map(|job| spans::submit(&job.tenant)).collect();
    let replies = app.store.audited(note).job_submit_many(SubmitJobs { jobs }).await?;
    for (span, reply) in spans.iter().zip(&replies) {
        spans::accepted(span, app.sampling, reply);
    }
    Ok(replies)
}

enum Looked {
    Existing(JobId),
    New(Box<SubmitJob>, Vec<(Digest, Bytes)>),
}

async fn look_through(
    app: &App,
    who: &Principal,
    (spec, key): (JobSpec, Option<String>),
    depth: u64,
    known_keys: &HashMap<String, gristmill_lifecycle::record::IdempotencyRecord>,
    known: &mut Known,
) -> Result<Looked, ApiError> {
    let request = serde_json::to_vec(&spec).map_err(ApiError::internal)?;
    let key = submit_key(key, &request)?;
    if let Some(key) = &key
        && let Some(made) = known_keys.get(&key.key)
    {
        let is_same = made.request == key.request;
        return if is_same { Ok(Looked::Existing(made.job)) } else { Err(super::submit_job::key_mismatch()) };
    }
    let Prepared { document, class, inline } = prepare(app, who, spec, known).await?;
    known.check_runnable(app, who, &class).await?;
    let blobs = inline.iter().map(|(digest, bytes)| (*digest, bytes.len() as u64)).collect();
    let command = command(app, who, (key, class, depth), &document, blobs)?;
    Ok(Looked::New(Box::new(command), inline))
}
