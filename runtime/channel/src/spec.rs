//! The values in orders and reports.

use std::collections::BTreeMap;

use gristmill_protocol::{Limits, Metering, Outcome, attempt::LogStream, module::ModuleWorld};
use serde::{Deserialize, Serialize};

/// What confines a child process, found out by trying what must not work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// System calls outside an allow list fail, among them everything that makes a socket.
    pub seccomp: bool,
    /// The version of the kernel's Landlock rules that hold: no file but those of the tenant it was
    /// assigned to; 0 when there are none.
    pub landlock_abi: u32,
    /// The child has a user id of its own.
    pub own_uid: bool,
}

impl Confinement {
    /// Whether this is at least as much as `other`.
    pub fn covers(self, other: Self) -> bool {
        self.seccomp >= other.seccomp
            && self.landlock_abi >= other.landlock_abi
            && self.own_uid >= other.own_uid
    }
}

/// A child's assignment to one tenant, its first order. It comes with descriptors: first the
/// directories that it may read, then those that it may write.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignSpec {
    /// Number of directories that it may read.
    pub readable: usize,
    /// Number of directories that it may also write.
    pub writable: usize,
    /// What has to hold; a child that cannot reach it ends.
    pub expected: Confinement,
}

impl AssignSpec {
    /// Descriptors that come with it.
    pub fn descriptors(&self) -> usize {
        self.readable.saturating_add(self.writable)
    }
}

/// A directory that the guest sees. There is always one for `/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Absolute guest path, such as `/`, `/in` or `/share`.
    pub guest_path: String,
    /// Whether the guest may write; writes count in the disk limit.
    pub writable: bool,
}

/// One run of a guest. It comes with descriptors: the compiled code, then standard input if there
/// is one, then one directory for each mount.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// Shown in the executor's own log lines: job id and attempt.
    pub label: String,
    /// Names the compiled code: equal keys, equal code.
    pub code_key: String,
    /// The module's contract.
    pub world: ModuleWorld,
    /// `argv[0]`.
    pub program: String,
    /// Arguments after it.
    pub args: Vec<String>,
    /// The whole environment, in order.
    pub env: BTreeMap<String, String>,
    /// Whether a descriptor for standard input comes along; else it is empty.
    pub has_stdin: bool,
    /// What the guest sees of the file system.
    pub mounts: Vec<MountSpec>,
    /// Ceilings: memory, fuel, wall time, disk, log bytes and handles are enforced by the executor.
    pub limits: Limits,
    /// Exit codes beside 0 that mean success.
    pub success_exit_codes: Vec<i32>,
    /// Fixed clocks, seeded random numbers, canonical NaNs.
    pub reproducible: bool,
}

impl RunSpec {
    /// Descriptors that come with it.
    pub fn descriptors(&self) -> usize {
        1 + usize::from(self.has_stdin) + self.mounts.len()
    }
}

/// One compilation. It comes with two descriptors: the module, and the empty file for the code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompileSpec {
    /// The contract.
    pub world: ModuleWorld,
    /// Metering class; each has its own compiled code.
    pub metering: Metering,
    /// Whether NaNs are made canonical; its own compiled code too.
    pub reproducible: bool,
    /// Wall time allowed, in milliseconds; CPU time is that many on every core.
    pub time_ms: u64,
    /// Memory allowed, in bytes.
    pub memory_bytes: u64,
}

/// What became of a compilation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CompileReport {
    /// Compiled and synced to disk; microseconds taken.
    Compiled(u64),
    /// The module is at fault; the engine's message.
    Refused(String),
    /// A file could not be read or written.
    Failed(String),
}

/// Why the node wants a guest stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopReason {
    /// The job was cancelled.
    Cancelled,
    /// The job's deadline passed.
    Deadline,
    /// The lease is lost or about to be: nothing of this run will be reported.
    LeaseLost,
}

/// What an executor says while a guest runs.
#[derive(Debug, Clone, PartialEq)]
pub enum RunEvent {
    /// Instantiation begins; wall time counts from here.
    Started,
    /// Raw bytes that the guest wrote, in order within a stream.
    Log {
        /// The stream.
        stream: LogStream,
        /// The bytes.
        bytes: Vec<u8>,
        /// Microseconds after `Started`.
        elapsed_us: u64,
    },
    /// A stream was cut at the log limit; sent once.
    LogTruncated,
}

/// How a run ended, and whether the executor can serve another run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunEnd {
    /// The outcome, with fuel, CPU and wall time, peak memory and disk filled in.
    pub outcome: Outcome,
    /// False after a crash, a kill or any fault that may have left something behind.
    pub reusable: bool,
}
