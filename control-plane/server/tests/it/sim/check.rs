//! What must hold at the end of a run, whatever happened.

use std::collections::BTreeMap;

use gristmill_lifecycle::record::JobRecord;
use gristmill_protocol::{AttemptState, JobId, JobState};

use super::world::{TENANTS, World};
use crate::history::{Violation, demand, tables};

/// The intent that a job came from.
fn intent_of(job: &JobRecord) -> Option<usize> {
    let document: serde_json::Value = serde_json::from_str(job.document.as_deref()?).ok()?;
    document.pointer("/spec/args/0")?.as_str()?.parse().ok()
}

impl World {
    /// Judges the tables against the log and against what the clients and nodes were told.
    pub(super) fn check_tables(&self) -> Result<Vec<JobRecord>, Violation> {
        let life = self.life();
        let (jobs, attempts) = life.run(tables(&*life.app.store, &TENANTS));
        self.history.verify(&jobs, &attempts, self.settings.infrastructure_retries_max)?;
        let by_id: BTreeMap<JobId, &JobRecord> = jobs.iter().map(|job| (job.id, job)).collect();
        let waiting = jobs.iter().filter(|job| job.phase.is_waiting()).count() as u64;
        let counted = life.run(life.app.store.job_counts()).expect("counts").queue_depth;
        demand!(waiting == counted, "the queue's depth is {waiting}, counted as {counted}");
        for intent in &self.intents {
            demand!(
                intent.job.is_none_or(|id| by_id.contains_key(&id)),
                "I1: the acknowledged job {:?} is lost",
                intent.job
            );
        }
        for id in &self.cancelled {
            let state = by_id.get(id).map(|job| (job.phase.state(), job.cancel_requested_at.is_some()));
            let holds = matches!(state, Some((JobState::Cancelled | JobState::Running, true)));
            demand!(holds, "I9: the cancel of {id} was acknowledged, and it is {state:?}");
        }
        self.check_intents(&jobs)?;
        for job in &jobs {
            self.check_outputs(job)?;
            let class = life.run(life.app.store.class_get(job.class)).expect("read").expect("a class");
            for attempt in &attempts[&job.id] {
                demand!(
                    self.nodes.iter().any(|node| node.id == attempt.node && node.zone == attempt.zone),
                    "I14: an attempt in a foreign zone"
                );
                demand!(
                    class.zone.as_ref().is_none_or(|zone| *zone == attempt.zone),
                    "I14: {} left its zone",
                    job.id
                );
            }
        }
        Ok(jobs)
    }

    /// One key, one job; without a key at most one job for each try.
    fn check_intents(&self, jobs: &[JobRecord]) -> Result<(), Violation> {
        let mut counts: BTreeMap<usize, u32> = BTreeMap::new();
        for job in jobs {
            let Some(number) = intent_of(job) else { return Err(format!("I1: {} is nobody's", job.id)) };
            *counts.entry(number).or_default() += 1;
        }
        for (number, intent) in self.intents.iter().enumerate() {
            // A retried job carries the spec of the one before it.
            let retries = self
                .intents
                .iter()
                .skip(number + 1)
                .filter(|other| other.spec.args == intent.spec.args)
                .count() as u32;
            let allowed = if intent.key.is_some() { 1 } else { intent.tries } + retries;
            let made = counts.get(&number).copied().unwrap_or(0);
            demand!(made <= allowed, "I13: intent {number} made {made} jobs");
        }
        Ok(())
    }

    /// Outputs are there if and only if the job succeeded, and they are those of the accepted report.
    fn check_outputs(&self, job: &JobRecord) -> Result<(), Violation> {
        let life = self.life();
        let mut outputs = life.run(life.app.store.output_list(job.id)).expect("outputs");
        outputs.sort_by(|a, b| a.path.cmp(&b.path));
        let expected = if job.phase.state() == JobState::Succeeded {
            let attempt = life.run(life.app.store.attempt_get(job.id, job.attempt)).expect("read");
            let is_accepted = attempt.is_some_and(|row| row.phase.state() == AttemptState::Succeeded);
            demand!(is_accepted, "I3: {} succeeded without an accepted attempt", job.id);
            self.reported.get(&(job.id, job.attempt)).cloned()
        } else {
            Some(Vec::new())
        };
        demand!(expected.as_ref() == Some(&outputs), "I7: {} has {outputs:?}, not {expected:?}", job.id);
        demand!(job.output_count == outputs.len() as u64, "I7: {} miscounts its outputs", job.id);
        Ok(())
    }
}
