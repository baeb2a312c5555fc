//! A node asks for work.

use std::sync::Arc;

use gristmill_protocol::{JobId, LeaseToken, NodeId, Timestamp, event::EventKind};

use super::Command;
use crate::{
    attempt::AttemptPhase,
    job::{InvalidTransition, JobEvent, JobPhase},
    placement::{ClassSpec, NodeProfile, Room, ZoneProfile, admits},
    record::{AttemptRecord, ClassId},
    working_set::{Needs, Tally, WorkingSet},
};

/// Grants leases to a node: the first ready jobs, by priority and then by age, that the zone and the
/// node admit and that fit into what is free.
#[derive(Debug, Clone)]
pub struct AcquireLeases {
    /// The node, by its credential.
    pub node: NodeId,
    /// Its zone, by its credential.
    pub zone: ZoneProfile,
    /// Its labels and features.
    pub profile: NodeProfile,
    /// The start of the node process that asks.
    pub incarnation: String,
    /// What is free.
    pub free: Room,
    /// Most leases to grant.
    pub leases_max: u32,
    /// Only this job.
    pub job: Option<JobId>,
}

/// A lease as granted.
#[derive(Debug, Clone, PartialEq)]
pub struct LeaseGranted {
    /// The job.
    pub job: JobId,
    /// The attempt's number.
    pub attempt: u32,
    /// The attempt's fence.
    pub fence: u64,
    /// Proof of the lease.
    pub token: LeaseToken,
    /// Who the job belongs to.
    pub tenant: String,
    /// When the job's deadline passes.
    pub deadline_at: Option<Timestamp>,
    /// The job's document, if the batch that grants the lease has made the job; else the store adds it.
    pub document: Option<Arc<str>>,
}

impl AcquireLeases {
    /// Whether the node may run jobs of the class within what is free.
    pub fn takes(&self, class: &ClassSpec) -> bool {
        self.free.fits(class) && admits(class, &self.zone, &self.profile)
    }

    fn grant(
        &self,
        set: &mut WorkingSet<'_>,
        id: JobId,
        class: &ClassSpec,
    ) -> Result<LeaseGranted, InvalidTransition> {
        let token = LeaseToken::from_random(set.random());
        let expires_at = set.after(set.settings().lease_ttl);
        let generation = u64::from(set.generation());
        set.move_job(id, JobEvent::Leased, |job| {
            job.attempt += 1;
            job.node = Some(self.node);
            job.zone = Some(self.zone.name.clone());
            job.not_before = None;
        })?;
        let job = &set.jobs[&id].row;
        let (number, tenant, deadline_at, document) =
            (job.attempt, job.tenant.clone(), job.deadline_at, job.document.clone());
        let fence = generation << 32 | u64::from(number);
        set.make_attempt(AttemptRecord {
            job: id,
            number,
            fence,
            token: token.clone(),
            phase: AttemptPhase::Leased,
            node: self.node,
            zone: self.zone.name.clone(),
            incarnation: self.incarnation.clone(),
            cpus_milli: class.cpus_milli,
            memory_bytes: class.memory_bytes,
            leased_at: set.now(),
            expires_at,
            started_at: None,
            ended_at: None,
            reason: None,
            trap_kind: None,
            message: None,
            exit_code: None,
            usage: None,
            report: None,
            stdout_bytes: 0,
            stderr_bytes: 0,
            log_truncated: false,
        });
        set.note_attempt(EventKind::AttemptLeased, (id, number), &self.node.to_string(), None);
        Ok(LeaseGranted { job: id, attempt: number, fence, token, tenant, deadline_at, document })
    }

    fn grant_named(
        &self,
        set: &mut WorkingSet<'_>,
        id: JobId,
    ) -> Result<Vec<LeaseGranted>, InvalidTransition> {
        let class = set
            .jobs
            .get(&id)
            .filter(|job| job.row.phase == JobPhase::Ready)
            .and_then(|job| set.class(job.row.class))
            .filter(|class| self.takes(class))
            .cloned();
        match class {
            Some(class) if self.leases_max > 0 => Ok(vec![self.grant(set, id, &class)?]),
            _ => Ok(Vec::new()),
        }
    }
}

impl Command for AcquireLeases {
    type Reply = Vec<LeaseGranted>;

    fn needs(&self, tally: &Tally, needs: &mut Needs) {
        if let Some(id) = self.job {
            needs.jobs.insert(id);
            return;
        }
        for class in tally.ready_by_class.keys() {
            if tally.classes.get(class).is_some_and(|spec| self.takes(spec)) {
                *needs.ready.entry(*class).or_default() += self.leases_max;
            }
        }
    }

    fn decide(&self, set: &mut WorkingSet<'_>) -> Result<Vec<LeaseGranted>, InvalidTransition> {
        if let Some(id) = self.job {
            return self.grant_named(set, id);
        }
        let mut free = self.free;
        let mut granted = Vec::new();
        let mut classes: Vec<(ClassId, ClassSpec)> = set
            .ready_classes()
            .into_iter()
            .filter_map(|id| Some((id, set.class(id)?.clone())))
            .filter(|(_, class)| self.takes(class))
            .collect();
        while granted.len() < self.leases_max as usize {
            classes.retain(|(_, class)| free.fits(class));
            let ids: Vec<_> = classes.iter().map(|(id, _)| *id).collect();
            let Some(job) = set.first_ready(&ids) else { break };
            let class_id = set.jobs[&job].row.class;
            let Some((_, class)) = classes.iter().find(|(id, _)| *id == class_id) else { break };
            granted.push(self.grant(set, job, class)?);
            free = free.without(class);
        }
        Ok(granted)
    }
}
