//! What an attempt used.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an attempt used. A field is null when it was not measured (fuel in the class
/// `metering: none`, or when the guest had to be killed).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Usage {
    /// Fuel consumed; one core-second is 10^10. Of a guest that was stopped from outside (wall time,
    /// cancel, deadline) it is a lower bound, by about 10^7 at most.
    pub fuel: Option<u64>,
    /// CPU time of the guest, in microseconds.
    pub cpu_us: Option<u64>,
    /// Wall time from the start of instantiation to the guest's end, in microseconds.
    pub wall_us: Option<u64>,
    /// Time to bring inputs to the node and lay out the scratch directory, in microseconds.
    pub stage_us: Option<u64>,
    /// Time to compile, or to load compiled code, in microseconds.
    pub compile_us: Option<u64>,
    /// Time to digest and upload outputs, in microseconds.
    pub collect_us: Option<u64>,
    /// Whether compiled code was found in the node's cache.
    pub compile_cache_hit: Option<bool>,
    /// Largest sum of all memories and tables of the guest and of what its host held for it, in bytes. Of an
    /// executor that was ended because guest and host together exceeded the memory of the job: what both held,
    /// or null when nobody counted it.
    pub memory_peak_bytes: Option<u64>,
    /// Bytes of inputs given to the guest.
    pub input_bytes: Option<u64>,
    /// Bytes of outputs collected.
    pub output_bytes: Option<u64>,
    /// Bytes that the guest wrote to its scratch directory, at the peak.
    pub disk_peak_bytes: Option<u64>,
    /// Bytes that the guest read from files and standard input, each time it read them.
    pub read_bytes: Option<u64>,
    /// Bytes that the guest wrote to files, standard output and standard error, also those that the
    /// log limit then cut.
    pub written_bytes: Option<u64>,
}
