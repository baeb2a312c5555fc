//! Inspection of a module before anybody compiles it: is it a valid WASI command, within what nodes
//! provide and compilers can bear, and what does it say about itself. Nothing is executed or
//! compiled.
//!
//! The server inspects what is published; a run without a server inspects its file before compiling
//! it. A node that leases jobs relies on the server, whose digest it checks.

mod complexity;
mod features;
mod imports;
mod instances;
mod metadata;
mod refusal;
mod walk;

use std::{cell::Cell, fs::File, path::Path};

use gristmill_protocol::{ErrorCode, module::ModuleMetadata};
use memmap2::{Mmap, UncheckedAdvice};
use wasmparser::WasmFeatures;

use self::walk::{Fault, Walk};
pub use self::{
    metadata::{PARAMS_SCHEMA_BYTES_MAX, PARAMS_SECTION, params_schema_json},
    refusal::{InspectError, Refusal},
};

/// Bytes of a mapped module after which the pages read so far are given back.
const WINDOW_BYTES: u64 = 8 << 20;
/// The first bytes, which tell what a file is.
const HEAD_BYTES: usize = 4 << 10;

/// Inspects a module in a file that nobody changes meanwhile. The file is mapped, and what was read of it is
/// given back on the way, so that a module of the largest size takes some tens of MiB. Blocks for up to
/// seconds: call it where that is allowed.
pub fn inspect_file(path: &Path) -> Result<ModuleMetadata, InspectError> {
    let file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(inspect(&[])?);
    }
    #[expect(unsafe_code, reason = "mapping a file is unsafe if somebody cuts it; the caller sees to that")]
    // SAFETY: nobody changes the file meanwhile, by the contract of this function.
    let bytes = unsafe { Mmap::map(&file) }?;
    let given_back_at = Cell::new(0);
    let passed = |offset: u64| {
        if offset.abs_diff(given_back_at.get()) >= WINDOW_BYTES {
            given_back_at.set(offset);
            give_back(&bytes);
        }
    };
    Ok(inspect_on_the_way(&bytes, &passed)?)
}

/// Takes the pages of a mapped file out of this process; what is read again comes from the file again.
fn give_back(bytes: &Mmap) {
    #[expect(unsafe_code, reason = "pages that were written to would lose what was written")]
    // SAFETY: the mapping is read-only and of a file that nobody changes, so that the same bytes come back.
    let given_back = unsafe { bytes.unchecked_advise(UncheckedAdvice::DontNeed) };
    // A kernel that does not take them leaves them to be reclaimed when it needs them.
    let _ = given_back;
}

/// Inspects a module in memory. Takes up to seconds for the largest ones. Fails with the code that
/// says what is wrong with the module, whatever the bytes are.
///
/// The params schema of the metadata is JSON, not yet known to be a JSON Schema.
pub fn inspect(bytes: &[u8]) -> Result<ModuleMetadata, Refusal> {
    inspect_on_the_way(bytes, &|_| {})
}

/// Inspects a module, and says every few MiB up to where it has been read. What was passed is read again
/// only from the start, in another pass.
fn inspect_on_the_way(bytes: &[u8], passed: &dyn Fn(u64)) -> Result<ModuleMetadata, Refusal> {
    check_magic(bytes)?;
    let mut walk = Walk::default();
    let error = match walk.run(bytes, features::allowed(), passed) {
        Ok(()) => return walk.finish(),
        Err(Fault::Refused(refusal)) => return Err(*refusal),
        Err(Fault::Invalid(error)) => error,
    };
    let run = |features| Walk::default().run(bytes, features, passed);
    match run(WasmFeatures::all()) {
        Ok(()) => Err(features::name_needed(|features| run(features).is_ok())),
        Err(Fault::Refused(refusal)) => Err(*refusal),
        Err(Fault::Invalid(_)) => Err(features::invalid(&error)),
    }
}

fn check_magic(bytes: &[u8]) -> Result<(), Refusal> {
    if bytes.starts_with(b"\0asm") {
        return Ok(());
    }
    let start = bytes[..bytes.len().min(HEAD_BYTES)].trim_ascii_start();
    let (detail, hint) = if bytes.is_empty() {
        ("the body is empty", "send the bytes of a .wasm file")
    } else if bytes.starts_with(b"\x7fELF") {
        ("this is a native or precompiled file, not WASM", "send the .wasm file that the compiler made")
    } else if start.starts_with(b"(") || start.starts_with(b";;") {
        ("this is WASM text, not binary", "convert it first: wasm-tools parse FILE.wat -o FILE.wasm")
    } else {
        ("the body does not start with the WASM magic number", "send the bytes of a .wasm file")
    };
    Err(Refusal::new(ErrorCode::ModuleInvalid, detail, hint))
}

#[cfg(test)]
mod tests;
