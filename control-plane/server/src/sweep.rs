//! The sweep: one task that lets time pass for jobs and leases, once a second.

use std::{collections::HashSet, sync::Arc, time::Duration};

use gristmill_lifecycle::command::JobDue;
use gristmill_protocol::{NodeId, Timestamp, node::NodeState};
use tokio_util::task::TaskTracker;

use crate::{app::App, error::ApiError, ops};

/// Starts the sweep on the tracker. It ends when the server shuts down.
pub fn start(app: &Arc<App>, tasks: &TaskTracker) {
    tasks.spawn(run(Arc::clone(app)));
}

/// What the sweep remembers from one round to the next.
#[derive(Debug, Default)]
pub struct Sweep {
    last_at: Option<Timestamp>,
    /// Nodes that were there.
    present: HashSet<NodeId>,
    extended_at: Option<Timestamp>,
}

async fn run(app: Arc<App>) {
    let mut sweep = Sweep::default();
    let mut ticks = tokio::time::interval(app.settings.sweep_period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = app.shutdown.cancelled() => return,
        }
        sweep.round(&app).await;
    }
}

impl Sweep {
    /// Does every duty once. A duty that fails is logged and does not keep the others from their turn.
    pub async fn round(&mut self, app: &App) {
        let now = app.clock.now();
        let gap = self.last_at.map_or(Duration::ZERO, |last| now.duration_since(last).unsigned_abs());
        self.last_at = Some(now);
        // A server that was stopped for a while heard no renewals: its nodes are not to blame.
        let was_away =
            gap > app.settings.lease_ttl.saturating_sub(app.settings.lease_stop).max(Duration::from_secs(5));
        // A server that is always late must still notice nodes that are gone.
        let may_extend = self
            .extended_at
            .is_none_or(|at| now.duration_since(at).unsigned_abs() >= app.settings.lease_ttl * 2);
        if was_away && may_extend {
            self.extended_at = Some(now);
            tracing::warn!(gap_s = gap.as_secs(), "the sweep was late; every lease gets its full time");
            note("extend_leases", ops::extend_leases(app).await);
        } else {
            note("expire_leases", ops::expire_leases(app).await);
        }
        note("pass_deadlines", ops::sweep_jobs(app, JobDue::Deadline).await);
        note("time_out_queue", ops::sweep_jobs(app, JobDue::QueueTimeout).await);
        note("promote_due", ops::sweep_jobs(app, JobDue::Backoff).await);
        note("expire_uploads", ops::expire_uploads(app).await);
        self.watch_nodes(app, now);
        app.note_sweep();
    }

    /// Logs which nodes have come and which are away.
    fn watch_nodes(&mut self, app: &App, now: Timestamp) {
        app.registry.each(|live| {
            let record = &live.record;
            let (id, name, zone) = (record.id, &record.name, &record.zone);
            let state = live.state(now, app.settings.lease_ttl);
            let is_there = matches!(state, NodeState::Active | NodeState::Draining);
            if is_there && self.present.insert(id) {
                tracing::info!(node = %id, name, zone, "a node is there");
            } else if state == NodeState::Away && self.present.remove(&id) {
                let seen_at = live.seen_at.map(tracing::field::display);
                tracing::warn!(node = %id, name, zone, seen_at, "a node is away");
            }
        });
    }
}

/// Logs what a duty did.
fn note(duty: &'static str, result: Result<u64, ApiError>) {
    match result {
        Ok(0) => {}
        Ok(count) => tracing::debug!(duty, count, "swept"),
        Err(error) => tracing::error!(duty, error = &error as &dyn std::error::Error, "a sweep failed"),
    }
}
