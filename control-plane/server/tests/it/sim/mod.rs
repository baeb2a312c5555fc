//! The seeded simulation: the server's operations with nodes, clients, a network and a clock that
//! do everything that real ones do, and a judge that knows the promises. A run is one thread and
//! one seed, so that a seed that fails fails again.

mod burst;
mod calls;
mod check;
mod client;
mod life;
mod node;
mod node_steps;
mod world;

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use gristmill_lifecycle::command::JobDue;
use gristmill_protocol::Reason;
use gristmill_server::ops;
use rand::RngExt;

use self::world::World;
use crate::{
    backend::{Backend, SqliteBackend},
    commands::events_after,
    history::{Violation, demand},
};

/// Steps of the wild phase of one run.
const STEPS: u32 = 210;
/// Simulated seconds within which all jobs must have ended once everything works again: a lease's
/// time, the longest backoff, and a second for each round of work.
const HEALING_S: u32 = 30 + 60 + 40;

/// What many runs together must have come to, or they do not look where it matters.
const REASONS: [Reason; 10] = [
    Reason::AttemptsExhausted,
    Reason::CancelledByUser,
    Reason::DeadlineExceeded,
    Reason::ExecutorCrashed,
    Reason::ExitCode,
    Reason::LeaseExpired,
    Reason::NodeDrained,
    Reason::QueueTimeout,
    Reason::RetryRequested,
    Reason::WallTimeExceeded,
];

impl World {
    fn step(&mut self) -> Result<(), Violation> {
        let node = self.rng.random_range(0..self.nodes.len());
        match self.rng.random_range(0..100) {
            0..12 => {
                let number = self.intend();
                self.submit(number)?;
            }
            12..18 => self.submit_again()?,
            18..21 => self.cancel()?,
            21..23 => self.contend(node)?,
            23..48 => self.act(node)?,
            48..60 => self.acquire(node, true)?,
            60..65 => self.park(node),
            65..67 => self.unpark(node),
            67..77 => self.sweep_once()?,
            77..87 => self.pass_some_time(),
            87..90 => self.burst()?,
            90..93 => self.deliver_late()?,
            93 => self.forge()?,
            94..96 => self.disturb(node),
            96 => {
                self.note(|| "the server restarts".to_owned());
                self.restart();
            }
            97 => self.kill(),
            98 => self.retry()?,
            _ => self.list()?,
        }
        self.follow()?;
        self.check_parked()
    }

    fn submit_again(&mut self) -> Result<(), Violation> {
        if self.intents.is_empty() {
            return Ok(());
        }
        let number = self.rng.random_range(0..self.intents.len());
        if self.rng.random_bool(0.2) { self.submit_mismatch(number) } else { self.submit(number) }
    }

    /// One duty of the sweep, or a round of all of them.
    fn sweep_once(&mut self) -> Result<(), Violation> {
        let duty = self.rng.random_range(0..6);
        let app = self.life().app.clone();
        let life = self.life();
        let done = match duty {
            0 => life.run(ops::expire_leases(&app)),
            1 => life.run(ops::sweep_jobs(&app, JobDue::Deadline)),
            2 => life.run(ops::sweep_jobs(&app, JobDue::QueueTimeout)),
            3 => life.run(ops::sweep_jobs(&app, JobDue::Backoff)),
            _ => {
                self.sweep_round();
                Ok(0)
            }
        };
        self.note(|| format!("sweep {duty}: {done:?}"));
        done.map(drop).map_err(|error| format!("a sweep failed: {error:?}"))
    }

    fn sweep_round(&mut self) {
        let mut sweep = std::mem::take(&mut self.life_mut().sweep);
        let app = self.life().app.clone();
        self.life().run(sweep.round(&app));
        self.life_mut().sweep = sweep;
    }

    fn pass_some_time(&mut self) {
        let by_ms = match self.rng.random_range(0..10) {
            0..4 => self.rng.random_range(1..1_000),
            4..8 => self.rng.random_range(1_000..10_000),
            // Around the end of a lease.
            8 => self.rng.random_range(24_000..31_000),
            _ => self.rng.random_range(10_000..70_000),
        };
        self.note(|| format!("{by_ms} ms pass"));
        self.pass(Duration::from_millis(by_ms));
    }

    /// The server is killed around the commits of some change.
    fn kill(&mut self) {
        let after = self.rng.random_range(0..4);
        let (what, number) = (self.rng.random_range(0..3), self.intend());
        self.note(|| format!("the server is killed {after} commits into change {what}"));
        let life = self.take_life();
        let app = life.app.clone();
        let (spec, key) = (self.intents[number].spec.clone(), self.intents[number].key.clone());
        let who = Self::user(self.intents[number].tenant);
        match what {
            0 => {
                self.intents[number].tries += 1;
                let answer = life.kill_during(after, ops::submit_job(&app, &who, spec, key));
                if let Some(Ok(submitted)) = answer {
                    self.intents[number].job = Some(submitted.job.id);
                }
            }
            1 => {
                let (who, request) = (self.nodes[0].principal(), self.nodes[0].ask(3, 0));
                life.kill_during(after, ops::acquire_leases(&app, &who, request));
            }
            _ => {
                life.kill_during(after, async {
                    ops::expire_leases(&app).await?;
                    ops::sweep_jobs(&app, JobDue::Backoff).await
                });
            }
        }
        drop(app);
        Self::settle(self.dir.path());
        self.revive();
    }

    /// Waits until the killed process is gone for certain, and checks the file.
    fn settle(path: &std::path::Path) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(SqliteBackend::in_dir(path).settle());
    }

    /// Everything works again.
    fn heal(&mut self) -> Result<(), Violation> {
        self.note(|| "everything heals".to_owned());
        self.bag.clear();
        for index in 0..self.nodes.len() {
            self.unpark(index);
            self.nodes[index].is_linked = true;
            if !self.nodes[index].is_up {
                self.nodes[index].start();
            }
            self.introduce(index);
        }
        for _ in 0..HEALING_S {
            self.pass(Duration::from_secs(1));
            self.sweep_round();
            for index in 0..self.nodes.len() {
                self.live_well(index)?;
            }
            self.follow()?;
            let life = self.life();
            let counts = life.run(life.app.store.job_counts()).expect("counts");
            if counts.active.iter().all(|(_, count)| *count == 0) {
                return Ok(());
            }
        }
        let life = self.life();
        let left = life.run(life.app.store.job_counts());
        Err(format!("I11: {HEALING_S} s after everything healed there is still work: {left:?}"))
    }
}

/// What a run did, to be compared and to show that it did something.
#[derive(Debug, PartialEq, Eq)]
struct Summary {
    jobs: usize,
    stopped_successes: u64,
    reasons: BTreeSet<Reason>,
    events: Vec<String>,
}

fn simulate(seed: u64, trace: &mut Vec<String>) -> Result<Summary, Violation> {
    let mut world = World::new(seed);
    let run = |world: &mut World| {
        for step in 0..STEPS {
            world.step()?;
            if step % 40 == 0 {
                world.check_tables()?;
            }
        }
        world.check_tables()?;
        world.heal()?;
        let jobs = world.check_tables()?;
        demand!(jobs.iter().all(|job| job.phase.is_terminal()), "I11: not every job has ended");
        Ok(())
    };
    let result = catch_unwind(AssertUnwindSafe(|| run(&mut world)));
    trace.append(&mut world.trace);
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map_or("see above", String::as_str);
        Err(format!("something panicked: {text}"))
    })?;
    let life = world.take_life();
    let events = life
        .run(life.app.store.event_list(events_after(0, 100_000)))
        .map_err(|error| error.to_string())?
        .events;
    life.stop();
    Ok(Summary {
        jobs: world.history.job_count(),
        stopped_successes: world.stopped_successes,
        reasons: events.iter().filter_map(|event| event.reason).collect(),
        events: events.iter().map(|event| format!("{event:?}")).collect(),
    })
}

fn number_of(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs one seed; a failure says how to see it again.
fn judge(seed: u64) -> Result<Summary, String> {
    let mut trace = Vec::new();
    simulate(seed, &mut trace).map_err(|violation| {
        let tail = trace[trace.len().saturating_sub(60)..].join("\n");
        format!(
            "{tail}\n\nseed {seed} broke a promise: {violation}\nreplay it with: GRISTMILL_SIM_SEED={seed} \
             cargo test --release -p gristmill-server --test it sim::"
        )
    })
}

fn lock<T>(results: &Mutex<T>) -> MutexGuard<'_, T> {
    results.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn every_seed_keeps_the_promises() {
    let (first, count) = match number_of("GRISTMILL_SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (1, number_of("GRISTMILL_SIM_SEEDS").unwrap_or(200)),
    };
    let next = AtomicU64::new(first);
    let results = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let is_enough = |results: &[Result<_, String>]| results.iter().any(Result::is_err);
                    if seed >= first + count || is_enough(&lock(&results)) {
                        return;
                    }
                    let result = judge(seed);
                    lock(&results).push(result);
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let failures: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(failures.is_empty(), "{}", failures[0]);
    let summaries: Vec<_> = results.into_iter().flatten().collect();
    let jobs: usize = summaries.iter().map(|summary| summary.jobs).sum();
    assert!(jobs as u64 >= 10 * count, "{jobs} jobs in {count} runs: the simulation does next to nothing");
    if count >= 50 {
        let seen: BTreeSet<_> = summaries.iter().flat_map(|summary| &summary.reasons).collect();
        let missed: Vec<_> = REASONS.iter().filter(|reason| !seen.contains(reason)).collect();
        assert!(missed.is_empty(), "{count} runs never came to {missed:?}");
        let stopped: u64 = summaries.iter().map(|summary| summary.stopped_successes).sum();
        assert!(stopped >= 10, "only {stopped} successes were reported after a cancel");
    }
}

#[test]
fn a_seed_gives_the_same_history_again() {
    for seed in [3, 11, 42, 2026] {
        let (first, second) = (judge(seed).expect("the run"), judge(seed).expect("the run"));
        assert!(first.events.len() > 50, "{} events", first.events.len());
        assert_eq!(first, second, "seed {seed}");
    }
}
