//! What a node asks of a child, and what it hears back.

use std::{fs::File, path::PathBuf, sync::Arc};

pub use gristmill_channel::{CompileSpec, MountSpec, RunEnd, RunEvent, RunSpec, StopReason};

pub use crate::confiner::Held;

/// One run of a guest. The node has staged everything; the executor only runs.
#[derive(Debug)]
pub struct RunRequest {
    /// What to run and under which limits.
    pub spec: RunSpec,
    /// Compiled code, written by the compile child of the same binary, metering and mode.
    pub code: Arc<File>,
    /// Standard input, a regular file; given if and only if the spec says so.
    pub stdin: Option<File>,
    /// The directory of each mount, in the order of the mounts. Each lies in the executor's slot or
    /// in a directory that the executor was assigned.
    pub directories: Vec<PathBuf>,
}

/// One compilation in a killable child.
#[derive(Debug)]
pub struct CompileRequest {
    /// How to compile and under which limits.
    pub spec: CompileSpec,
    /// CPU allowed, in thousandths of a core.
    pub cpus_milli: u32,
    /// The module.
    pub wasm: File,
    /// Where the compiled code goes; the file is made. It is whole only when the compilation
    /// succeeded; otherwise it is removed again.
    pub output: PathBuf,
    /// What is given back when the child is gone, however the compilation ends.
    pub held: Held,
}
