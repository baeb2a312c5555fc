//! A node that does what a node has to do, as far as the server can see it; when its link is cut or
//! its answers get lost, it keeps to the rules by itself.

use std::{collections::BTreeMap, time::Duration};

use gristmill_lifecycle::record::AttemptKey;
use gristmill_protocol::{
    NodeId, Outcome, Reason, Timestamp, TrapKind,
    job::OutputEntry,
    node_api::{
        AcquireGrant, AcquireRequest, AttemptChange, AttemptReport, AttemptUpdate, HeartbeatRequest,
        LeaseGrant, LeaseRef,
    },
    reason::OutcomeState,
};
use gristmill_server::{
    error::ApiError,
    principal::{NodePrincipal, Origin},
};
use rand::{RngExt, rngs::StdRng};
use tokio::task::JoinHandle;

use crate::commands::{digest, outcome};

/// Where the guest of a lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guest {
    /// Inputs are being staged.
    Staging,
    /// It runs.
    Running,
    /// It has ended, and the report is on its way.
    Ended,
}

/// A lease as its node knows it.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) lease: LeaseRef,
    pub(super) guest: Guest,
    /// When the newest granted prolongation was asked for.
    pub(super) asked_at: Timestamp,
    pub(super) is_cancelled: bool,
    pub(super) log_bytes: u64,
    pub(super) cpus_milli: u32,
}

/// A claim that waits at the server.
pub(super) type Parked = JoinHandle<Result<AcquireGrant, ApiError>>;

/// A node.
pub(super) struct FakeNode {
    pub(super) id: NodeId,
    pub(super) name: String,
    pub(super) zone: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) cpus_milli: u32,
    pub(super) incarnation: u32,
    sequence: u64,
    /// Whether the process lives.
    pub(super) is_up: bool,
    /// Whether it can reach the server.
    pub(super) is_linked: bool,
    pub(super) held: BTreeMap<AttemptKey, Held>,
    /// Updates that the server has not answered yet, in order.
    pub(super) outbox: Vec<AttemptUpdate>,
    pub(super) parked: Option<Parked>,
}

/// How a guest ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Success(usize),
    Failure(Reason),
}

impl Ending {
    /// Mostly well, sometimes in one of the ways that matter to the rules. Some jobs never give up
    /// asking for a retry, or crash whatever runs them.
    pub(super) fn draw(rng: &mut StdRng, key: AttemptKey) -> Self {
        match digest(&key.0.to_string()).as_bytes()[0] {
            0..40 => return Self::Failure(Reason::RetryRequested),
            40..60 => return Self::Failure(Reason::ExecutorCrashed),
            _ => {}
        }
        match rng.random_range(0..10) {
            0..5 => Self::Success(rng.random_range(0..3)),
            5 => Self::Failure(Reason::RetryRequested),
            6 => Self::Failure(Reason::ExecutorCrashed),
            7 => Self::Failure(Reason::Trap),
            8 => Self::Failure(Reason::WallTimeExceeded),
            _ => Self::Failure(Reason::ExitCode),
        }
    }

    /// The report about one attempt; each attempt has its own outputs.
    pub(super) fn report(self, key: AttemptKey) -> AttemptReport {
        let (outcome, outputs) = match self {
            Self::Success(count) => {
                let output = |n| {
                    let path = format!("{}-{}-{n}", key.0, key.1);
                    OutputEntry { digest: digest(&path), size: path.len() as u64, path }
                };
                (outcome(OutcomeState::Succeeded, None), (0..count).map(output).collect())
            }
            Self::Failure(reason) => {
                let mut outcome = Outcome::failed(reason, "simulated");
                outcome.trap_kind = (reason == Reason::Trap).then_some(TrapKind::Unreachable);
                (outcome, Vec::new())
            }
        };
        AttemptReport { outcome, outputs, log_tail: Vec::new(), log_truncated: false }
    }
}

impl FakeNode {
    pub(super) fn enrolled(
        id: NodeId,
        name: String,
        zone: &str,
        labels: BTreeMap<String, String>,
        cpus_milli: u32,
    ) -> Self {
        Self {
            id,
            name,
            zone: zone.to_owned(),
            labels,
            cpus_milli,
            incarnation: 1,
            sequence: 0,
            is_up: true,
            is_linked: true,
            held: BTreeMap::new(),
            outbox: Vec::new(),
            parked: None,
        }
    }

    pub(super) fn principal(&self) -> NodePrincipal {
        NodePrincipal { node: self.id, zone: self.zone.clone(), origin: Origin::default() }
    }

    pub(super) fn incarnation_text(&self) -> String {
        format!("{}-{}", self.name, self.incarnation)
    }

    /// The process dies; nothing of its memory is left.
    pub(super) fn die(&mut self) {
        self.is_up = false;
        self.held.clear();
        self.outbox.clear();
    }

    /// A new process starts.
    pub(super) fn start(&mut self) {
        self.die();
        self.is_up = true;
        self.incarnation += 1;
        self.sequence = 0;
    }

    pub(super) fn heartbeat(&mut self) -> HeartbeatRequest {
        self.sequence += 1;
        HeartbeatRequest {
            incarnation: self.incarnation_text(),
            sequence: self.sequence,
            draining: false,
            labels: self.labels.clone(),
            capabilities: super::world::capabilities(self.cpus_milli),
        }
    }

    pub(super) fn cpus_milli_free(&self) -> u32 {
        let used: u32 = self.held.values().map(|held| held.cpus_milli).sum();
        self.cpus_milli.saturating_sub(used)
    }

    pub(super) fn ask(&self, leases_max: u32, wait_ms: u64) -> AcquireRequest {
        AcquireRequest {
            incarnation: self.incarnation_text(),
            cpus_milli_free: self.cpus_milli_free(),
            memory_bytes_free: 1 << 45,
            leases_max,
            wait_ms,
            job: None,
        }
    }

    /// Takes over a lease that was granted.
    pub(super) fn hold(&mut self, grant: &LeaseGrant, now: Timestamp) {
        let lease =
            LeaseRef { job: grant.job, attempt: grant.attempt, lease_token: grant.lease_token.clone() };
        let held = Held {
            lease,
            guest: Guest::Staging,
            asked_at: now,
            is_cancelled: false,
            log_bytes: 0,
            cpus_milli: grant.limits.cpus_milli,
        };
        self.held.insert((grant.job, grant.attempt), held);
    }

    /// Stops guests whose lease could end, as a node does without asking anybody.
    pub(super) fn stop_overdue(&mut self, now: Timestamp, lease_stop: Duration) {
        let overdue: Vec<_> = self
            .held
            .iter()
            .filter(|(_, held)| held.asked_at + lease_stop <= now)
            .map(|(key, _)| *key)
            .collect();
        for key in overdue {
            self.forget(key);
        }
    }

    /// Whether the guest of an attempt runs right now; its node would have stopped it when overdue.
    pub(super) fn runs(&self, key: AttemptKey, now: Timestamp, lease_stop: Duration) -> bool {
        self.held
            .get(&key)
            .is_some_and(|held| held.guest == Guest::Running && now < held.asked_at + lease_stop)
    }

    /// Drops a lease that is no longer held, with all that was to be said about it.
    pub(super) fn forget(&mut self, key: AttemptKey) {
        self.held.remove(&key);
        self.outbox.retain(|update| (update.lease.job, update.lease.attempt) != key);
    }

    pub(super) fn say(&mut self, key: AttemptKey, change: AttemptChange) {
        if let Some(held) = self.held.get(&key) {
            self.outbox.push(AttemptUpdate { lease: held.lease.clone(), change });
        }
    }

    /// Stops the guest because the job is cancelled, and reports that.
    pub(super) fn cancel(&mut self, key: AttemptKey) {
        let Some(held) = self.held.get_mut(&key) else { return };
        if held.is_cancelled {
            return;
        }
        held.is_cancelled = true;
        if held.guest != Guest::Ended {
            held.guest = Guest::Ended;
            let mut report = Ending::Failure(Reason::CancelledByUser).report(key);
            report.outcome.state = OutcomeState::Cancelled;
            self.say(key, AttemptChange::Finished(Box::new(report)));
        }
    }
}
