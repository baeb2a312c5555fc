//! A guest must not outlive its lease, also when the node that holds the lease hangs.
//!
//! So the node says until when the lease lasts, again with every renewal, and the executor watches
//! that time itself. The clock is the machine's, which goes on while it sleeps, so both read the same.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, Thread},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// Time between two looks at the clock.
const TICK: Duration = Duration::from_millis(100);

/// Ends the process when the time is over that its node last spoke of.
#[derive(Debug)]
pub(crate) struct Lifeline {
    shared: Arc<Shared>,
    watcher: Thread,
}

#[derive(Debug, Default)]
struct Shared {
    /// Milliseconds since the machine's start; 0 for no end.
    until_ms: AtomicU64,
    busy: AtomicBool,
}

impl Lifeline {
    /// Starts the thread that watches; `end` is called on it when the time is over.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn start(end: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let watcher = thread::Builder::new().name("gristmill-life".to_owned()).spawn(move || {
            loop {
                if !of_thread.busy.load(Ordering::SeqCst) {
                    thread::park();
                    continue;
                }
                let until = of_thread.until_ms.load(Ordering::SeqCst);
                if until != 0 && now().as_millis() as u64 >= until {
                    end();
                }
                thread::park_timeout(TICK);
            }
        })?;
        Ok(Self { shared, watcher: watcher.thread().clone() })
    }

    /// A run begins, or is over. Between runs nothing is watched.
    pub(crate) fn set_busy(&self, busy: bool) {
        self.shared.busy.store(busy, Ordering::SeqCst);
        self.watcher.unpark();
    }

    /// The lease lasts until this time after the machine's start; `None` for as long as it likes.
    pub(crate) fn keep_until(&self, until: Option<Duration>) {
        let ms = until.map_or(0, |until| (until.as_millis() as u64).max(1));
        self.shared.until_ms.store(ms, Ordering::SeqCst);
    }

    /// Whether a run is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.shared.busy.load(Ordering::SeqCst)
    }
}

/// Time since the machine started.
fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_run_that_is_not_prolonged_ends() {
        let (sender, ended) = mpsc::channel();
        let lifeline = Lifeline::start(move || _ = sender.send(())).expect("starts");
        lifeline.keep_until(Some(now() + Duration::from_millis(300)));
        assert!(ended.recv_timeout(Duration::from_millis(600)).is_err(), "nothing runs yet");
        lifeline.keep_until(Some(now() + Duration::from_millis(300)));
        lifeline.set_busy(true);
        lifeline.keep_until(Some(now() + Duration::from_secs(60)));
        assert!(ended.recv_timeout(Duration::from_millis(600)).is_err(), "it was prolonged");
        lifeline.keep_until(None);
        assert!(ended.recv_timeout(Duration::from_millis(300)).is_err(), "it has no end");
        lifeline.keep_until(Some(Duration::ZERO));
        ended.recv_timeout(Duration::from_secs(10)).expect("it ends");
    }
}
