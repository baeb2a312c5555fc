//! Random histories: many commands in random batches against rows in memory, with the promises
//! checked after every batch.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use gristmill_lifecycle::{
    Settings, WorkingSet,
    command::{
        AcquireLeases, ApplyUpdates, CancelJob, Command, ExpireLeases, Finish, JobDue, RenewLeases,
        SubmitJob, SubmitKey, SubmitReply, SweepJobs, Update, UpdateChange,
    },
    job::{JobPhase, StopCause},
    placement::{ClassSpec, NodeProfile, Room, ZoneProfile},
    record::{AttemptKey, AttemptRecord, IdempotencyRecord, JobRecord},
    working_set::{Chance, Context, Needs, Tally},
};
use gristmill_protocol::{
    Digest, JobId, NodeId, Outcome, OuterLimit, Reason, Timestamp, Usage,
    node_api::{LeaseRef, LeaseVerdict, UpdateVerdict},
    reason::OutcomeState,
    zone::ZonePolicy,
};
use proptest::prelude::*;

/// One step of a history; indices choose among what there is.
#[derive(Debug, Clone, Copy)]
enum Step {
    Submit { key: Option<u8>, request: u8, retries: u32, urgent: bool },
    Cancel(usize),
    Acquire { node: u8, leases_max: u32 },
    Started(usize),
    Released(usize),
    Finished(usize, u8),
    Renew(usize),
    Pass(u64),
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (proptest::option::of(0u8..4), 0u8..2, 0u32..2, any::<bool>())
            .prop_map(|(key, request, retries, urgent)| Step::Submit { key, request, retries, urgent }),
        2 => (0usize..30).prop_map(Step::Cancel),
        4 => (0u8..3, 0u32..4).prop_map(|(node, leases_max)| Step::Acquire { node, leases_max }),
        3 => (0usize..30).prop_map(Step::Started),
        1 => (0usize..30).prop_map(Step::Released),
        4 => (0usize..30, 0u8..6).prop_map(|(lease, how)| Step::Finished(lease, how)),
        1 => (0usize..30).prop_map(Step::Renew),
        3 => (1u64..40_000).prop_map(Step::Pass),
        3 => Just(Step::Sweep),
    ]
}

struct Counted(u64);

impl Chance for Counted {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (self.0 >> 33) as u8;
        }
    }
}

/// The rows of a store, in memory.
struct World {
    now: Timestamp,
    settings: Settings,
    tally: Tally,
    chance: Counted,
    jobs: BTreeMap<JobId, JobRecord>,
    attempts: BTreeMap<AttemptKey, AttemptRecord>,
    keys: HashMap<(String, String), IdempotencyRecord>,
    outputs: HashSet<JobId>,
    leases: Vec<(NodeId, LeaseRef)>,
    cancelled: HashSet<JobId>,
    accepted: HashMap<JobId, u32>,
    submitted: u64,
}

fn node_id(node: u8) -> NodeId {
    NodeId::from_parts(1, [node; 10])
}

impl World {
    fn empty() -> Self {
        Self {
            now: Timestamp::UNIX_EPOCH,
            settings: Settings { queue_depth_max: 12, ..Settings::default() },
            tally: Tally { next_seq: 1, generation: 1, ..Tally::default() },
            chance: Counted(1),
            jobs: BTreeMap::new(),
            attempts: BTreeMap::new(),
            keys: HashMap::new(),
            outputs: HashSet::new(),
            leases: Vec::new(),
            cancelled: HashSet::new(),
            accepted: HashMap::new(),
            submitted: 0,
        }
    }

    /// Runs one command as a store would: loads what it needs, decides, and keeps the changes.
    fn run<C: Command>(&mut self, command: &C) -> C::Reply {
        let mut needs = Needs::default();
        command.needs(&self.tally, &mut needs);
        let context =
            Context { now: self.now, settings: &self.settings, tally: &self.tally, chance: &mut self.chance };
        let mut set = WorkingSet::new(context);
        let ids = needs.jobs.iter().copied().chain(needs.attempts.iter().map(|key| key.0));
        for job in ids.filter_map(|id| self.jobs.get(&id)) {
            set.put_job(job.clone());
            if let Some(live) = self.attempts.get(&(job.id, job.attempt)) {
                set.put_attempt(live.clone());
            }
        }
        for key in &needs.attempts {
            if let Some(attempt) = self.attempts.get(key) {
                set.put_attempt(attempt.clone());
            }
        }
        for (class, depth) in &needs.ready {
            let mut ready: Vec<_> =
                self.jobs.values().filter(|j| j.class == *class && j.phase == JobPhase::Ready).collect();
            ready.sort_by_key(|job| (std::cmp::Reverse(job.priority), job.seq));
            for job in ready.into_iter().take(*depth as usize) {
                set.put_ready_job(job.clone());
            }
        }
        for name in &needs.keys {
            if let Some(known) = self.keys.get(name) {
                set.keys.insert(name.clone(), known.clone());
            }
        }
        let reply = command.decide(&mut set).expect("every decision keeps to the rules");
        for job in set.jobs.into_values().filter(|job| job.is_changed) {
            let former = self.jobs.get(&job.row.id);
            assert_eq!(job.is_new, former.is_none(), "a job is made once");
            if let Some(former) = former {
                assert!(!former.phase.is_terminal(), "I2: {:?} left its terminal state", former.id);
                assert_eq!(job.row.version, former.version + 1, "the guard of the update");
            }
            // What a store keeps of a document is not among the rows that are loaded.
            self.jobs.insert(job.row.id, JobRecord { document: None, ..job.row });
        }
        for attempt in set.attempts.into_values().filter(|attempt| attempt.is_changed) {
            if let Some(former) = self.attempts.get(&attempt.row.key()) {
                assert!(former.phase.is_live(), "I6: an ended attempt changed");
                assert_eq!(former.fence, attempt.row.fence);
            }
            self.attempts.insert(attempt.row.key(), attempt.row);
        }
        for name in set.keys_made {
            self.keys.insert(name.clone(), set.keys[&name].clone());
        }
        self.outputs.extend(set.outputs.iter().map(|output| output.job));
        self.tally.absorb(set.change);
        reply
    }

    fn submit(&mut self, key: Option<u8>, request: u8, retries: u32, urgent: bool) {
        self.submitted += 1;
        let id = JobId::from_parts(self.submitted, [0; 10]);
        let command = SubmitJob {
            id,
            tenant: "acme".into(),
            actor: "tok".into(),
            key: key
                .map(|key| SubmitKey { key: key.to_string(), request: Digest::from_bytes([request; 32]) }),
            class: ClassSpec {
                tenant: "acme".into(),
                zone: None,
                labels: BTreeMap::new(),
                features: Vec::new(),
                cpus_milli: 1_000 + u32::from(urgent) * 1_000,
                memory_bytes: 1 << 30,
                isolation: None,
            },
            priority: i32::from(urgent),
            retries,
            retry_on: vec![Reason::Trap],
            queue_timeout: (request == 1).then_some(Duration::from_secs(60)),
            deadline: urgent.then_some(Duration::from_secs(120)),
            document: Arc::from("{}"),
            blobs: Vec::new(),
            inputs: Vec::new(),
            queue_depth_tenant_max: 10,
            retry_of: None,
        };
        let waiting = self.jobs.values().filter(|job| job.phase.is_waiting()).count();
        match self.run(&command) {
            SubmitReply::Created(_) => assert!(waiting < 10, "the depth limit holds"),
            SubmitReply::Existing(first) => {
                assert!(first != id && self.jobs.contains_key(&first), "I13: {first:?}");
            }
            SubmitReply::KeyMismatch => {}
            SubmitReply::TenantQueueFull { .. } | SubmitReply::QueueFull { .. } => {
                assert!(waiting >= 10, "refused with {waiting} waiting");
            }
        }
    }

    fn acquire(&mut self, node: u8, leases_max: u32) {
        let command = AcquireLeases {
            node: node_id(node),
            zone: ZoneProfile { name: "here".into(), policy: ZonePolicy::default() },
            profile: NodeProfile {
                labels: BTreeMap::new(),
                features: Vec::new(),
                level: Some(OuterLimit::Process),
            },
            incarnation: "1".into(),
            free: Room { cpus_milli: 4_000, memory_bytes: 8 << 30 },
            leases_max,
            job: None,
        };
        let ready: Vec<_> = self.jobs.values().filter(|job| job.phase == JobPhase::Ready).collect();
        let best = ready.iter().map(|job| (std::cmp::Reverse(job.priority), job.seq, job.id)).min();
        let granted = self.run(&command);
        let first = granted.first().map(|lease| lease.job);
        assert_eq!(first, best.filter(|_| leases_max > 0).map(|(_, _, id)| id), "first come, first served");
        assert!(granted.len() <= leases_max as usize);
        for lease in granted {
            self.leases.push((
                node_id(node),
                LeaseRef { job: lease.job, attempt: lease.attempt, lease_token: lease.token },
            ));
        }
    }

    fn update(&mut self, lease: usize, change: UpdateChange) {
        let Some((node, lease)) = self.leases.get(lease).cloned() else { return };
        let before = self.attempts[&(lease.job, lease.attempt)].clone();
        let is_finish = matches!(change, UpdateChange::Finished(_));
        let update = Update { lease: lease.clone(), change };
        let verdicts = self.run(&ApplyUpdates { node, updates: vec![update.clone()] });
        let after = &self.attempts[&(lease.job, lease.attempt)];
        if verdicts == [UpdateVerdict::LeaseLost] {
            assert_eq!(&before, after, "I6: a stale lease changed something");
        }
        if is_finish && verdicts == [UpdateVerdict::Accepted] && before.phase.is_live() {
            *self.accepted.entry(lease.job).or_default() +=
                u32::from(after.phase.state() == gristmill_protocol::AttemptState::Succeeded);
            let again = self.run(&ApplyUpdates { node, updates: vec![update] });
            assert_eq!(again, verdicts, "a repeated report gets the same verdict");
        }
    }

    fn sweep(&mut self) {
        let now = self.now;
        let attempts = self.attempts.values().filter(|a| a.phase.is_live() && a.expires_at <= now);
        let attempts: Vec<_> = attempts.map(AttemptRecord::key).collect();
        self.run(&ExpireLeases { attempts });
        // Rows that are not due must be left alone, so all are named.
        let jobs: Vec<_> = self.jobs.keys().copied().collect();
        for due in [JobDue::Deadline, JobDue::QueueTimeout, JobDue::Backoff] {
            self.run(&SweepJobs { due, jobs: jobs.clone() });
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Submit { key, request, retries, urgent } => self.submit(key, request, retries, urgent),
            Step::Cancel(index) => {
                let Some(id) = self.jobs.keys().nth(index).copied() else { return };
                let ended = self.jobs[&id].phase.is_terminal();
                self.run(&CancelJob { id, actor: "tok".into(), if_version: None });
                if !ended {
                    self.cancelled.insert(id);
                }
            }
            Step::Acquire { node, leases_max } => self.acquire(node, leases_max),
            Step::Started(lease) => self.update(lease, UpdateChange::Started),
            Step::Released(lease) => self.update(lease, UpdateChange::Released),
            Step::Finished(lease, how) => {
                self.update(lease, UpdateChange::Finished(Box::new(finish(how))));
            }
            Step::Renew(index) => {
                let Some((node, lease)) = self.leases.get(index).cloned() else { return };
                let live = self.attempts[&(lease.job, lease.attempt)].phase.is_live();
                let verdicts = self.run(&RenewLeases { node, leases: vec![lease] });
                assert_eq!(matches!(verdicts[0], LeaseVerdict::Held { .. }), live);
            }
            Step::Pass(ms) => self.now += Duration::from_millis(ms),
            Step::Sweep => self.sweep(),
        }
    }

    fn check(&self) {
        let waiting = self.jobs.values().filter(|job| job.phase.is_waiting()).count() as u64;
        assert_eq!(self.tally.waiting, waiting, "the depth is counted exactly");
        for (class, count) in &self.tally.ready_by_class {
            let ready = self.jobs.values().filter(|j| j.class == *class && j.phase == JobPhase::Ready);
            assert_eq!(*count, ready.count() as u64, "ready jobs are counted exactly");
        }
        for job in self.jobs.values() {
            let of_job: Vec<_> = self.attempts.range((job.id, 0)..=(job.id, u32::MAX)).map(|e| e.1).collect();
            let live = of_job.iter().filter(|attempt| attempt.phase.is_live()).count();
            assert_eq!(live, usize::from(job.phase.is_leased()), "I4: {job:?}");
            assert!(of_job.is_sorted_by(|a, b| a.fence < b.fence), "I5: {of_job:?}");
            assert_eq!(job.phase.is_terminal(), job.finished_at.is_some());
            assert_eq!(job.not_before.is_some(), job.phase == JobPhase::BackingOff, "{job:?}");
            if self.cancelled.contains(&job.id) {
                let stopping = JobPhase::Stopping(StopCause::Cancel);
                assert!(job.phase == JobPhase::Cancelled || job.phase == stopping, "I9: {job:?}");
            }
            let accepted = self.accepted.get(&job.id).copied().unwrap_or(0);
            assert_eq!(accepted, u32::from(job.phase == JobPhase::Succeeded), "I3: {job:?}");
            assert_eq!(self.outputs.contains(&job.id), job.phase == JobPhase::Succeeded, "I7: {job:?}");
            assert!(job.guest_retries <= job.retries && job.infrastructure_losses <= 5, "I10: {job:?}");
        }
    }
}

fn finish(how: u8) -> Finish {
    let (state, reason) = match how {
        0 | 1 => (OutcomeState::Succeeded, None),
        2 => (OutcomeState::Failed, Some(Reason::ExitCode)),
        3 => (OutcomeState::Failed, Some(Reason::Trap)),
        4 => (OutcomeState::Failed, Some(Reason::ExecutorCrashed)),
        _ => (OutcomeState::Cancelled, Some(Reason::CancelledByUser)),
    };
    let output = gristmill_protocol::job::OutputEntry {
        path: "a".into(),
        digest: Digest::from_bytes([1; 32]),
        size: 1,
    };
    Finish {
        report: Digest::from_bytes([how; 32]),
        outcome: Outcome {
            state,
            reason,
            trap_kind: None,
            exit_code: None,
            message: None,
            usage: Usage::default(),
        },
        outputs: if state == OutcomeState::Succeeded { vec![output] } else { Vec::new() },
        log: Vec::new(),
        log_truncated: false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_history_keeps_the_promises_and_ends_once_time_passes(
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut world = World::empty();
        for step in steps {
            world.take(step);
            world.check();
        }
        // Heal: sweep, lease and finish until nothing is left to do.
        for _ in 0..400 {
            if world.jobs.values().all(|job| job.phase.is_terminal()) {
                break;
            }
            world.now += Duration::from_secs(1);
            world.sweep();
            let held = world.leases.len();
            world.acquire(0, 4);
            for lease in held..world.leases.len() {
                world.update(lease, UpdateChange::Finished(Box::new(finish(0))));
            }
            world.check();
        }
        prop_assert!(world.jobs.values().all(|job| job.phase.is_terminal()), "every job comes to its end");
    }
}
