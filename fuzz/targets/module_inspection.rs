//! Bytes that somebody publishes as a module: whatever they are, the inspection ends with metadata or
//! with a refusal that has a public code.
#![no_main]

use gristmill_inspect::inspect;
use gristmill_protocol::{ErrorCode, module::ModuleMetadata};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match inspect(bytes) {
        Ok(metadata) => {
            assert!(metadata.exports.len() <= 100);
            // What goes into the database must come out of it.
            let stored = serde_json::to_string(&metadata).expect("metadata is JSON");
            serde_json::from_str::<ModuleMetadata>(&stored).expect("stored metadata can be read");
            assert_eq!(inspect(bytes).ok().as_ref(), Some(&metadata), "the same bytes are the same module");
        }
        Err(refusal) => {
            let known = [
                ErrorCode::ModuleInvalid,
                ErrorCode::ModuleTooComplex,
                ErrorCode::ModuleNoEntry,
                ErrorCode::ImportNotAllowed,
                ErrorCode::UnsupportedFeature,
            ];
            assert!(known.contains(&refusal.code), "{refusal:?}");
            assert!(!refusal.hint.is_empty() && !refusal.detail.is_empty());
        }
    }
});
