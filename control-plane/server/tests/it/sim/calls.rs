//! Calls of nodes as they arrive: in time, twice, late, or from somebody who holds no lease. The
//! judge knows beforehand which of them may have an effect.

use std::collections::BTreeSet;

use bytes::Bytes;
use gristmill_lifecycle::job::JobPhase;
use gristmill_protocol::{
    ErrorCode, JobState, LeaseToken,
    attempt::LogStream,
    node_api::{
        AttemptChange, AttemptReport, AttemptUpdate, LeaseRef, LeaseVerdict, RenewRequest, UpdateVerdict,
        UpdatesRequest,
    },
    reason::OutcomeState,
};
use gristmill_server::ops;
use rand::RngExt;

use super::{
    node::Ending,
    world::{Letter, World},
};
use crate::{
    backend::{Backend, SqliteBackend},
    history::{Violation, demand},
};

impl World {
    /// Whether a lease is live, by the tables, and whether its guest has to stop.
    fn lease_state(&self, lease: &LeaseRef) -> (bool, bool) {
        let life = self.life();
        let key = (lease.job, lease.attempt);
        let states = life.run(life.app.store.lease_states(&[key])).expect("states");
        let state = states.get(&key).filter(|state| state.attempt.phase.is_live());
        (state.is_some(), state.is_some_and(|state| state.stop))
    }

    /// What had to stop, for a cancel or for its deadline, cannot succeed any more.
    fn check_stopped(&mut self, request: &UpdatesRequest, states: &[(bool, bool)]) -> Result<(), Violation> {
        for (update, (_, stop)) in request.updates.iter().zip(states) {
            let (AttemptChange::Finished(report), true) = (&update.change, stop) else { continue };
            let life = self.life();
            let job = life.run(life.app.store.job_get(update.lease.job)).expect("read").expect("the job");
            demand!(job.phase != JobPhase::Succeeded, "I9: {} succeeded after it had to stop", job.id);
            self.stopped_successes += u64::from(report.outcome.state == OutcomeState::Succeeded);
        }
        Ok(())
    }

    pub(super) fn dump(&self) -> Vec<String> {
        self.life().run(SqliteBackend::in_dir(self.dir.path()).dump())
    }

    /// Delivers updates. What comes under leases that are over must change nothing.
    pub(super) fn deliver_updates(
        &mut self,
        index: usize,
        request: &UpdatesRequest,
    ) -> Result<Vec<UpdateVerdict>, Violation> {
        let states: Vec<_> = request.updates.iter().map(|update| self.lease_state(&update.lease)).collect();
        let before = (!states.iter().any(|(live, _)| *live)).then(|| self.dump());
        let (app, who) = (self.life().app.clone(), self.nodes[index].principal());
        let grant = self.life().run(ops::apply_updates(&app, &who, request.clone()));
        let verdicts = grant.map_err(|error| format!("updates failed: {error:?}"))?.verdicts;
        self.note(|| format!("node {index} updates {}: {verdicts:?}", brief(request)));
        demand!(verdicts.len() == request.updates.len(), "a verdict is missing");
        if let Some(before) = before {
            demand!(self.dump() == before, "I6: an update under a lease that is over changed something");
        }
        let mut ended = BTreeSet::new();
        self.check_stopped(request, &states)?;
        for ((update, verdict), (live, _)) in request.updates.iter().zip(verdicts.iter().copied()).zip(states)
        {
            self.judge_verdict(update, verdict, live && !ended.contains(&update.lease.job))?;
            if !matches!(update.change, AttemptChange::Started) {
                ended.insert(update.lease.job);
            }
        }
        Ok(verdicts)
    }

    /// The first report that arrives in time is accepted, and so is each copy of it; no other is.
    fn judge_verdict(
        &mut self,
        update: &AttemptUpdate,
        verdict: UpdateVerdict,
        live: bool,
    ) -> Result<(), Violation> {
        let key = (update.lease.job, update.lease.attempt);
        demand!(!live || verdict != UpdateVerdict::LeaseLost, "a live lease was called lost: {update:?}");
        let AttemptChange::Finished(report) = &update.change else { return Ok(()) };
        if live {
            if verdict == UpdateVerdict::Accepted {
                self.accepted.insert(key, (**report).clone());
            }
            return Ok(());
        }
        let is_copy = self.accepted.get(&key) == Some(report);
        let expected = if is_copy { UpdateVerdict::Accepted } else { UpdateVerdict::LeaseLost };
        demand!(verdict == expected, "I3: a late report got {verdict}, not {expected}: {update:?}");
        Ok(())
    }

    pub(super) fn deliver_renewal(
        &mut self,
        index: usize,
        request: &RenewRequest,
    ) -> Result<Vec<LeaseVerdict>, Violation> {
        let live: Vec<_> = request.leases.iter().map(|lease| self.lease_state(lease).0).collect();
        let (app, who) = (self.life().app.clone(), self.nodes[index].principal());
        let grant = self.life().run(ops::renew_leases(&app, &who, request.clone()));
        let verdicts = grant.map_err(|error| format!("the renewal failed: {error:?}"))?.leases;
        self.note(|| format!("node {index} renews: {verdicts:?}"));
        let until = self.now() + self.settings.lease_ttl;
        for ((lease, verdict), live) in request.leases.iter().zip(&verdicts).zip(live) {
            let is_held = matches!(verdict, LeaseVerdict::Held { .. });
            demand!(is_held == live, "I6: the verdict on {lease:?} is {verdict:?}");
            if is_held {
                self.promised.insert((lease.job, lease.attempt), until);
            }
        }
        Ok(verdicts)
    }

    /// Whether the piece is stored; `false` when the lease is over.
    pub(super) fn deliver_log(
        &mut self,
        index: usize,
        lease: &LeaseRef,
        offset: u64,
        bytes: Vec<u8>,
    ) -> Result<bool, Violation> {
        let before = (!self.lease_state(lease).0).then(|| self.dump());
        let (app, who) = (self.life().app.clone(), self.nodes[index].principal());
        let bytes = Bytes::from(bytes);
        let done =
            self.life().run(ops::append_log(&app, &who, lease, LogStream::Stdout, offset, offset, bytes));
        self.note(|| format!("node {index} appends to {} at {offset}: {done:?}", lease.job));
        match (done, before) {
            (Ok(()), None) => Ok(true),
            (Err(error), Some(before)) if error.code == ErrorCode::LeaseLost => {
                demand!(
                    self.dump() == before,
                    "I6: a log piece under a lease that is over changed something"
                );
                Ok(false)
            }
            (other, before) => Err(format!("I6: live {}, append gave {other:?}", before.is_none())),
        }
    }

    /// Something that was sent before arrives once more.
    pub(super) fn deliver_late(&mut self) -> Result<(), Violation> {
        if self.bag.is_empty() {
            return Ok(());
        }
        let chosen = self.rng.random_range(0..self.bag.len());
        self.note(|| "a copy arrives late".to_owned());
        match self.bag.swap_remove(chosen) {
            Letter::Updates(index, request) => self.deliver_updates(index, &request).map(drop),
            Letter::Renew(index, request) => self.deliver_renewal(index, &request).map(drop),
            Letter::Log(index, lease, offset, bytes) => {
                self.deliver_log(index, &lease, offset, bytes).map(drop)
            }
        }
    }

    /// Somebody who does not hold a lease acts as if: with a guessed token, or as another node that
    /// has seen the token. Nothing may come of it.
    pub(super) fn forge(&mut self) -> Result<(), Violation> {
        let held: Vec<_> = self
            .nodes
            .iter()
            .enumerate()
            .flat_map(|(index, node)| node.held.values().map(move |held| (index, held.lease.clone())))
            .collect();
        if held.is_empty() {
            return Ok(());
        }
        let (owner, mut lease) = held[self.rng.random_range(0..held.len())].clone();
        let index = match self.rng.random_range(0..3) {
            0 => {
                lease.lease_token = LeaseToken::from_random([7; 16]);
                owner
            }
            1 => {
                lease.attempt += 1;
                owner
            }
            _ => (owner + 1) % self.nodes.len(),
        };
        let before = self.dump();
        let (app, who) = (self.life().app.clone(), self.nodes[index].principal());
        let report = Ending::Success(0).report((lease.job, lease.attempt));
        let updates =
            [AttemptChange::Started, AttemptChange::Finished(Box::new(report)), AttemptChange::Released]
                .map(|change| AttemptUpdate { lease: lease.clone(), change });
        let request = UpdatesRequest { updates: updates.to_vec() };
        let verdicts = self.life().run(ops::apply_updates(&app, &who, request));
        let renewed =
            self.life().run(ops::renew_leases(&app, &who, RenewRequest { leases: vec![lease.clone()] }));
        let piece = Bytes::from_static(b"forged");
        let appended = self.life().run(ops::append_log(&app, &who, &lease, LogStream::Stderr, 0, 0, piece));
        self.note(|| format!("a forgery of {}/{} as node {index}", lease.job, lease.attempt));
        let verdicts = verdicts.map_err(|error| format!("updates failed: {error:?}"))?.verdicts;
        demand!(verdicts == [UpdateVerdict::LeaseLost; 3], "I6: a forgery got {verdicts:?}");
        let renewed = renewed.map_err(|error| format!("the renewal failed: {error:?}"))?.leases;
        demand!(matches!(renewed[..], [LeaseVerdict::Lost]), "I6: a forgery got {renewed:?}");
        demand!(appended.is_err(), "I6: a forged piece of a log was taken");
        // But for the record, which tells of the forgery.
        let mut after = self.dump();
        after.retain(|row| {
            !(row.starts_with("audit|") && row.contains("'lease_forge'") && !before.contains(row))
        });
        demand!(after == before, "I6: a forgery changed something");
        Ok(())
    }
}

fn brief(request: &UpdatesRequest) -> String {
    let parts: BTreeSet<_> = request
        .updates
        .iter()
        .map(|update| {
            let what = match &update.change {
                AttemptChange::Started => "started".to_owned(),
                AttemptChange::Released => "released".to_owned(),
                AttemptChange::Finished(report) => end_of(report),
            };
            format!("{}/{} {what}", update.lease.job, update.lease.attempt)
        })
        .collect();
    format!("{parts:?}")
}

fn end_of(report: &AttemptReport) -> String {
    match report.outcome.reason {
        Some(reason) => reason.to_string(),
        None => JobState::Succeeded.to_string(),
    }
}
