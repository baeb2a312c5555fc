//! WASM features: which are on, which a node must have, and the name of one that is off.

use std::collections::BTreeSet;

use gristmill_protocol::ErrorCode;
use wasmparser::{Operator, WasmFeatures};

use crate::refusal::Refusal;

/// What every node runs; anything else is refused. The floats and the reference types behind
/// exceptions are no proposals of their own.
pub(crate) fn allowed() -> WasmFeatures {
    WasmFeatures::FLOATS
        | WasmFeatures::GC_TYPES
        | WasmFeatures::MUTABLE_GLOBAL
        | WasmFeatures::SATURATING_FLOAT_TO_INT
        | WasmFeatures::SIGN_EXTENSION
        | WasmFeatures::REFERENCE_TYPES
        | WasmFeatures::MULTI_VALUE
        | WasmFeatures::BULK_MEMORY
        | WasmFeatures::SIMD
        | WasmFeatures::TAIL_CALL
        | WasmFeatures::MULTI_MEMORY
        | WasmFeatures::MEMORY64
        | WasmFeatures::EXCEPTIONS
        | WasmFeatures::LEGACY_EXCEPTIONS
        | WasmFeatures::EXTENDED_CONST
        | WasmFeatures::COMPONENT_MODEL
}

/// The features that a module uses beyond WASM 2.0, under the names that nodes report.
#[derive(Debug, Default)]
pub(crate) struct Used {
    names: BTreeSet<&'static str>,
}

impl Used {
    pub(crate) fn note(&mut self, name: &'static str) {
        self.names.insert(name);
    }

    pub(crate) fn note_operator(&mut self, operator: &Operator<'_>) {
        match operator {
            Operator::ReturnCall { .. } | Operator::ReturnCallIndirect { .. } => self.note("tail_call"),
            Operator::TryTable { .. } | Operator::ThrowRef => self.note("exceptions"),
            Operator::Try { .. }
            | Operator::Catch { .. }
            | Operator::CatchAll
            | Operator::Rethrow { .. }
            | Operator::Delegate { .. } => self.note("legacy_exceptions"),
            _ => {}
        }
    }

    pub(crate) fn names(self) -> Vec<String> {
        self.names.into_iter().map(str::to_owned).collect()
    }
}

/// Finds the feature that a module cannot do without. It is invalid under the allowed features and
/// valid under all of them; `is_valid` tells of any set in between. The search halves the features
/// that are off, so that a large module is gone through a few times only.
pub(crate) fn name_needed(is_valid: impl Fn(WasmFeatures) -> bool) -> Refusal {
    let off: Vec<_> = WasmFeatures::all().difference(allowed()).iter_names().collect();
    let with = |count: usize| off[..count].iter().fold(allowed(), |set, (_, feature)| set | *feature);
    let (mut too_few, mut enough) = (0, off.len());
    while enough - too_few > 1 {
        let middle = usize::midpoint(too_few, enough);
        if is_valid(with(middle)) {
            enough = middle;
        } else {
            too_few = middle;
        }
    }
    unsupported(&off.get(too_few).map_or("unknown", |(name, _)| name).to_ascii_lowercase())
}

/// A module that is invalid under any features.
pub(crate) fn invalid(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(
        ErrorCode::ModuleInvalid,
        format!("the module is not valid: {error}"),
        "check it with `wasm-tools validate`; if it was cut off in transfer, upload it again",
    )
}

fn unsupported(name: &str) -> Refusal {
    let detail = format!("the module uses the WASM feature {name}, which no node runs");
    let hint = match name {
        "threads" | "shared_everything_threads" => {
            "build it without threads (no -pthread, no wasm32-wasip1-threads): a job has one thread"
        }
        "relaxed_simd" => "build it without relaxed SIMD; plain SIMD (simd128) is fine",
        "gc" | "function_references" => "build it with a compiler that uses linear memory",
        _ => "build it for wasm32-wasip1 or wasm32-wasip2 with the compiler's default features",
    };
    Refusal::new(ErrorCode::UnsupportedFeature, detail, hint)
}
