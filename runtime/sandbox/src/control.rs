//! What the host side holds of a run: the request to stop it, its clock, and what it used so far.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use gristmill_channel::StopReason;
use gristmill_protocol::{Outcome, Usage};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

use crate::{disk::Disk, fault, log::Log, memory::MemoryAccount, traffic::Traffic};

/// A guest that is in one host call or bulk operation for longer than this after it was to stop is
/// given up: the process that runs it ends.
const STUCK_AFTER: Duration = Duration::from_millis(50);

/// Why a guest has to stop although it did nothing wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The node asked for it.
    Stop(StopReason),
    /// The wall-time limit passed.
    WallTime,
}

/// The handle on one run. Shared between the thread that runs the guest, the ticker and whoever may
/// stop the guest.
pub struct RunControl {
    stop: AtomicU8,
    stop_requested: Notify,
    started: OnceLock<(Instant, Duration)>,
    overdue_since: Mutex<Option<Instant>>,
    ended: AtomicBool,
    process_cpu_at_start: OnceLock<Duration>,
    /// Fuel that the guest handed back last; 0 when none is counted, or it did not get that far.
    fuel: AtomicU64,
    pub(crate) memory: OnceLock<Arc<MemoryAccount>>,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) disk: OnceLock<Arc<Mutex<Disk>>>,
    pub(crate) log: OnceLock<Arc<Log>>,
    on_stuck: Box<dyn Fn(Outcome) + Send + Sync>,
}

impl RunControl {
    /// A handle on one run to come. `on_stuck` is called at most once, from the ticker's thread, if
    /// the guest does not stop although it has to: it sits in a host call or bulk operation that
    /// cannot be interrupted. It gets the outcome to report; the process must then end, because the
    /// guest's thread is lost.
    pub fn new(on_stuck: impl Fn(Outcome) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            stop: AtomicU8::new(0),
            stop_requested: Notify::new(),
            started: OnceLock::new(),
            overdue_since: Mutex::new(None),
            ended: AtomicBool::new(false),
            process_cpu_at_start: OnceLock::new(),
            fuel: AtomicU64::new(0),
            memory: OnceLock::new(),
            traffic: Arc::default(),
            disk: OnceLock::new(),
            log: OnceLock::new(),
            on_stuck: Box::new(on_stuck),
        })
    }

    /// Asks the guest to stop; the first reason stays. May be called before the run starts and from
    /// any thread. Returns at once; the guest stops within about two ticks.
    pub fn stop(&self, reason: StopReason) {
        let code = match reason {
            StopReason::Cancelled => 1,
            StopReason::Deadline => 2,
            StopReason::LeaseLost => 3,
        };
        _ = self.stop.compare_exchange(0, code, Ordering::SeqCst, Ordering::SeqCst);
        self.stop_requested.notify_one();
    }

    /// Starts the clock of the wall-time limit.
    pub(crate) fn start(&self, wall_time: Duration) {
        _ = self.process_cpu_at_start.set(cpu_time(ClockId::ProcessCPUTime));
        _ = self.started.set((Instant::now(), wall_time));
    }

    /// Time since the start of instantiation, in microseconds.
    pub(crate) fn elapsed_us(&self) -> u64 {
        self.started.get().map_or(0, |(at, _)| at.elapsed().as_micros() as u64)
    }

    /// Whether the guest has to stop, and why.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        match self.stop.load(Ordering::SeqCst) {
            1 => return Some(Verdict::Stop(StopReason::Cancelled)),
            2 => return Some(Verdict::Stop(StopReason::Deadline)),
            3 => return Some(Verdict::Stop(StopReason::LeaseLost)),
            _ => {}
        }
        let (at, limit) = self.started.get()?;
        (at.elapsed() >= *limit).then_some(Verdict::WallTime)
    }

    /// Waits until the guest has to stop. Cancel-safe.
    pub(crate) async fn halted(&self) -> Verdict {
        loop {
            if let Some(verdict) = self.verdict() {
                return verdict;
            }
            let left = self.started.get().map(|(at, limit)| limit.saturating_sub(at.elapsed()));
            // A wall-time limit beyond the timer's range is met by the next turn of this loop.
            let nap = left.unwrap_or(Duration::MAX).min(Duration::from_hours(24));
            tokio::select! {
                () = self.stop_requested.notified() => {}
                () = tokio::time::sleep(nap) => {}
            }
        }
    }

    /// Takes the right to report this run's end; only the first caller gets it.
    pub(crate) fn claim_end(&self) -> bool {
        !self.ended.swap(true, Ordering::SeqCst)
    }

    /// Remembers how much fuel the guest used so far, as far as it is known.
    pub(crate) fn note_fuel(&self, used: u64) {
        self.fuel.fetch_max(used, Ordering::Relaxed);
    }

    /// What is known of the guest's use without asking its thread; of its fuel, what it handed back last.
    pub(crate) fn usage(&self) -> Usage {
        let disk_peak = self.disk.get().and_then(|disk| Some(disk.try_lock().ok()?.bytes_peak()));
        let cpu = self
            .process_cpu_at_start
            .get()
            .map(|start| cpu_time(ClockId::ProcessCPUTime).saturating_sub(*start).as_micros() as u64);
        let fuel = Some(self.fuel.load(Ordering::Relaxed)).filter(|&fuel| fuel > 0);
        Usage {
            fuel,
            cpu_us: cpu,
            wall_us: Some(self.elapsed_us()),
            memory_peak_bytes: self.memory.get().map(|memory| memory.peak_bytes()),
            disk_peak_bytes: disk_peak,
            read_bytes: Some(self.traffic.read_bytes()),
            written_bytes: Some(self.traffic.written_bytes()),
            ..Usage::default()
        }
    }

    /// Called with every tick. Gives the guest up if it is overdue.
    pub(crate) fn check_stuck(&self, wall_time: Duration) {
        let Some(verdict) = self.verdict() else { return };
        let mut since = self.overdue_since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.get_or_insert_with(Instant::now).elapsed() < STUCK_AFTER || !self.claim_end() {
            return;
        }
        drop(since);
        if let Some(log) = self.log.get() {
            log.try_flush();
        }
        let mut outcome = fault::verdict_outcome(verdict, wall_time);
        outcome.usage = self.usage();
        (self.on_stuck)(outcome);
    }
}

/// A CPU clock's reading.
pub(crate) fn cpu_time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_stop_reason_stays() {
        let control = RunControl::new(|_| {});
        assert_eq!(control.verdict(), None);
        control.stop(StopReason::Deadline);
        control.stop(StopReason::Cancelled);
        assert_eq!(control.verdict(), Some(Verdict::Stop(StopReason::Deadline)));
    }

    #[test]
    fn only_one_side_reports_the_end() {
        let control = RunControl::new(|_| {});
        assert!(control.claim_end());
        assert!(!control.claim_end());
    }
}
