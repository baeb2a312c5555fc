//! What users do: submit, submit again when the answer got lost, cancel, retry, look.

use gristmill_protocol::{ErrorCode, JobId, JobSpec, JobState, LimitsSpec, Reason, job::JobFilter};
use gristmill_server::{error::ApiError, ops, ops::Submitted};
use rand::RngExt;

use super::world::{Intent, TENANTS, World, ZONES};
use crate::history::{Violation, demand, tables};

fn failed(what: &str, error: &ApiError) -> Violation {
    format!("{what} failed: {error:?}")
}

impl World {
    /// Wants a new job.
    pub(super) fn intend(&mut self) -> usize {
        let number = self.intents.len();
        let rng = &mut self.rng;
        let mut spec = JobSpec {
            module: "echo".to_owned(),
            args: vec![number.to_string()],
            retries: rng.random_range(0..3),
            priority: rng.random_range(-2..=2),
            limits: LimitsSpec {
                cpus_milli: Some([1_000, 1_000, 2_000, 3_000][rng.random_range(0..4)]),
                memory_bytes: Some(1 << 30),
                ..LimitsSpec::default()
            },
            ..JobSpec::default()
        };
        if rng.random_bool(0.3) {
            spec.retry_on.push(Reason::WallTimeExceeded);
        }
        let place = rng.random_range(0..10);
        if place < 2 {
            spec.zone = Some(ZONES[rng.random_range(0..2)].to_owned());
        } else if place < 4 {
            spec.labels.insert("disk".to_owned(), ["big", "small"][rng.random_range(0..2)].to_owned());
        }
        if rng.random_bool(0.15) {
            spec.queue_timeout_ms = Some(rng.random_range(1_000..60_000));
        }
        if rng.random_bool(0.15) {
            spec.deadline_ms = Some(rng.random_range(1_000..120_000));
        }
        let key = rng.random_bool(0.6).then(|| format!("intent {number}"));
        let tenant = usize::from(rng.random_bool(0.3));
        self.intents.push(Intent { tenant, key, spec, job: None, tries: 0 });
        number
    }

    /// Submits an intent, for the first time or again; the answer may get lost.
    pub(super) fn submit(&mut self, number: usize) -> Result<(), Violation> {
        let intent = self.intents[number].clone();
        if intent.key.is_none() && intent.tries > 0 {
            return Ok(());
        }
        self.intents[number].tries += 1;
        let (waiting, tenant_waiting) = self.waiting(intent.tenant);
        let (app, who) = (self.life().app.clone(), Self::user(intent.tenant));
        let answer = self.life().run(ops::submit_job(&app, &who, intent.spec.clone(), intent.key.clone()));
        let is_lost = self.rng.random_bool(0.15);
        self.note(|| format!("submit {number}, lost {is_lost}: {answer:?}"));
        let is_full = waiting >= self.settings.queue_depth_max || tenant_waiting >= [1_000, 5][intent.tenant];
        match answer {
            Ok(Submitted { job, created }) => {
                demand!(!created || !is_full, "I15: a full queue took a job");
                demand!(
                    !created || intent.job.is_none(),
                    "I13: the key of {:?} gave a second job {}",
                    intent.job,
                    job.id
                );
                demand!(intent.job.is_none_or(|known| known == job.id), "I13: another job under one key");
                if !is_lost {
                    self.intents[number].job = Some(job.id);
                }
                Ok(())
            }
            Err(error) if error.code == ErrorCode::QueueFull => {
                demand!(is_full, "a queue with room refused a job: {waiting} {tenant_waiting}");
                demand!(error.retry_after_s.is_some(), "a refusal does not say when to come again");
                demand!(intent.job.is_none(), "I13: a known key was refused");
                Ok(())
            }
            Err(error) => Err(failed("submit", &error)),
        }
    }

    /// Submits another request under a key that is in use.
    pub(super) fn submit_mismatch(&mut self, number: usize) -> Result<(), Violation> {
        let mut intent = self.intents[number].clone();
        if intent.job.is_none() || intent.key.is_none() {
            return Ok(());
        }
        intent.spec.args.push("other".to_owned());
        let (app, who) = (self.life().app.clone(), Self::user(intent.tenant));
        let answer = self.life().run(ops::submit_job(&app, &who, intent.spec, intent.key));
        self.note(|| format!("submit {number} with another body: {answer:?}"));
        match answer {
            Err(error) if error.code == ErrorCode::IdempotencyKeyMismatch => Ok(()),
            other => Err(format!("I13: another request under a used key gave {other:?}")),
        }
    }

    fn waiting(&self, tenant: usize) -> (u64, u64) {
        let life = self.life();
        let all = life.run(life.app.store.job_counts()).expect("counts").queue_depth;
        let (jobs, _) = life.run(tables(&*life.app.store, &TENANTS[tenant..=tenant]));
        (all, jobs.iter().filter(|job| job.phase.is_waiting()).count() as u64)
    }

    /// A job that some client knows of.
    pub(super) fn known_job(&mut self) -> Option<(usize, JobId)> {
        let known: Vec<_> =
            self.intents.iter().filter_map(|intent| Some((intent.tenant, intent.job?))).collect();
        if known.is_empty() { None } else { Some(known[self.rng.random_range(0..known.len())]) }
    }

    /// Cancels some job.
    pub(super) fn cancel(&mut self) -> Result<(), Violation> {
        match self.known_job() {
            Some((tenant, id)) => self.cancel_job(tenant, id),
            None => Ok(()),
        }
    }

    /// Cancels this job; another tenant tries it first.
    pub(super) fn cancel_job(&mut self, tenant: usize, id: JobId) -> Result<(), Violation> {
        let (app, who, other) = (self.life().app.clone(), Self::user(tenant), Self::user(1 - tenant));
        let foreign = self.life().run(ops::cancel_job(&app, &other, id, None));
        demand!(
            foreign.is_err_and(|error| error.code == ErrorCode::NotFound),
            "another tenant cancelled {id}"
        );
        let view =
            self.life().run(ops::cancel_job(&app, &who, id, None)).map_err(|e| failed("cancel", &e))?;
        self.note(|| format!("cancel {id}: {}", view.state));
        let was_over = matches!(view.state, JobState::Succeeded | JobState::Failed);
        demand!(was_over || view.cancel_requested_at.is_some(), "I9: a cancel was not recorded: {view:?}");
        if !was_over {
            self.cancelled.push(id);
        }
        Ok(())
    }

    /// Runs a finished job again, which must be refused for one that is not finished.
    pub(super) fn retry(&mut self) -> Result<(), Violation> {
        let Some((tenant, id)) = self.known_job() else { return Ok(()) };
        let (app, who) = (self.life().app.clone(), Self::user(tenant));
        let before = self.life().run(ops::get_job(&app, &who, id)).map_err(|e| failed("get", &e))?;
        let answer = self.life().run(ops::retry_job(&app, &who, id, None));
        self.note(|| format!("retry {id}: {answer:?}"));
        match answer {
            Ok(Submitted { job, .. }) => {
                demand!(before.state.is_terminal(), "a job was retried before its end");
                demand!(job.id != id && job.module == before.module, "a retry is not a new job like the old");
                let spec = before.spec;
                self.intents.push(Intent { tenant, key: None, spec, job: Some(job.id), tries: 1 });
                Ok(())
            }
            Err(error) if error.code == ErrorCode::Conflict => {
                demand!(!before.state.is_terminal(), "a finished job could not be retried");
                Ok(())
            }
            Err(error) if error.code == ErrorCode::QueueFull => Ok(()),
            Err(error) => Err(failed("retry", &error)),
        }
    }

    /// Pages through the list one by one: every job once, newest first.
    pub(super) fn list(&mut self) -> Result<(), Violation> {
        let tenant = self.rng.random_range(0..2);
        let (app, who) = (self.life().app.clone(), Self::user(tenant));
        let mut seen = Vec::new();
        let mut filter = JobFilter { page_size: Some(1), ..JobFilter::default() };
        loop {
            let page = self.life().run(ops::list_jobs(&app, &who, filter.clone()));
            let page = page.map_err(|e| failed("list", &e))?;
            seen.extend(page.items.iter().map(|job| job.id));
            match page.next_page_token {
                Some(token) => filter.page_token = Some(token),
                None => break,
            }
        }
        let life = self.life();
        let (jobs, _) = life.run(tables(&*life.app.store, &TENANTS[tenant..=tenant]));
        let kept: Vec<_> = jobs.iter().map(|job| job.id).collect();
        demand!(seen == kept, "pages of one do not give the list");
        Ok(())
    }
}
