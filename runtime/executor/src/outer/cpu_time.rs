//! The CPU time that a process has had.

use std::{fs, time::Duration};

use rustix::param::clock_ticks_per_second;

/// CPU time of all threads of a process, those that ended included, to a hundredth of a second. `None`
/// if the process is gone.
pub(crate) fn cpu_time(pid: u32) -> Option<Duration> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// From the text of `/proc/PID/stat`: see proc_pid_stat(5).
fn parse(text: &str) -> Option<Duration> {
    // The second field is a name in parentheses that can hold anything.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let (user, system) = (fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?);
    let ticks = user.saturating_add(system);
    Some(Duration::from_millis(ticks.saturating_mul(1_000) / clock_ticks_per_second().max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_counts_also_of_threads_that_ended() {
        let own = || cpu_time(std::process::id()).expect("this process lives");
        let before = own();
        let work = move || {
            // Until the clock of this process has moved on, however busy the machine is.
            let start = own();
            while own() < start + Duration::from_millis(100) {
                std::hint::black_box((0..100_000u64).sum::<u64>());
            }
        };
        std::thread::spawn(work).join().expect("no panic");
        assert!(own() >= before + Duration::from_millis(100));
        assert_eq!(cpu_time(u32::MAX), None);
    }

    #[test]
    fn the_name_of_the_process_does_not_confuse() {
        let text = "7 (a) R 1 2) S 1 7 7 0 -1 4194304 0 0 0 0 250 50 0 0 20 0 1 0 0 0 0";
        let expected = Duration::from_millis(3_000 * 100 / clock_ticks_per_second());
        assert_eq!(parse(text), Some(expected));
        assert_eq!(parse("7 (a) R"), None);
    }
}
