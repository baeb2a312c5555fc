//! The child process in which a guest runs, and the node's handle on it.
//!
//! The same binary is started again with a hidden subcommand: `executor` serves runs one after the
//! other over its stdin and stdout, `compile` compiles one module and exits. Both die with the node.

mod child;
mod compile;
mod compile_child;
mod confine;
mod confiner;
mod descriptors;
mod handle;
mod lifeline;
mod outer;
mod process;
pub mod request;
mod scratch;
mod slots;
mod uids;

pub use child::executor_main;
pub use compile::{CompileFailure, compile};
pub use compile_child::compile_main;
pub use confiner::Confiner;
pub use gristmill_sandbox::{compiled_key, engine_features, engine_version};
pub use handle::{Executor, RunOrders};
pub use outer::OVERHEAD_BYTES;
pub use process::ExecutorConfig;
pub use scratch::{empty_dir, remove_tree};
pub use slots::Slot;
