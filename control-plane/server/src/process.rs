//! What this process uses of the machine, as the kernel counts it.

use std::{fs, time::Duration};

use rustix::time::{ClockId, clock_gettime};

/// What the process uses right now. What cannot be read is absent.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessUse {
    /// CPU time since its start.
    pub cpu: Duration,
    /// Memory in RAM, in bytes.
    pub resident_bytes: Option<u64>,
    /// Open descriptors.
    pub open_fds: Option<u64>,
}

/// Asks the kernel. Takes well under a millisecond.
pub(crate) fn process_use() -> ProcessUse {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib =
        resident.and_then(|text| text.trim().strip_suffix(" kB")).and_then(|kib| kib.parse::<u64>().ok());
    ProcessUse {
        cpu: Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0)),
        resident_bytes: kib.map(|kib| kib * 1_024),
        open_fds: fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64),
    }
}
