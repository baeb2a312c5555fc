//! What a node needs to know, and the arithmetic of slots.

use std::{collections::BTreeMap, path::PathBuf, thread::available_parallelism};

use gristmill_executor::ExecutorConfig;
use gristmill_protocol::{OuterLimit, limits::SlotSize, node_api::reduced_slot};

/// How a node is set up. Every field is the caller's choice; nothing is read from the environment.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The server's address, `http://…` or `https://…`.
    pub server: String,
    /// The node's private directory: identity, caches and scratch. One node at a time may use it.
    pub state_dir: PathBuf,
    /// A name for people, `[a-z0-9][a-z0-9.-]{0,62}`; it counts at enrolment only.
    pub name: String,
    /// Labels that jobs may ask for.
    pub labels: BTreeMap<String, String>,
    /// CPU offered, in thousandths of a core.
    pub cpus_milli: u32,
    /// Memory offered, in bytes.
    pub memory_bytes: u64,
    /// Most attempts held at a time, whatever their size.
    pub attempts_max: u32,
    /// The secret `gmj_…`; needed only the first time, when `state_dir` holds no identity.
    pub join_token: Option<String>,
    /// How executors are started.
    pub executor: ExecutorConfig,
    /// The weakest level of isolation with which the node starts. `None` lets it start with weak
    /// isolation too: where system-call or file rules are missing. Jobs and zones that require a
    /// level keep away from it then.
    pub isolation_min: Option<OuterLimit>,
    /// PEM file of authorities trusted beside the system's own.
    pub ca_file: Option<PathBuf>,
    /// Bytes of inputs, unpacked trees and compiled code kept for later jobs. What running attempts
    /// need is kept even above this.
    pub cache_bytes_max: u64,
}

impl NodeConfig {
    /// A node with `slot` to offer and defaults for the rest: no labels, no join token, no extra
    /// authority, 20 GiB of cache, no weak isolation, and 32 attempts for each core, at least 32.
    pub fn offering(
        slot: SlotSize,
        server: impl Into<String>,
        state_dir: impl Into<PathBuf>,
        executor: ExecutorConfig,
    ) -> Self {
        Self {
            server: server.into(),
            state_dir: state_dir.into(),
            name: "node".into(),
            labels: BTreeMap::new(),
            cpus_milli: slot.cpus_milli,
            memory_bytes: slot.memory_bytes,
            attempts_max: (slot.cpus_milli / 1_000).max(1) * 32,
            join_token: None,
            executor,
            isolation_min: Some(OuterLimit::default()),
            ca_file: None,
            cache_bytes_max: 20 << 30,
        }
    }
}

/// What this machine has: CPU in thousandths of a core, and memory in bytes, as far as the
/// process's own limits (affinity, cgroup) let it use them.
pub fn machine_capacity() -> (u32, u64) {
    let cores = available_parallelism().map_or(1, |count| count.get() as u32);
    let physical = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo_total(&text));
    let group = cgroup_memory_max();
    let memory = match (physical, group) {
        (Some(physical), Some(group)) => physical.min(group),
        (Some(one), None) | (None, Some(one)) => one,
        // Not Linux: assume one standard slot, which the caller can override.
        (None, None) => SlotSize::default().memory_bytes,
    };
    (cores * 1_000, memory)
}

fn meminfo_total(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1_024)
}

/// The smallest `memory.max` of this process's control group and its parents (cgroup v2).
fn cgroup_memory_max() -> Option<u64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?.to_owned();
    let root = PathBuf::from("/sys/fs/cgroup");
    let mut dir = root.join(path);
    let mut smallest: Option<u64> = None;
    loop {
        let max = std::fs::read_to_string(dir.join("memory.max")).ok();
        if let Some(bytes) = max.and_then(|text| text.trim().parse::<u64>().ok()) {
            smallest = Some(smallest.map_or(bytes, |now| now.min(bytes)));
        }
        if dir == root || !dir.pop() || !dir.starts_with(&root) {
            return smallest;
        }
    }
}

/// What a node offers, and what to tell the person who started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// CPU and memory in all.
    pub total: SlotSize,
    /// One slot: the standard size, or less on a machine that is smaller.
    pub slot: SlotSize,
    /// Whether the machine is smaller than one standard slot, which should be said aloud.
    pub is_reduced: bool,
}

/// How much to offer on a machine with `cpus_milli` and `memory_bytes` when asked for `slots`
/// standard slots, or for as many as fit when `None` (at least one).
///
/// A machine that is smaller than one slot offers one reduced slot. Asking for more slots than
/// fit is the operator's right: the limits of a job are ceilings, and most use less.
pub fn offer(slots: Option<u32>, (cpus_milli, memory_bytes): (u32, u64)) -> Offer {
    let standard = SlotSize::default();
    let fits = (cpus_milli / standard.cpus_milli)
        .min(u32::try_from(memory_bytes / standard.memory_bytes).unwrap_or(u32::MAX));
    let (slot, is_reduced) =
        if fits == 0 { (reduced_slot(cpus_milli, memory_bytes), true) } else { (standard, false) };
    let count = if is_reduced { 1 } else { slots.unwrap_or(fits).max(1) };
    let total = SlotSize {
        cpus_milli: slot.cpus_milli.saturating_mul(count),
        memory_bytes: slot.memory_bytes.saturating_mul(count.into()),
    };
    Offer { total, slot, is_reduced }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn slots_are_multiples_of_the_standard_slot() {
        let two = offer(Some(2), (4_000, 64 * GIB));
        assert_eq!((two.total.cpus_milli, two.total.memory_bytes), (4_000, 16 * GIB));
        let all = offer(None, (16_000, 33 * GIB));
        assert_eq!((all.total.cpus_milli, all.is_reduced), (8_000, false), "memory bounds the slots");
    }

    #[test]
    fn a_machine_smaller_than_one_slot_offers_one_reduced_slot_and_says_so() {
        let small = offer(Some(3), (4_000, 2 * GIB));
        assert!(small.is_reduced);
        assert_eq!(small.total, small.slot);
        assert_eq!((small.slot.cpus_milli, small.slot.memory_bytes), (2_000, 2 * GIB));
        let one_core = offer(None, (1_000, 64 * GIB));
        assert_eq!((one_core.slot.cpus_milli, one_core.slot.memory_bytes), (1_000, 8 * GIB));
    }

    #[test]
    fn this_machine_has_something_to_offer() {
        let (cpus, memory) = machine_capacity();
        assert!(cpus >= 1_000 && memory > 64 << 20);
        assert_eq!(meminfo_total("MemTotal:       16 kB\nMemFree: 1 kB\n"), Some(16_384));
    }
}
