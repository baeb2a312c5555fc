//! Tell a node at once what it has to stop.

use std::{collections::HashSet, time::Duration};

use gristmill_protocol::node_api::{LeaseRef, PhaseNote, WatchGrant, WatchRequest};

use super::{
    attempt_access::{holds, note_refused},
    renew_leases::LEASES_MAX,
};
use crate::{app::App, error::ApiError, principal::NodePrincipal, wake::Topic};

/// Takes in what the node does for its leases. Then waits until one of them is cancelled or lost, an operator changes his mind about draining
/// the node, the time is over, or the server stops. What is cancelled or lost already is told at
/// once. The database is read once, and once more for each piece of news about the node.
pub async fn watch_leases(
    app: &App,
    node: &NodePrincipal,
    request: WatchRequest,
) -> Result<WatchGrant, ApiError> {
    if request.leases.len() > LEASES_MAX {
        return Err(ApiError::field("/leases", "must be at most 4,096 leases"));
    }
    if request.phases.len() > LEASES_MAX {
        return Err(ApiError::field("/phases", "must be at most 4,096 phases"));
    }
    let wait = Duration::from_millis(request.wait_ms).min(app.settings.long_poll_max);
    let deadline = tokio::time::Instant::now() + wait;
    let mut news = app.wakes.listen(Topic::Node(node.node));
    let drain_before = is_drained(app, node);
    let mut phases = Some(request.phases);
    loop {
        let mut grant = verdicts(app, node, &request.leases).await?;
        if let Some(phases) = phases.take() {
            note_phases(app, node, &request.leases, &grant, phases);
        }
        grant.drain = is_drained(app, node);
        if !grant.cancelled.is_empty() || !grant.lost.is_empty() || grant.drain != drain_before {
            return Ok(grant);
        }
        tokio::select! {
            () = news.woken() => {}
            () = tokio::time::sleep_until(deadline) => return Ok(grant),
            () = app.shutdown.cancelled() => return Ok(grant),
        }
    }
}

/// A node tells phases of attempts alone whose lease it holds.
fn note_phases(
    app: &App,
    node: &NodePrincipal,
    leases: &[LeaseRef],
    grant: &WatchGrant,
    mut phases: Vec<PhaseNote>,
) {
    let lost: HashSet<_> = grant.lost.iter().copied().collect();
    let held: HashSet<_> = leases.iter().map(|lease| (lease.job, lease.attempt)).collect();
    phases.retain(|note| {
        let key = (note.job, note.attempt);
        held.contains(&key) && !lost.contains(&key)
    });
    for job in app.phases.note(node.node, &phases, app.clock.now()) {
        app.wakes.wake(Topic::Job(job));
    }
}

fn is_drained(app: &App, node: &NodePrincipal) -> bool {
    app.registry.with_node(node.node, |live| live.record.drain).unwrap_or(false)
}

async fn verdicts(app: &App, node: &NodePrincipal, leases: &[LeaseRef]) -> Result<WatchGrant, ApiError> {
    let keys: Vec<_> = leases.iter().map(|lease| (lease.job, lease.attempt)).collect();
    let states = app.store.lease_states(&keys).await?;
    let mut grant = WatchGrant::default();
    for lease in leases {
        let key = (lease.job, lease.attempt);
        let held = states.get(&key).filter(|state| holds(state, node, lease));
        match held {
            None => {
                note_refused(app, node, lease, states.get(&key)).await?;
                grant.lost.push(key);
            }
            Some(state) if state.stop => grant.cancelled.push(key),
            Some(_) => {}
        }
    }
    Ok(grant)
}
