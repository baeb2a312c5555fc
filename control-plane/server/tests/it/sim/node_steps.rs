//! What nodes do, step by step, with everything that the network does to their calls.

use std::time::Duration;

use gristmill_lifecycle::{
    job::JobPhase,
    placement::{ClassSpec, NodeProfile, Room, ZoneProfile, admits},
    record::{AttemptKey, JobRecord},
};
use gristmill_protocol::{
    JobId, OuterLimit,
    node_api::{AttemptChange, AttemptUpdate, LeaseVerdict, RenewRequest, UpdateVerdict, UpdatesRequest},
    reason::OutcomeState,
    zone::ZonePolicy,
};
use gristmill_server::ops;
use rand::RngExt;

use super::{
    node::{Ending, Guest},
    world::{Letter, TENANTS, World, keys},
};
use crate::history::{Violation, demand, tables};

impl World {
    /// One thing that a node does.
    pub(super) fn act(&mut self, index: usize) -> Result<(), Violation> {
        if !self.nodes[index].is_up {
            return Ok(());
        }
        match self.rng.random_range(0..10) {
            0..3 => self.begin(index),
            3..5 => {
                self.end(index);
                Ok(())
            }
            5..7 => self.send_updates(index, true),
            7 => self.renew(index, true),
            _ => self.append_log(index),
        }
    }

    fn pick(&mut self, index: usize, guest: Guest) -> Option<AttemptKey> {
        let fitting: Vec<_> = self.nodes[index]
            .held
            .iter()
            .filter(|(_, held)| held.guest == guest)
            .map(|(key, _)| *key)
            .collect();
        if fitting.is_empty() { None } else { Some(fitting[self.rng.random_range(0..fitting.len())]) }
    }

    /// Starts a guest, or gives its lease back.
    fn begin(&mut self, index: usize) -> Result<(), Violation> {
        let Some(key) = self.pick(index, Guest::Staging) else { return Ok(()) };
        if self.rng.random_bool(0.15) {
            self.note(|| format!("node {index} releases {key:?}"));
            self.nodes[index].say(key, AttemptChange::Released);
            self.set_guest(index, key, Guest::Ended);
            return Ok(());
        }
        self.start_guest(index, key)
    }

    /// Starts a guest; no other guest of the job may run anywhere.
    pub(super) fn start_guest(&mut self, index: usize, key: AttemptKey) -> Result<(), Violation> {
        let (now, stop) = (self.now(), self.settings.lease_stop);
        for (other, node) in self.nodes.iter().enumerate() {
            for known in node.held.keys().filter(|known| known.0 == key.0) {
                demand!(
                    !node.runs(*known, now, stop),
                    "I4: {key:?} starts on node {index} while {known:?} runs on node {other}"
                );
            }
        }
        self.note(|| format!("node {index} starts {key:?}"));
        self.set_guest(index, key, Guest::Running);
        // Some nodes report the start with the end only.
        if self.rng.random_bool(0.8) {
            self.nodes[index].say(key, AttemptChange::Started);
        }
        Ok(())
    }

    fn set_guest(&mut self, index: usize, key: AttemptKey, guest: Guest) {
        if let Some(held) = self.nodes[index].held.get_mut(&key) {
            held.guest = guest;
        }
    }

    /// A guest succeeds while its job is cancelled; the report and the cancel race each other.
    pub(super) fn contend(&mut self, index: usize) -> Result<(), Violation> {
        self.send_updates(index, false)?;
        let Some(key) = self.pick(index, Guest::Running) else { return Ok(()) };
        let known = self.intents.iter().find(|intent| intent.job == Some(key.0));
        let Some(tenant) = known.map(|intent| intent.tenant) else { return Ok(()) };
        let is_early = self.rng.random_bool(0.7);
        if is_early {
            self.cancel_job(tenant, key.0)?;
        }
        self.end_guest(index, key, Ending::Success(1));
        self.send_updates(index, true)?;
        if is_early { Ok(()) } else { self.cancel_job(tenant, key.0) }
    }

    /// Ends a guest in some way.
    fn end(&mut self, index: usize) {
        if let Some(key) = self.pick(index, Guest::Running) {
            let ending = Ending::draw(&mut self.rng, key);
            self.end_guest(index, key, ending);
        }
    }

    pub(super) fn end_guest(&mut self, index: usize, key: AttemptKey, ending: Ending) {
        self.note(|| format!("node {index} ends {key:?}: {ending:?}"));
        let report = ending.report(key);
        self.set_guest(index, key, Guest::Ended);
        let is_stored = report.outputs.is_empty() || self.rng.random_bool(0.9);
        if is_stored {
            let (app, at) = (self.life().app.clone(), self.now());
            for output in &report.outputs {
                self.life()
                    .run(app.store.blob_record_output(key.0, key.1, output.digest, output.size, at))
                    .expect("the output is stored");
            }
            if report.outcome.state == OutcomeState::Succeeded {
                self.reported.insert(key, report.outputs.clone());
            }
        }
        self.nodes[index].say(key, AttemptChange::Finished(Box::new(report)));
    }

    /// Sends what there is to say; the answer may get lost, and a copy may come again later.
    pub(super) fn send_updates(&mut self, index: usize, is_faulty: bool) -> Result<(), Violation> {
        let node = &self.nodes[index];
        if !node.is_linked || node.outbox.is_empty() {
            return Ok(());
        }
        let request = UpdatesRequest { updates: node.outbox.clone() };
        let verdicts = self.deliver_updates(index, &request)?;
        if is_faulty && self.rng.random_bool(0.2) {
            self.bag.push(Letter::Updates(index, request.clone()));
        }
        if is_faulty && self.rng.random_bool(0.2) {
            self.note(|| "the verdicts are lost".to_owned());
            return Ok(());
        }
        self.nodes[index].outbox.clear();
        for (update, verdict) in request.updates.into_iter().zip(verdicts) {
            let key = (update.lease.job, update.lease.attempt);
            let is_end = !matches!(update.change, AttemptChange::Started);
            match verdict {
                UpdateVerdict::Accepted if is_end => self.nodes[index].forget(key),
                UpdateVerdict::Accepted => {}
                UpdateVerdict::LeaseLost => self.nodes[index].forget(key),
                UpdateVerdict::Cancelled => self.nodes[index].cancel(key),
                UpdateVerdict::Rejected => self.rejected(index, key, &update),
                other => return Err(format!("an unknown verdict {other}")),
            }
        }
        Ok(())
    }

    /// A report whose outputs were not stored: the node gives the attempt up.
    fn rejected(&mut self, index: usize, key: AttemptKey, update: &AttemptUpdate) {
        assert!(matches!(update.change, AttemptChange::Finished(_)), "only a report can be rejected");
        self.nodes[index].outbox.retain(|other| (other.lease.job, other.lease.attempt) != key);
        let report = Ending::Failure(gristmill_protocol::Reason::ExecutorCrashed).report(key);
        self.nodes[index].say(key, AttemptChange::Finished(Box::new(report)));
    }

    /// Prolongs what the node holds; the answer may get lost.
    pub(super) fn renew(&mut self, index: usize, is_faulty: bool) -> Result<(), Violation> {
        let node = &self.nodes[index];
        if !node.is_linked || node.held.is_empty() {
            return Ok(());
        }
        let request = RenewRequest { leases: node.held.values().map(|held| held.lease.clone()).collect() };
        let asked_at = self.now();
        let verdicts = self.deliver_renewal(index, &request)?;
        if is_faulty && self.rng.random_bool(0.2) {
            self.bag.push(Letter::Renew(index, request.clone()));
        }
        if is_faulty && self.rng.random_bool(0.2) {
            return Ok(());
        }
        for (lease, verdict) in request.leases.iter().zip(verdicts) {
            let key = (lease.job, lease.attempt);
            match verdict {
                LeaseVerdict::Lost => self.nodes[index].forget(key),
                LeaseVerdict::Held { cancel, .. } => {
                    if let Some(held) = self.nodes[index].held.get_mut(&key) {
                        held.asked_at = asked_at;
                    }
                    if cancel {
                        self.nodes[index].cancel(key);
                    }
                }
            }
        }
        Ok(())
    }

    /// Appends to the log of some attempt.
    fn append_log(&mut self, index: usize) -> Result<(), Violation> {
        let Some(key) = self.pick(index, Guest::Running) else { return Ok(()) };
        if !self.nodes[index].is_linked {
            return Ok(());
        }
        let bytes = vec![b'x'; self.rng.random_range(1..40)];
        let held = &self.nodes[index].held[&key];
        let (lease, offset) = (held.lease.clone(), held.log_bytes);
        if self.rng.random_bool(0.5) {
            self.bag.push(Letter::Log(index, lease.clone(), offset, bytes.clone()));
        }
        let len = bytes.len() as u64;
        if self.deliver_log(index, &lease, offset, bytes)? {
            if let Some(held) = self.nodes[index].held.get_mut(&key) {
                held.log_bytes += len;
            }
        } else {
            self.nodes[index].forget(key);
        }
        Ok(())
    }

    /// Asks for work at once; the grant must be what a look at all jobs says.
    pub(super) fn acquire(&mut self, index: usize, is_faulty: bool) -> Result<(), Violation> {
        let node = &self.nodes[index];
        if !node.is_up || !node.is_linked || node.parked.is_some() {
            return Ok(());
        }
        let leases_max = self.rng.random_range(1..4);
        let request = self.nodes[index].ask(leases_max, 0);
        let (app, who) = (self.life().app.clone(), self.nodes[index].principal());
        let expected = self.expected_grant(index, leases_max);
        let grant = self.life().run(ops::acquire_leases(&app, &who, request));
        let grant = grant.map_err(|error| format!("acquire failed: {error:?}"))?;
        let is_lost = is_faulty && self.rng.random_bool(0.1);
        self.note(|| format!("node {index} acquires {:?}, lost {is_lost}", keys(&grant)));
        let granted: Vec<_> = grant.leases.iter().map(|lease| lease.job).collect();
        demand!(granted == expected, "I12: granted {granted:?}, expected {expected:?}");
        let (life, now_lives) = (self.life(), self.nodes[index].incarnation_text());
        let bound = life.run(life.app.store.lease_of_node(self.nodes[index].id)).expect("leases");
        demand!(
            bound.iter().all(|(_, incarnation)| *incarnation == now_lives),
            "a process that is gone still holds leases: {bound:?}"
        );
        if is_lost { Ok(()) } else { self.take_grant(index, &grant) }
    }

    fn ready_jobs(&mut self) -> Vec<(JobRecord, ClassSpec)> {
        let life = self.life();
        let (jobs, _) = life.run(tables(&*life.app.store, &TENANTS));
        let mut ready = Vec::new();
        for job in jobs.into_iter().filter(|job| job.phase == JobPhase::Ready) {
            if !self.classes.contains_key(&job.class) {
                let life = self.life();
                let class = life.run(life.app.store.class_get(job.class)).expect("read").expect("a class");
                self.classes.insert(job.class, class);
            }
            let class = self.classes[&job.class].clone();
            ready.push((job, class));
        }
        ready.sort_by_key(|(job, _)| (std::cmp::Reverse(job.priority), job.seq));
        ready
    }

    fn admits(&self, index: usize, class: &ClassSpec) -> bool {
        let node = &self.nodes[index];
        let zone = ZoneProfile { name: node.zone.clone(), policy: ZonePolicy::default() };
        admits(
            class,
            &zone,
            &NodeProfile {
                labels: node.labels.clone(),
                features: Vec::new(),
                level: Some(OuterLimit::Process),
            },
        )
    }

    fn room(&self, index: usize) -> Room {
        Room { cpus_milli: self.nodes[index].cpus_milli_free(), memory_bytes: 1 << 45 }
    }

    /// What the first ready jobs are that the node can take, found by looking at every job.
    pub(super) fn expected_grant(&mut self, index: usize, leases_max: u32) -> Vec<JobId> {
        let mut free = self.room(index);
        let mut expected = Vec::new();
        for (job, class) in self.ready_jobs() {
            if expected.len() < leases_max as usize && free.fits(&class) && self.admits(index, &class) {
                free = free.without(&class);
                expected.push(job.id);
            }
        }
        expected
    }

    /// Asks for work and waits for it at the server.
    pub(super) fn park(&mut self, index: usize) {
        let node = &self.nodes[index];
        if !node.is_up || !node.is_linked || node.parked.is_some() || node.cpus_milli_free() < 3_000 {
            return;
        }
        let (request, who) = (node.ask(1, 25_000), node.principal());
        let app = self.life().app.clone();
        if !self.expected_grant(index, 1).is_empty() {
            return;
        }
        self.note(|| format!("node {index} waits for work"));
        let before = app.store.counters().claims;
        let claim = self.life().spawn(async move { ops::acquire_leases(&app, &who, request).await });
        // The claim has to be with the writer before anything else happens.
        let app = self.life().app.clone();
        self.life().run(async {
            while app.store.counters().claims == before && !claim.is_finished() {
                tokio::task::yield_now().await;
            }
        });
        self.nodes[index].parked = Some(claim);
    }

    /// Work must not wait beside a node that waits for it.
    pub(super) fn check_parked(&mut self) -> Result<(), Violation> {
        let waiting: Vec<_> = (0..self.nodes.len()).filter(|n| self.nodes[*n].parked.is_some()).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let ready = self.ready_jobs();
        for index in waiting {
            let room = self.room(index);
            let idle = ready.iter().find(|(_, class)| room.fits(class) && self.admits(index, class));
            demand!(idle.is_none(), "I12: node {index} waits beside {:?}", idle.map(|(job, _)| job.id));
        }
        Ok(())
    }

    /// A waiting node hangs up.
    pub(super) fn unpark(&mut self, index: usize) {
        if let Some(claim) = self.nodes[index].parked.take() {
            self.note(|| format!("node {index} hangs up"));
            claim.abort();
            let _ = self.life().run(claim);
        }
    }

    /// A node dies, starts anew, or its link is cut or mended.
    pub(super) fn disturb(&mut self, index: usize) {
        let what = self.rng.random_range(0..4);
        self.note(|| format!("disturbance {what} of node {index}"));
        match what {
            0 => {
                self.unpark(index);
                self.nodes[index].die();
            }
            1 => {
                self.unpark(index);
                self.nodes[index].start();
                self.introduce(index);
            }
            2 => {
                self.unpark(index);
                self.nodes[index].is_linked = false;
            }
            _ => self.nodes[index].is_linked = true,
        }
    }

    /// A healthy node does all that it has to do within one second of its life.
    pub(super) fn live_well(&mut self, index: usize) -> Result<(), Violation> {
        let now = self.now();
        let is_due = |asked_at| now >= asked_at + Duration::from_secs(10);
        if self.nodes[index].held.values().any(|held| is_due(held.asked_at)) {
            self.renew(index, false)?;
        }
        self.send_updates(index, false)?;
        while let Some(key) = self.pick(index, Guest::Running) {
            self.end_guest(index, key, Ending::Success(1));
        }
        self.send_updates(index, false)?;
        self.acquire(index, false)?;
        while let Some(key) = self.pick(index, Guest::Staging) {
            self.start_guest(index, key)?;
        }
        self.send_updates(index, false)
    }
}
