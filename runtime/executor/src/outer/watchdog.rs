//! The watchdog: looks at a child's memory where no control group bounds it, and holds the child to its
//! share of CPU time.

use std::{fs, time::Duration};

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::throttle::Throttle;

/// Time between two looks.
const PERIOD: Duration = Duration::from_millis(50);

/// Looks at the memory and the CPU time of one process from time to time.
#[derive(Debug)]
pub(crate) struct Watchdog {
    pid: Option<u32>,
    limit_bytes: u64,
    looks: Interval,
    throttle: Throttle,
}

impl Watchdog {
    /// Watches a process, if it is one, that may hold so many bytes of its own, and holds it to its share
    /// of CPU time while it is asked whether they are exceeded. To be used only before the process is
    /// reaped.
    pub(crate) fn over(pid: Option<u32>, limit_bytes: u64, throttle: Throttle) -> Self {
        let mut looks = interval_at(Instant::now() + PERIOD, PERIOD);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { pid, limit_bytes, looks, throttle }
    }

    /// Waits until the process holds more than it may, and answers with what it holds, in bytes; waits for
    /// ever, if it never does. Cancel-safe: a call that follows goes on with the same rhythm.
    pub(crate) async fn exceeded(&mut self) -> u64 {
        loop {
            tokio::select! {
                _ = self.looks.tick(), if self.pid.is_some() => {
                    if let Some(bytes) = self.pid.and_then(own_bytes).filter(|bytes| *bytes > self.limit_bytes) {
                        return bytes;
                    }
                }
                () = self.throttle.turn() => {}
            }
        }
    }

    /// Holds the process back no more from now on: what it still has to do is to end.
    pub(crate) fn let_go(&mut self) {
        self.throttle.lift();
    }

    /// The same from this time on.
    pub(crate) fn let_go_at(&mut self, until: Option<std::time::Instant>) {
        self.throttle.lift_at(until.map(Instant::from_std));
    }
}

/// Memory that a process holds beside the files that it maps, in bytes: private pages, mapped pages of
/// memory files, and what of both was swapped out. `None` if the process is gone.
pub(crate) fn own_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    // Some kernels do not tell kinds of pages apart.
    let private = kib("RssAnon:").or_else(|| kib("VmRSS:"))?;
    let others = ["RssShmem:", "VmSwap:"].iter().filter_map(|name| kib(name)).sum::<u64>();
    Some((private + others) << 10)
}

#[cfg(test)]
mod tests {
    use rustix::{
        fs::{MemfdFlags, ftruncate, memfd_create},
        mm::{MapFlags, ProtFlags, mmap, munmap},
    };

    use super::*;

    const BYTES: usize = 64 << 20;
    /// Other tests of this process come and go meanwhile.
    const SLACK: u64 = 16 << 20;

    /// One at a time: what another one gives back meanwhile would be missed.
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

    fn grown_by(hold: impl FnOnce(&dyn Fn() -> u64)) {
        let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let own = || own_bytes(std::process::id()).expect("this process lives");
        let before = own();
        hold(&|| own().saturating_sub(before) + SLACK);
    }

    #[test]
    fn memory_that_was_touched_counts() {
        grown_by(|grown| {
            let held = vec![1u8; BYTES];
            assert!(grown() >= BYTES as u64, "{} of {}", grown(), held.len());
        });
        assert_eq!(own_bytes(u32::MAX), None);
    }

    #[test]
    #[expect(unsafe_code, reason = "mapping a memory file, as a compromised child could")]
    fn mapped_pages_of_memory_files_count() {
        let file = memfd_create("hidden", MemfdFlags::CLOEXEC).expect("a memory file");
        ftruncate(&file, BYTES as u64).expect("its length");
        grown_by(|grown| {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a new mapping, used here alone and unmapped below.
            unsafe {
                let start =
                    mmap(std::ptr::null_mut(), BYTES, access, MapFlags::SHARED, &file, 0).expect("mapped");
                std::ptr::write_bytes(start.cast::<u8>(), 1, BYTES);
                assert!(grown() >= BYTES as u64, "{}", grown());
                munmap(start, BYTES).expect("unmapped");
            }
        });
    }

    #[tokio::test]
    async fn the_watchdog_barks_only_above_the_limit() {
        let own = std::process::id();
        let quiet = Duration::from_millis(300);
        let mut lenient = Watchdog::over(Some(own), 1 << 40, Throttle::idle());
        assert!(tokio::time::timeout(quiet, lenient.exceeded()).await.is_err());
        let mut strict = Watchdog::over(Some(own), 1 << 10, Throttle::idle());
        assert!(strict.exceeded().await > 1 << 10, "it says how much there is");
        let mut nobody = Watchdog::over(None, 0, Throttle::idle());
        assert!(tokio::time::timeout(quiet, nobody.exceeded()).await.is_err());
    }
}
