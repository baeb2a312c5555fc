//! The outer limits of CPU and memory: what holds a child even if everything inside it fails.
//!
//! Three levels, found out once at the node's start by trying: control groups of version 2, of version
//! 1, or neither; then CPU affinity bounds whole cores, a throttle parts of them, and a watchdog bounds
//! memory. A level that was reached is never silently left: a child that cannot be put under it is not started.

mod cgroup;
mod cores;
mod cpu_time;
mod throttle;
mod watchdog;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use gristmill_protocol::OuterLimit;

use self::{
    cgroup::{Group, Groups},
    cores::{Cores, Share},
    throttle::Throttle,
};
pub(crate) use self::{
    cpu_time::cpu_time,
    watchdog::{Watchdog, own_bytes},
};

/// Memory that a child may use beside its guest's: the engine, compiled code, buffers, and what the
/// kernel keeps for it. A job's memory plus this is its outer limit.
pub const OVERHEAD_BYTES: u64 = 256 << 20;
/// How much a compiler gives way to guests, in steps of nice(2). Where it meets a guest on a core it
/// gets a third of it: enough for a large module beside guests that never rest.
pub(crate) const NICE: i32 = 3;
/// Processes and threads of one child. It starts none but the engine's few threads.
const PIDS_MAX: u64 = 512;

/// What this machine offers to bound children from outside.
#[derive(Debug)]
pub(crate) struct OuterLimits {
    groups: Option<Groups>,
    cores: Arc<Cores>,
    names: AtomicU64,
}

/// The bounds of one child. They end when this is dropped, after the child.
#[derive(Debug)]
pub(crate) struct Bounds {
    group: Option<Group>,
    share: Option<Share>,
    pid: u32,
    /// Its group stands in theirs.
    limits: Arc<OuterLimits>,
}

impl OuterLimits {
    /// Finds out what can be used up to a level, by using it. Blocks for a few milliseconds.
    pub(crate) fn measure(most: OuterLimit) -> Arc<Self> {
        let groups = Groups::find(most).inspect_err(|error| {
            tracing::info!("no control groups: {error}; a watchdog and CPU affinity bound executors");
        });
        Arc::new(Self { groups: groups.ok(), cores: Cores::of_this_process(), names: AtomicU64::new(0) })
    }

    /// The level reached.
    pub(crate) fn level(&self) -> OuterLimit {
        self.groups.as_ref().map_or(OuterLimit::Process, Groups::level)
    }

    /// Puts a child under limits; to be called before the child gets its first order.
    pub(crate) fn bind(self: &Arc<Self>, pid: u32) -> io::Result<Bounds> {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        let group = self.groups.as_ref().map(|groups| groups.make(number, PIDS_MAX)).transpose()?;
        if let Some(group) = &group {
            group.add(pid)?;
        }
        Ok(Bounds { group, share: None, pid, limits: Arc::clone(self) })
    }
}

impl Drop for OuterLimits {
    fn drop(&mut self) {
        if let Some(groups) = &self.groups {
            groups.remove();
        }
    }
}

impl Bounds {
    /// Sets the limits for what runs next: CPU in thousandths of a core, memory in bytes with everything
    /// that the child itself needs.
    pub(crate) fn limit(&mut self, cpus_milli: u32, memory_bytes: u64) -> io::Result<()> {
        if let Some(group) = &mut self.group {
            return group.limit(cpus_milli, memory_bytes);
        }
        // Given back first, so that the new share can be the same cores.
        self.share = None;
        let share = self.limits.cores.take(cpus_milli);
        share.confine(self.pid)?;
        self.share = Some(share);
        Ok(())
    }

    /// Has the child give way to others where they meet on a core. What is done by [`NICE`] alone where
    /// nothing groups processes.
    pub(crate) fn give_way(&self) -> io::Result<()> {
        self.group.as_ref().map_or(Ok(()), Group::give_way)
    }

    /// Gives back what only a run needs: an idle child holds no core that another one could have.
    pub(crate) fn rest(&mut self) {
        self.share = None;
    }

    /// What holds the child to its share of CPU time where nothing else does, under the limits that were set
    /// last.
    pub(crate) fn throttle(&self) -> Throttle {
        match &self.share {
            Some(share) if share.is_part() => Throttle::over(self.pid, share.cpus_milli(), share.count()),
            _ => Throttle::idle(),
        }
    }

    /// Moves the bounds out of here, where nothing is bounded any more.
    pub(crate) fn take(&mut self) -> Self {
        let limits = Arc::clone(&self.limits);
        Self { group: self.group.take(), share: self.share.take(), pid: self.pid, limits }
    }

    /// Whether the kernel ended a process because of the memory limit.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        self.group.as_ref().is_some_and(Group::ran_out_of_memory)
    }

    /// The most memory that the child held under the limit that was set last, in bytes; `None` where nobody
    /// counts.
    pub(crate) fn memory_peak_bytes(&self) -> Option<u64> {
        self.group.as_ref().and_then(Group::memory_peak_bytes)
    }

    /// Whether memory has to be watched because nothing else bounds it.
    pub(crate) fn needs_watching(&self) -> bool {
        self.group.is_none()
    }

    /// Kills everything below the child, where that is possible.
    pub(crate) fn kill(&self) {
        if let Some(group) = &self.group {
            group.kill();
        }
    }
}
