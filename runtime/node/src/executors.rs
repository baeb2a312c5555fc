//! The node's executor processes: one per running attempt, reused for the same tenant only, and only
//! while they are as they were at their start.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use gristmill_executor::{
    Confiner, Executor,
    request::{Held, RunEnd},
};
use gristmill_protocol::{Outcome, Reason};

use crate::{
    cache::Cache,
    clock::Moment,
    turns::{Turn, Turns},
};

/// How many runs one process serves. A fresh process now and then bounds what could pile up.
const RUNS_MAX: u32 = 1_000;
/// How long an idle process is kept.
const IDLE_TIME: Duration = Duration::from_mins(1);

/// How long a run waits while no other ends before a process of its own is started for it. Jobs that last
/// longer than this all run at a time; those that do not share a few processes.
const TURN_TIME: Duration = Duration::from_millis(50);

/// A process and what is known about it.
struct Idle {
    executor: Executor,
    tenant: String,
    runs: u32,
    since: Moment,
}

/// All executors that wait for work.
pub(crate) struct Executors {
    confiner: Arc<Confiner>,
    cache: Arc<Cache>,
    idle: Mutex<Vec<Idle>>,
    idle_max: usize,
    turns: Arc<Turns>,
}

/// A process that serves one tenant.
pub(crate) struct Hired {
    pub(crate) executor: Executor,
    tenant: String,
    runs: u32,
    /// To be held by the run; see [`Turn::while_short`].
    pub(crate) turn: Turn,
}

/// Whether a guest did not come to an end of its own or was not told to. Nothing of it should be left
/// behind then either, but a fresh process makes sure.
fn is_fault(outcome: &Outcome) -> bool {
    !matches!(
        outcome.reason,
        None | Some(
            Reason::ExitCode | Reason::RetryRequested | Reason::CancelledByUser | Reason::DeadlineExceeded
        )
    )
}

impl Executors {
    /// Keeps at most `idle_max` processes waiting.
    pub(crate) fn keeping(confiner: Arc<Confiner>, cache: Arc<Cache>, idle_max: usize) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let turns = Turns::of(cores * 2, TURN_TIME);
        Arc::new(Self { confiner, cache, idle: Mutex::default(), idle_max, turns })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process that has served nobody but `tenant`: one that waits, or a fresh one. It holds `held` until it
    /// is given back as it was, or is gone.
    pub(crate) async fn hire(&self, tenant: &str, held: Held) -> std::io::Result<Hired> {
        let turn = self.turns.take().await;
        while let Some(Idle { mut executor, tenant, runs, .. }) = self.take_idle(tenant) {
            if executor.is_as_new().await {
                executor.hold(Some(held));
                return Ok(Hired { executor, tenant, runs, turn });
            }
            executor.kill().await;
        }
        let trees = self.trees_of(tenant).await?;
        let executor = Executor::spawn(&self.confiner, &[&trees], held).await?;
        Ok(Hired { executor, tenant: tenant.to_owned(), runs: 0, turn })
    }

    fn take_idle(&self, tenant: &str) -> Option<Idle> {
        let mut idle = self.lock();
        let place = idle.iter().rposition(|process| process.tenant == tenant)?;
        Some(idle.remove(place))
    }

    /// The directory of the unpacked trees that a tenant may see.
    async fn trees_of(&self, tenant: &str) -> std::io::Result<PathBuf> {
        let (cache, tenant) = (Arc::clone(&self.cache), tenant.to_owned());
        let making = tokio::task::spawn_blocking(move || cache.tenant_trees(&tenant));
        making.await.map_err(std::io::Error::other)?
    }

    /// Takes a process back after a run. It is killed if it is worn out, not reusable, or its guest ended
    /// by a fault of any kind; and the longest waiting one is killed if too many wait.
    pub(crate) async fn give_back(&self, mut hired: Hired, end: &RunEnd) {
        let runs = hired.runs + 1;
        if !end.reusable || is_fault(&end.outcome) || runs >= RUNS_MAX {
            hired.executor.kill().await;
            return;
        }
        hired.executor.hold(None);
        let surplus = {
            let mut idle = self.lock();
            idle.push(Idle { executor: hired.executor, tenant: hired.tenant, runs, since: Moment::now() });
            (idle.len() > self.idle_max).then(|| idle.remove(0))
        };
        if let Some(process) = surplus {
            process.executor.kill().await;
        }
    }

    /// Kills processes that have waited for a minute, for ever.
    pub(crate) async fn run_retirement(&self) {
        loop {
            tokio::time::sleep(IDLE_TIME / 4).await;
            let now = Moment::now();
            let old: Vec<Idle> =
                self.lock().extract_if(.., |process| now.since(process.since) >= IDLE_TIME).collect();
            for process in old {
                process.executor.kill().await;
            }
        }
    }

    /// Kills every waiting process.
    pub(crate) async fn dismiss(&self) {
        let all = std::mem::take(&mut *self.lock());
        for process in all {
            process.executor.kill().await;
        }
    }

    /// Waits until every process that was killed or given up is gone. To be called when no more are hired.
    pub(crate) async fn all_gone(&self) {
        self.confiner.all_gone().await;
    }
}

#[cfg(test)]
mod tests {
    use gristmill_executor::ExecutorConfig;

    use super::*;

    /// A node's executors, as children of an example of their crate.
    struct Bench {
        executors: Arc<Executors>,
        _dir: tempfile::TempDir,
    }

    impl Bench {
        async fn open(way: &str) -> Self {
            let test = std::env::current_exe().expect("this test's own path");
            let exe = test.ancestors().nth(2).expect("the target directory").join("examples/executor_child");
            assert!(
                exe.exists(),
                "{}: `cargo build --release --workspace --examples` makes it",
                exe.display()
            );
            let dir = tempfile::tempdir().expect("a directory");
            let config = ExecutorConfig { exe, prefix_args: vec![way.to_owned()] };
            let confiner = Confiner::measure(config, dir.path().join("slots")).await.expect("confined");
            let cache_dir = dir.path().join("cache");
            std::fs::create_dir(&cache_dir).expect("a directory");
            let cache = Cache::open(&cache_dir, 1 << 30).expect("a cache");
            Self { executors: Executors::keeping(confiner, cache, 2), _dir: dir }
        }

        async fn hire(&self, tenant: &str) -> Hired {
            self.executors.hire(tenant, Box::new(())).await.expect("an executor")
        }

        /// Whether the process serves its tenant again after an attempt that ended so.
        async fn serves_again(&self, prepare: impl FnOnce(&mut Hired), end: RunEnd) -> bool {
            let mut hired = self.hire("mill").await;
            let before = hired.executor.pid();
            prepare(&mut hired);
            self.executors.give_back(hired, &end).await;
            let next = self.hire("mill").await;
            let after = next.executor.pid();
            next.executor.kill().await;
            before == after
        }
    }

    fn ended(reason: Option<Reason>) -> RunEnd {
        let outcome = Outcome { reason, ..Outcome::failed(Reason::ExitCode, "ended") };
        RunEnd { outcome, reusable: true }
    }

    #[tokio::test]
    async fn a_process_is_recycled_after_faults_and_after_a_bounded_number_of_runs() {
        let bench = Bench::open("-").await;
        assert!(bench.serves_again(|_| {}, ended(None)).await);
        assert!(bench.serves_again(|_| {}, ended(Some(Reason::ExitCode))).await);
        for fault in [Reason::Trap, Reason::MemoryExceeded, Reason::WallTimeExceeded, Reason::FuelExhausted] {
            assert!(!bench.serves_again(|_| {}, ended(Some(fault))).await, "{fault}");
        }
        assert!(!bench.serves_again(|_| {}, RunEnd { reusable: false, ..ended(None) }).await);
        assert!(bench.serves_again(|hired| hired.runs = RUNS_MAX - 2, ended(None)).await);
        assert!(!bench.serves_again(|hired| hired.runs = RUNS_MAX - 1, ended(None)).await);
    }

    #[tokio::test]
    async fn a_process_serves_one_tenant() {
        let bench = Bench::open("-").await;
        let one = bench.hire("mill").await;
        let pid = one.executor.pid();
        bench.executors.give_back(one, &ended(None)).await;
        let other = bench.hire("bakery").await;
        assert_ne!(other.executor.pid(), pid);
        bench.executors.give_back(other, &ended(None)).await;
        assert_eq!(bench.hire("mill").await.executor.pid(), pid);
    }

    #[tokio::test]
    async fn a_process_that_has_grown_is_replaced() {
        let bench = Bench::open("bloats").await;
        let grown = |hired: &mut Hired| {
            // It fills its memory while it starts.
            let status = format!("/proc/{}/status", hired.executor.pid().expect("lives"));
            let deadline = std::time::Instant::now() + Duration::from_secs(20);
            let resident = || {
                let text = std::fs::read_to_string(&status).expect("lives");
                let kib = text.lines().find_map(|line| line.strip_prefix("RssAnon:")?.strip_suffix(" kB"));
                kib.and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or(0)
            };
            while resident() < 190 << 10 {
                assert!(std::time::Instant::now() < deadline, "it did not grow");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        assert!(!bench.serves_again(grown, ended(None)).await);
    }
}
