//! The engine's configuration, one for compiling and running, and the names derived from it.
//!
//! Compiled code is bound to the configuration that made it: a difference between the compile child
//! and the executor would silently discard every cached file. So there is one function, [`config`].

use std::{
    hash::{Hash, Hasher},
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

use crate::code::ExecutablePages;
use gristmill_protocol::{Digest, Metering, limits::MEMORY_BYTES_MAX};
use sha2::{Digest as _, Sha256};

use wasmtime::{Config, Engine, OptLevel, Strategy, WasmFeatures};

/// Stack of a guest. C and C++ programs keep their own stack in linear memory besides this one.
const WASM_STACK_BYTES: usize = 4 << 20;
/// The fiber on which guest and host calls run: the guest's stack and room for the host's frames.
const FIBER_STACK_BYTES: usize = WASM_STACK_BYTES + (2 << 20);
/// Address space reserved for each memory, as much as any job may have: so a memory64 guest never moves,
/// because moving copies gigabytes in one uninterruptible step. 4 GiB or more also spares 32-bit
/// guests their bounds checks.
const MEMORY_RESERVATION_BYTES: u64 = MEMORY_BYTES_MAX;
const BACKTRACE_FRAMES_MAX: NonZeroUsize = NonZeroUsize::new(16).expect("16 is not zero");

/// What compiled code depends on, besides the engine's version and the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EngineClass {
    /// Whether fuel is counted.
    pub metering: Metering,
    /// Whether NaNs are made canonical.
    pub reproducible: bool,
}

/// The one configuration of a class, for compiling and for running.
fn config(class: EngineClass) -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(class.reproducible)
        .consume_fuel(class.metering == Metering::Fuel)
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(FIBER_STACK_BYTES)
        .with_custom_code_memory(Some(Arc::new(ExecutablePages)))
        .memory_reservation(MEMORY_RESERVATION_BYTES)
        .wasm_backtrace_max_frames(Some(BACKTRACE_FRAMES_MAX))
        // Offsets into the module are of no use without its source; the table is a third of the code.
        .generate_address_map(false)
        .shared_memory(false)
        // Exceptions live in the collector's heap although garbage-collected types are off.
        .gc_support(true)
        .wasm_gc(false)
        .wasm_function_references(false)
        .wasm_exceptions(true)
        .wasm_features(WasmFeatures::THREADS | WasmFeatures::SHARED_EVERYTHING_THREADS, false)
        .wasm_stack_switching(false)
        .wasm_custom_page_sizes(false)
        .wasm_wide_arithmetic(false)
        .wasm_relaxed_simd(false)
        .wasm_simd(true)
        .wasm_bulk_memory(true)
        .wasm_reference_types(true)
        .wasm_multi_value(true)
        .wasm_multi_memory(true)
        .wasm_memory64(true)
        .wasm_tail_call(true)
        .wasm_extended_const(true)
        .wasm_component_model(true);
    config
}

/// Makes the engine of a class. Takes well under a millisecond and starts no thread.
///
/// # Errors
/// Only when the machine lacks a CPU feature that the compiler needs.
pub(crate) fn engine(class: EngineClass) -> wasmtime::Result<Engine> {
    Engine::new(&config(class))
}

/// The engine's name and version, such as `wasmtime 48.0.8`.
pub fn engine_version() -> String {
    format!("wasmtime {WASMTIME_VERSION}")
}

/// The version that the compatibility hash covers too; a test compares it with the lock file.
const WASMTIME_VERSION: &str = "48.0.8";

/// The WASM features that guests may use, by their names in a module's metadata, sorted.
pub fn engine_features() -> Vec<String> {
    let class = EngineClass { metering: Metering::None, reproducible: false };
    let mut names: Vec<String> = engine(class)
        .map(|engine| {
            engine.get_wasm_features().iter_names().map(|(name, _)| name.to_ascii_lowercase()).collect()
        })
        .unwrap_or_default();
    names.sort();
    names
}

/// A file-name-safe key of compiled code: it changes with the module, the engine's version and
/// configuration, the CPU's features, the metering class and the reproducible mode. Cheap after the
/// first call of a class.
pub fn compiled_key(module: &Digest, metering: Metering, reproducible: bool) -> String {
    let class = EngineClass { metering, reproducible };
    let fuel = if metering == Metering::Fuel { "fuel" } else { "none" };
    let mode = if reproducible { "-repro" } else { "" };
    format!("{}-{fuel}{mode}-{}", module.hex(), fingerprint(class))
}

/// 16 hex digits over everything of the engine that compiled code depends on.
fn fingerprint(class: EngineClass) -> String {
    static KNOWN: Mutex<Vec<(EngineClass, String)>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, text)) = known.iter().find(|(of, _)| *of == class) {
        return text.clone();
    }
    let mut hasher = Sha256Hasher(Sha256::new());
    WASMTIME_VERSION.hash(&mut hasher);
    // A machine on which no engine can be made compiles nothing either, so the key needs no more.
    if let Ok(engine) = engine(class) {
        engine.precompile_compatibility_hash().hash(&mut hasher);
    }
    let text = hex::encode(&hasher.0.finalize()[..8]);
    known.push((class, text.clone()));
    text
}

/// Feeds whatever is hashed into SHA-256, which unlike the standard hasher never changes.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        // Only the whole digest is used; this satisfies the trait.
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_tells_classes_and_modules_apart_and_is_stable() {
        let a = Digest::from_bytes([1; 32]);
        let b = Digest::from_bytes([2; 32]);
        let keys = [
            compiled_key(&a, Metering::Fuel, false),
            compiled_key(&a, Metering::Fuel, true),
            compiled_key(&a, Metering::None, false),
            compiled_key(&b, Metering::Fuel, false),
        ];
        for (i, key) in keys.iter().enumerate() {
            assert!(key.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-'), "{key}");
            assert!(keys.iter().skip(i + 1).all(|other| other != key));
        }
        assert_eq!(keys[0], compiled_key(&a, Metering::Fuel, false));
    }

    #[test]
    fn the_version_is_the_one_in_the_lock_file() {
        let lock = include_str!("../../../Cargo.lock");
        let entry = format!("name = \"wasmtime\"\nversion = \"{WASMTIME_VERSION}\"");
        assert!(lock.contains(&entry), "set WASMTIME_VERSION to the version in Cargo.lock");
    }

    #[test]
    fn the_features_are_what_real_programs_need_and_no_more() {
        let features = engine_features();
        let has = |name: &str| features.iter().any(|f| f == name);
        for name in ["memory64", "exceptions", "multi_memory", "tail_call", "simd", "bulk_memory"] {
            assert!(has(name), "{name} of {features:?}");
        }
        for name in ["threads", "gc", "relaxed_simd", "custom_page_sizes", "stack_switching"] {
            assert!(!has(name), "{name} of {features:?}");
        }
    }
}
