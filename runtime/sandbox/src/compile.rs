//! Compiles a module. Runs in a child process of its own, because compilation cannot be interrupted.

use gristmill_protocol::module::ModuleWorld;

use crate::engine::{EngineClass, engine};

/// Compiles `wasm` for a class; the answer is what the executor loads from a file. Takes minutes
/// and gigabytes for large modules and uses every core.
///
/// # Errors
/// The engine's message when the module is invalid, uses a feature that is off, or is not of the
/// given world.
pub fn compile(wasm: &[u8], world: ModuleWorld, class: EngineClass) -> Result<Vec<u8>, String> {
    let engine = engine(class).map_err(|error| format!("no engine on this machine: {error:#}"))?;
    match world {
        ModuleWorld::WasiP1 => engine.precompile_module(wasm),
        ModuleWorld::WasiP2 => engine.precompile_component(wasm),
        unknown => return Err(format!("this node knows no modules of the kind {unknown}")),
    }
    .map_err(|error| format!("{error:#}"))
}
