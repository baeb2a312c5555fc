//! Turns: how many processes small jobs are spread over.
//!
//! Jobs that last a moment are best run one after the other by a few processes; jobs that last longer
//! must all run at a time. Nobody says beforehand which they are. So a run waits for its turn while
//! runs keep ending, and one that lasts gives its turn up.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

/// Hands out turns.
#[derive(Debug)]
pub(crate) struct Turns {
    free: Arc<Semaphore>,
    time: Duration,
    last_end: Mutex<Instant>,
}

/// The right to run now; given back when dropped. Who waited in vain runs without.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<Turns>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// At most `count` short runs at a time. A run keeps its turn for `time`, and others wait so long while
    /// nobody's run ends.
    pub(crate) fn of(count: usize, time: Duration) -> Arc<Self> {
        let last_end = Mutex::new(Instant::now());
        Arc::new(Self { free: Arc::new(Semaphore::new(count)), time, last_end })
    }

    fn last_end(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.last_end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn as long as other runs keep ending.
    pub(crate) async fn take(self: &Arc<Self>) -> Turn {
        let asked = Instant::now();
        let mut waiting = Box::pin(Arc::clone(&self.free).acquire_owned());
        let permit = loop {
            let until = (*self.last_end()).max(asked) + self.time;
            if let Ok(permit) = timeout_at(until, &mut waiting).await {
                break permit.ok();
            }
            if *self.last_end() + self.time <= until {
                break None;
            }
        };
        Turn { turns: Arc::clone(self), permit }
    }
}

impl Turn {
    /// Awaits a run, and lets others have the turn if it lasts.
    pub(crate) async fn while_short<T>(&mut self, run: impl Future<Output = T>) -> T {
        tokio::pin!(run);
        if let Ok(end) = tokio::time::timeout(self.turns.time, &mut run).await {
            return end;
        }
        self.permit = None;
        run.await
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.turns.last_end() = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Barrier;

    use super::*;

    #[tokio::test]
    async fn short_runs_wait_for_one_another_however_many_there_are() {
        let turns = Turns::of(2, Duration::from_secs(5));
        let running = Semaphore::new(2);
        let runs = (0..100).map(|_| async {
            let mut turn = turns.take().await;
            assert!(turn.permit.is_some(), "no process of its own for a short run");
            let run = async {
                let _one = running.try_acquire().expect("no more than two at a time");
                tokio::time::sleep(Duration::from_millis(1)).await;
            };
            turn.while_short(run).await;
        });
        futures_util::future::join_all(runs).await;
    }

    #[tokio::test]
    async fn long_runs_all_run_at_a_time_and_do_not_make_others_wait() {
        const COUNT: usize = 20;
        let turns = Turns::of(2, Duration::from_millis(50));
        let (all_run, all_end) = (Barrier::new(COUNT + 1), Barrier::new(COUNT + 1));
        let long = || async {
            let mut turn = turns.take().await;
            let run = async {
                all_run.wait().await;
                all_end.wait().await;
            };
            turn.while_short(run).await;
        };
        let later = async {
            all_run.wait().await;
            while turns.free.available_permits() < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert!(turns.take().await.permit.is_some(), "runs that last keep no turns");
            all_end.wait().await;
        };
        let everything =
            futures_util::future::join(futures_util::future::join_all((0..COUNT).map(|_| long())), later);
        tokio::time::timeout(Duration::from_secs(60), everything).await.expect("nobody waits for ever");
    }
}
