//! Runs WASI programs under limits. The only crate that links wasmtime.
//!
//! A [`Sandbox`] runs guests that were compiled before by [`compile`](fn@compile). It knows nothing of
//! jobs, leases or networks: it gets a [`RunSpec`](gristmill_channel::RunSpec) with
//! open files, sends events and ends with a [`RunEnd`](gristmill_channel::RunEnd).
//! A guest can never cause an error of the host; however it ends, that is an outcome.
//!
//! What a guest can reach is in `host`, where limits are applied is in `memory`, `disk`, `log` and
//! `run`, and why a guest stopped is decided in `fault`.

mod code;
mod compile;
mod control;
mod disk;
mod engine;
mod fault;
mod host;
mod log;
mod memory;
mod run;
mod ticker;
mod traffic;

pub use compile::compile;
pub use control::RunControl;
pub use engine::{EngineClass, compiled_key, engine_features, engine_version};
pub use fault::{stop_outcome, wall_time_outcome};
pub use run::{Finished, RunFiles, Sandbox};
