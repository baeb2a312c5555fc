//! CPU affinity: where no control group bounds CPU time, a child may use as many cores as its job
//! has, rounded up, and those that fewest others use. What was rounded up is the throttle's.

use std::{
    fs, io,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::{
    io::Errno,
    process::Pid,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

/// The cores of this machine and how much of each is given away, in thousandths.
#[derive(Debug)]
pub(super) struct Cores {
    taken: Mutex<Vec<(usize, u64)>>,
}

/// The cores of one child; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    cores: Arc<Cores>,
    numbers: Vec<usize>,
    milli_each: u64,
    cpus_milli: u32,
}

/// How often the threads of a process are looked through that starts new ones all the time.
const PASSES_MAX: usize = 1_000;

impl Cores {
    /// The cores that this process may use.
    pub(super) fn of_this_process() -> Arc<Self> {
        let mut taken = Vec::new();
        if let Ok(set) = sched_getaffinity(None) {
            taken.extend((0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).map(|core| (core, 0)));
        }
        Arc::new(Self { taken: Mutex::new(taken) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(usize, u64)>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the cores that are used least.
    pub(super) fn take(self: &Arc<Self>, cpus_milli: u32) -> Share {
        let count = (cpus_milli.div_ceil(1_000)).max(1) as usize;
        let milli_each = u64::from(cpus_milli) / count as u64;
        let mut taken = self.lock();
        taken.sort_by_key(|&(core, milli)| (milli, core));
        let mut numbers = Vec::new();
        for (core, milli) in taken.iter_mut().take(count) {
            *milli += milli_each;
            numbers.push(*core);
        }
        drop(taken);
        Share { cores: Arc::clone(self), numbers, milli_each, cpus_milli }
    }
}

impl Share {
    /// What the job has, in thousandths of a core.
    pub(super) fn cpus_milli(&self) -> u32 {
        self.cpus_milli
    }

    /// How many cores these are; at least one, also when it is not known which.
    pub(super) fn count(&self) -> u32 {
        self.numbers.len().max(1) as u32
    }

    /// Whether these cores are more than what the job has.
    pub(super) fn is_part(&self) -> bool {
        self.numbers.is_empty() || u64::from(self.cpus_milli) < 1_000 * u64::from(self.count())
    }

    /// Lets every thread of a process run on these cores only, also those that are started meanwhile.
    pub(super) fn confine(&self, pid: u32) -> io::Result<()> {
        if self.numbers.is_empty() {
            return Ok(());
        }
        // A thread gets the cores of the one that starts it. So only what was started by one that had more
        // can be missed, and when nobody has more, nobody was.
        for _ in 0..PASSES_MAX {
            if !self.confine_those_now(pid)? {
                return Ok(());
            }
        }
        Err(io::Error::other("a process starts threads faster than they can be confined"))
    }

    /// One pass over the threads of a process. Whether one of them could use other cores.
    fn confine_those_now(&self, pid: u32) -> io::Result<bool> {
        let mut set = CpuSet::new();
        self.numbers.iter().for_each(|&core| set.set(core));
        let mut found = false;
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let name = entry?.file_name();
            let thread = name.to_str().and_then(|name| Pid::from_raw(name.parse().ok()?));
            let has_more =
                |had: CpuSet| (0..CpuSet::MAX_CPU).any(|core| had.is_set(core) && !set.is_set(core));
            match sched_getaffinity(thread).map(has_more) {
                Ok(true) => {}
                // As it should be, or a thread that ended meanwhile.
                Ok(false) | Err(Errno::SRCH) => continue,
                Err(error) => return Err(error.into()),
            }
            found = true;
            match sched_setaffinity(thread, &set) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.cores.lock();
        for (core, milli) in taken.iter_mut() {
            if self.numbers.contains(core) {
                *milli = milli.saturating_sub(self.milli_each);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn four() -> Arc<Cores> {
        Arc::new(Cores { taken: Mutex::new((0..4).map(|core| (core, 0)).collect()) })
    }

    #[test]
    fn jobs_get_cores_of_their_own_while_there_are_any() {
        let cores = four();
        let one = cores.take(1_000);
        let two = cores.take(2_000);
        let half = cores.take(500);
        assert_eq!(
            (one.numbers.clone(), two.numbers.clone(), half.numbers.clone()),
            (vec![0], vec![1, 2], vec![3])
        );
        let other = cores.take(500);
        assert_eq!(other.numbers, [3], "the core that is used least");
        drop(one);
        assert_eq!(cores.take(1_000).numbers, [0], "what was given back is used again");
    }

    #[test]
    fn a_job_with_more_cores_than_there_are_gets_all() {
        assert_eq!(four().take(64_000).numbers.len(), 4);
        let _one = four().take(10);
    }

    #[test]
    fn what_is_rounded_up_is_only_a_part() {
        for (cpus_milli, is_part) in
            [(10, true), (1_000, false), (1_500, true), (4_000, false), (64_500, false)]
        {
            assert_eq!(four().take(cpus_milli).is_part(), is_part, "{cpus_milli}");
        }
        let unknown = Arc::new(Cores { taken: Mutex::new(Vec::new()) });
        assert!(unknown.take(8_000).is_part(), "without affinity nothing else bounds it");
    }

    /// Threads of which each starts the next.
    const CHAIN: usize = 1_000;

    /// The body of a process of its own: this one shall keep its cores.
    #[test]
    #[ignore = "started by the next test, in a process that it ends"]
    fn a_chain_of_threads() {
        fn start(left: usize) {
            let thread = std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
                if left > 1 {
                    start(left - 1);
                }
                std::thread::sleep(std::time::Duration::from_secs(60));
            });
            thread.expect("a thread");
        }
        start(CHAIN);
        std::thread::sleep(std::time::Duration::from_secs(60));
    }

    #[test]
    fn threads_that_are_started_meanwhile_are_confined_too() {
        let test = std::env::current_exe().expect("its path");
        let args = ["--exact", "outer::cores::tests::a_chain_of_threads", "--ignored"];
        let mut child = std::process::Command::new(test)
            .args(args)
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("starts");
        let threads = || {
            let entries = fs::read_dir(format!("/proc/{}/task", child.id())).expect("lives");
            entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("status")).ok())
        };
        while threads().count() < CHAIN / 10 {}
        let share = Cores::of_this_process().take(1_000);
        share.confine(child.id()).expect("confined");
        while threads().count() < CHAIN {}
        let right = format!("Cpus_allowed_list:\t{}\n", share.numbers[0]);
        let wrong = threads().filter(|status| !status.contains(&right)).count();
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert_eq!(wrong, 0);
    }
}
