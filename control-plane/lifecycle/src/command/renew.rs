//! A node prolongs its leases.

use gristmill_protocol::{
    NodeId,
    node_api::{LeaseRef, LeaseVerdict},
};

use super::{Command, held};
use crate::{
    job::{InvalidTransition, JobPhase},
    working_set::{Needs, Tally, WorkingSet},
};

/// Prolongs leases by their full time, from now.
#[derive(Debug, Clone)]
pub struct RenewLeases {
    /// The node, by its credential.
    pub node: NodeId,
    /// The leases.
    pub leases: Vec<LeaseRef>,
}

impl Command for RenewLeases {
    type Reply = Vec<LeaseVerdict>;

    fn needs(&self, _tally: &Tally, needs: &mut Needs) {
        needs.attempts.extend(self.leases.iter().map(|lease| (lease.job, lease.attempt)));
    }

    fn decide(&self, set: &mut WorkingSet<'_>) -> Result<Vec<LeaseVerdict>, InvalidTransition> {
        let ttl = set.settings().lease_ttl;
        let expires_at = set.after(ttl);
        let mut verdicts = Vec::with_capacity(self.leases.len());
        for lease in &self.leases {
            let key = (lease.job, lease.attempt);
            let live = held(set, self.node, key, &lease.lease_token).is_some_and(|row| row.phase.is_live());
            if !live {
                verdicts.push(LeaseVerdict::Lost);
                continue;
            }
            set.change_attempt(key, |row| row.expires_at = row.expires_at.max(expires_at));
            let cancel =
                set.jobs.get(&lease.job).is_some_and(|job| matches!(job.row.phase, JobPhase::Stopping(_)));
            verdicts.push(LeaseVerdict::Held { ttl_ms: ttl.as_millis() as u64, cancel });
        }
        Ok(verdicts)
    }
}
