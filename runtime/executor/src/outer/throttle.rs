//! The throttle: holds a child to a part of its cores where no control group does, by stopping it for
//! the rest of each period in which it had its share.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep_until};

use super::cpu_time;

/// Length of the period in which CPU time is given out, that of control groups.
const PERIOD: Duration = Duration::from_millis(100);
/// The shortest time between two looks. What a child takes too much meanwhile is made up for by its next
/// periods.
const STEP: Duration = Duration::from_millis(5);

/// Gives one process its share of CPU time, period by period. To be used only as long as the process was
/// not reaped; a process that is stopped can be killed at any time.
#[derive(Debug)]
pub(crate) struct Throttle {
    /// `None` when there is nothing to hold back.
    held: Option<Held>,
    /// When it lets go by itself.
    until: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    process: Pid,
    meter: Meter,
    next_look: Instant,
    stopped: bool,
}

/// What was used of the share, as a calculation.
#[derive(Debug)]
struct Meter {
    /// CPU time for each period.
    quota: Duration,
    /// How many cores can be used at a time.
    cores: u32,
    period_ends: Instant,
    /// CPU time at the last look.
    seen: Duration,
    /// CPU time that counts against this period, and what goes beyond it against the next ones.
    spent: Duration,
}

impl Throttle {
    /// Holds nothing back.
    pub(super) fn idle() -> Self {
        Self { held: None, until: None }
    }

    /// Holds a process that can use so many cores to this part of them, in thousandths of a core.
    pub(super) fn over(pid: u32, cpus_milli: u32, cores: u32) -> Self {
        let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let now = Instant::now();
        let held = process.zip(cpu_time(pid)).map(|(process, seen)| {
            let meter = Meter {
                quota: PERIOD * cpus_milli / 1_000,
                cores,
                period_ends: now + PERIOD,
                seen,
                spent: Duration::ZERO,
            };
            Held { process, meter, next_look: now, stopped: false }
        });
        Self { held, until: None }
    }

    /// Lets go at this time: what has to be prompt from then on shall not wait for a share.
    pub(super) fn lift_at(&mut self, until: Option<Instant>) {
        self.until = until;
    }

    /// Lets the process run, and holds it back no more.
    pub(super) fn lift(&mut self) {
        if let Some(held) = self.held.take() {
            held.go_on();
        }
    }

    /// Waits until it is time to look at the process, and lets it run or stops it; for ever, when nothing is
    /// held back. Cancel-safe.
    pub(super) async fn turn(&mut self) {
        let Some(held) = &mut self.held else { return std::future::pending().await };
        let ends = self.until.filter(|until| *until <= held.next_look);
        sleep_until(ends.unwrap_or(held.next_look)).await;
        if ends.is_some() {
            self.lift();
        } else {
            held.look(Instant::now());
        }
    }
}

impl Held {
    fn look(&mut self, now: Instant) {
        // A process that is gone is somebody else's business.
        let Some(used) = cpu_time(self.process.as_raw_nonzero().get().unsigned_abs()) else {
            self.next_look = now + PERIOD;
            return;
        };
        let (stop, next_look) = self.meter.look(used, now);
        self.next_look = next_look;
        if stop != self.stopped {
            self.stopped = stop;
            if stop {
                _ = kill_process(self.process, Signal::STOP);
            } else {
                self.go_on();
            }
        }
    }

    fn go_on(&self) {
        _ = kill_process(self.process, Signal::CONT);
    }
}

impl Meter {
    /// Whether the process has had its share, after so much CPU time in all, and when to look again.
    fn look(&mut self, used: Duration, now: Instant) -> (bool, Instant) {
        self.spent += used.saturating_sub(self.seen);
        self.seen = used;
        while now >= self.period_ends {
            // What a period left over is lost.
            self.spent = self.spent.saturating_sub(self.quota);
            self.period_ends += PERIOD;
        }
        match self.quota.saturating_sub(self.spent) {
            Duration::ZERO => (true, self.period_ends),
            left => (false, self.period_ends.min(now + (left / self.cores.max(1)).max(STEP))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        process::{Child, Command},
        thread,
    };

    use super::*;

    fn meter(quota_ms: u64, cores: u32, start: Instant) -> Meter {
        Meter {
            quota: Duration::from_millis(quota_ms),
            cores,
            period_ends: start + PERIOD,
            seen: Duration::ZERO,
            spent: Duration::ZERO,
        }
    }

    /// The CPU time that a process with so many busy threads gets in a second, if it runs whenever it may.
    fn used_in_a_second(quota_ms: u64, cores: u32) -> Duration {
        let start = Instant::now();
        let mut meter = meter(quota_ms, cores, start);
        let (mut now, mut used) = (start, Duration::ZERO);
        while now < start + Duration::from_secs(1) {
            let (stopped, next) = meter.look(used, now);
            assert!(next > now, "it goes on");
            used += if stopped { Duration::ZERO } else { (next - now) * cores };
            now = next;
        }
        used
    }

    #[test]
    fn a_busy_process_gets_its_share_and_at_most_a_step_more() {
        for (quota_ms, cores) in [(1, 1), (10, 1), (50, 1), (90, 1), (110, 2), (190, 2), (250, 4)] {
            let (used, share) = (used_in_a_second(quota_ms, cores), Duration::from_millis(10 * quota_ms));
            assert!(used >= share, "{quota_ms} ms on {cores}: {used:?}");
            assert!(used <= share + STEP * cores, "{quota_ms} ms on {cores}: {used:?}");
        }
    }

    #[test]
    fn what_was_taken_too_much_is_made_up_for_and_what_was_left_over_is_lost() {
        let start = Instant::now();
        let mut greedy = meter(10, 1, start);
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(greedy.look(Duration::from_millis(35), at(40)), (true, at(100)));
        assert_eq!(greedy.look(Duration::from_millis(35), at(250)), (true, at(300)), "15 ms are owed still");
        assert_eq!(greedy.look(Duration::from_millis(35), at(400)), (false, at(410)));
        let mut modest = meter(10, 1, start);
        assert_eq!(modest.look(Duration::ZERO, at(1_000)), (false, at(1_010)));
        assert_eq!(modest.look(Duration::from_millis(10), at(1_010)), (true, at(1_100)));
    }

    struct Busy(Child);

    impl Busy {
        fn start() -> Self {
            Self(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("a shell"))
        }

        /// Its state as the kernel names it: `T` is stopped.
        fn state(&self) -> char {
            let text = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("lives");
            text.rsplit(") ").next().and_then(|rest| rest.chars().next()).expect("a state")
        }
    }

    impl Drop for Busy {
        fn drop(&mut self) {
            self.0.kill().expect("can be killed");
            self.0.wait().expect("ends, stopped or not");
        }
    }

    async fn until_stopped(throttle: &mut Throttle, busy: &Busy) {
        while busy.state() != 'T' {
            throttle.turn().await;
        }
    }

    #[tokio::test]
    async fn who_had_its_share_is_stopped_and_runs_again_when_it_is_let_go() {
        let busy = Busy::start();
        let mut throttle = Throttle::over(busy.0.id(), 10, 1);
        until_stopped(&mut throttle, &busy).await;
        throttle.lift();
        while busy.state() == 'T' {
            thread::yield_now();
        }
        let more = tokio::time::timeout(PERIOD * 3, throttle.turn()).await;
        assert!(more.is_err(), "it is not looked at any more");
        assert_ne!(busy.state(), 'T');
    }

    #[tokio::test]
    async fn a_throttle_lets_go_at_its_time_and_idle_ones_do_nothing() {
        let busy = Busy::start();
        let mut throttle = Throttle::over(busy.0.id(), 10, 1);
        until_stopped(&mut throttle, &busy).await;
        throttle.lift_at(Some(Instant::now()));
        throttle.turn().await;
        assert!(throttle.held.is_none());
        for mut idle in [Throttle::idle(), Throttle::over(u32::MAX, 10, 1)] {
            assert!(tokio::time::timeout(PERIOD, idle.turn()).await.is_err());
        }
        until_stopped(&mut Throttle::over(busy.0.id(), 10, 1), &busy).await;
    }
}
