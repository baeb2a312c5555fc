//! Hard ceilings of an attempt, their defaults and ranges.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reason::closed_list;

/// Fuel that stands for one second on one core; a constant, the same on every node.
pub const FUEL_PER_CORE_SECOND: u64 = 10_000_000_000;
/// CPU of a standard slot, in thousandths of a core.
pub const SLOT_CPUS_MILLI: u32 = 2_000;
/// Memory of a standard slot, in bytes.
pub const SLOT_MEMORY_BYTES: u64 = 8 << 30;
/// Largest memory limit of a job, in bytes: that of a standard slot. A guest's memory is reserved in one
/// piece of this size, within which it grows without ever being copied.
pub const MEMORY_BYTES_MAX: u64 = SLOT_MEMORY_BYTES;
/// Largest module, in bytes.
pub const MODULE_BYTES_MAX: u64 = 256 << 20;
/// Largest blob, in bytes.
pub const BLOB_BYTES_MAX: u64 = 64 << 30;
/// Largest inline input, stdin or params, in bytes.
pub const INLINE_BYTES_MAX: usize = 64 << 10;
/// Largest JSON request body, in bytes.
pub const BODY_BYTES_MAX: usize = 1 << 20;

closed_list! {
    /// How a guest's work is counted.
    Metering {
        /// Deterministic fuel, with epoch interruption for deadline and cancel.
        Fuel = "fuel",
        /// Epoch interruption only; fuel is not counted.
        None = "none",
    }
}

/// Limits as asked for at submit: what is absent takes its default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsSpec {
    /// CPU in thousandths of a core, 10 to 256,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 256_000))]
    pub cpus_milli: Option<u32>,
    /// Memory in bytes, over all memories and tables; 64 KiB to 8 GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 65_536, max = 8_589_934_592_u64))]
    pub memory_bytes: Option<u64>,
    /// Wall time from instantiation, in milliseconds; 1 to 30 days.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_592_000_000_u64))]
    pub wall_time_ms: Option<u64>,
    /// Fuel budget; default is cpus x wall time x 10^10.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9_223_372_036_854_775_807_u64))]
    pub fuel: Option<u64>,
    /// Metering class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metering: Option<Metering>,
    /// Bytes in all files that the guest can write.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 8_796_093_022_208_u64))]
    pub disk_bytes: Option<u64>,
    /// Number of files and directories that the guest may hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000_000))]
    pub disk_files: Option<u64>,
    /// Bytes of all outputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 8_796_093_022_208_u64))]
    pub output_bytes: Option<u64>,
    /// Number of outputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub output_files: Option<u64>,
    /// Bytes of stdout and stderr together; what comes after is cut and marked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 17_179_869_184_u64))]
    pub log_bytes: Option<u64>,
    /// Open handles at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 65_536))]
    pub handles: Option<u32>,
    /// Time to bring the inputs to the node, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400_000))]
    pub stage_time_ms: Option<u64>,
    /// Time to compile the module, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400_000))]
    pub compile_time_ms: Option<u64>,
    /// Memory to compile the module, in bytes; 64 MiB to 8 GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 67_108_864, max = 8_589_934_592_u64))]
    pub compile_memory_bytes: Option<u64>,
}

/// Limits with every default filled in, as stored on the job and enforced by the node.
/// The fields have the units of [`LimitsSpec`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "each field is documented at its twin in LimitsSpec")]
pub struct Limits {
    pub cpus_milli: u32,
    pub memory_bytes: u64,
    pub wall_time_ms: u64,
    /// Null in the class `metering: none`.
    pub fuel: Option<u64>,
    pub metering: Metering,
    pub disk_bytes: u64,
    pub disk_files: u64,
    pub output_bytes: u64,
    pub output_files: u64,
    pub log_bytes: u64,
    pub handles: u32,
    pub stage_time_ms: u64,
    pub compile_time_ms: u64,
    pub compile_memory_bytes: u64,
}

/// The two defaults that depend on where the job runs: one standard slot, or the reduced slot of
/// a small machine under `gristmill dev`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SlotSize {
    /// CPU in thousandths of a core.
    #[schemars(range(min = 1))]
    pub cpus_milli: u32,
    /// Memory in bytes.
    #[schemars(range(min = 1))]
    pub memory_bytes: u64,
}

impl Default for SlotSize {
    fn default() -> Self {
        Self { cpus_milli: SLOT_CPUS_MILLI, memory_bytes: SLOT_MEMORY_BYTES }
    }
}

/// A limit that lies outside its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {}", self.rule())]
pub struct LimitOutOfRange {
    /// The field's name in [`LimitsSpec`].
    pub field: &'static str,
    /// Smallest value allowed.
    pub min: u64,
    /// Largest value allowed.
    pub max: u64,
    /// What was asked for.
    pub found: u64,
}

impl LimitOutOfRange {
    /// What must hold of the field, for texts that name it in their own way.
    pub fn rule(&self) -> String {
        let rule = format!("must be from {} to {}, found {}", self.min, self.max, self.found);
        match self.hint() {
            Some(hint) => format!("{rule}; {hint}"),
            None => rule,
        }
    }

    /// What to do where the rule alone does not say it.
    pub fn hint(&self) -> Option<&'static str> {
        match self.field {
            _ if self.found <= self.max => None,
            "memory_bytes" => {
                Some("no guest has more memory than one standard slot: split the work over several jobs")
            }
            "compile_memory_bytes" => Some(
                "a compiler has no more than one standard slot: split the module, or optimise it for size \
                 (-Oz, wasm-opt)",
            ),
            _ => None,
        }
    }
}

impl LimitsSpec {
    /// Fills in the defaults and checks every range. All problems are returned, not only the first.
    pub fn resolve(&self, slot: SlotSize) -> Result<Limits, Vec<LimitOutOfRange>> {
        const DAY_MS: u64 = 24 * 3_600_000;
        let mut problems = Vec::new();
        let mut check = |field, value: u64, min, max| {
            if value < min || value > max {
                problems.push(LimitOutOfRange { field, min, max, found: value });
            }
            value
        };
        let cpus = check("cpus_milli", self.cpus_milli.unwrap_or(slot.cpus_milli).into(), 10, 256_000);
        let wall = check("wall_time_ms", self.wall_time_ms.unwrap_or(3_600_000), 1, 30 * DAY_MS);
        let metering = self.metering.unwrap_or(Metering::Fuel);
        let fuel_default = (u128::from(cpus) * u128::from(wall) * u128::from(FUEL_PER_CORE_SECOND)
            / 1_000_000)
            .min(u128::from(u64::MAX >> 1)) as u64;
        let fuel = check("fuel", self.fuel.unwrap_or(fuel_default.max(1)), 1, u64::MAX >> 1);
        let limits = Limits {
            cpus_milli: cpus as u32,
            memory_bytes: check(
                "memory_bytes",
                self.memory_bytes.unwrap_or(slot.memory_bytes),
                64 << 10,
                MEMORY_BYTES_MAX,
            ),
            wall_time_ms: wall,
            fuel: (metering == Metering::Fuel).then_some(fuel),
            metering,
            disk_bytes: check("disk_bytes", self.disk_bytes.unwrap_or(10 << 30), 0, 8 << 40),
            disk_files: check("disk_files", self.disk_files.unwrap_or(100_000), 0, 10_000_000),
            output_bytes: check("output_bytes", self.output_bytes.unwrap_or(10 << 30), 0, 8 << 40),
            output_files: check("output_files", self.output_files.unwrap_or(10_000), 0, 100_000),
            log_bytes: check("log_bytes", self.log_bytes.unwrap_or(64 << 20), 0, 16 << 30),
            handles: check("handles", self.handles.unwrap_or(1_024).into(), 16, 65_536) as u32,
            stage_time_ms: check("stage_time_ms", self.stage_time_ms.unwrap_or(600_000), 1, DAY_MS),
            compile_time_ms: check("compile_time_ms", self.compile_time_ms.unwrap_or(600_000), 1, DAY_MS),
            compile_memory_bytes: check(
                "compile_memory_bytes",
                self.compile_memory_bytes.unwrap_or(4 << 30),
                64 << 20,
                SLOT_MEMORY_BYTES,
            ),
        };
        if problems.is_empty() { Ok(limits) } else { Err(problems) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_fuel_of_a_standard_slot_is_two_cores_for_an_hour() {
        let limits = LimitsSpec::default().resolve(SlotSize::default()).expect("defaults are valid");
        assert_eq!(limits.fuel, Some(72_000_000_000_000));
        assert_eq!((limits.cpus_milli, limits.memory_bytes), (2_000, 8 << 30));
    }

    #[test]
    fn every_limit_out_of_range_is_named() {
        let spec = LimitsSpec { cpus_milli: Some(0), wall_time_ms: Some(0), ..LimitsSpec::default() };
        let problems = spec.resolve(SlotSize::default()).expect_err("zero is out of range");
        let fields: Vec<_> = problems.iter().map(|p| p.field).collect();
        assert_eq!(fields, ["cpus_milli", "wall_time_ms"]);
    }

    #[test]
    fn more_memory_than_a_standard_slot_is_refused_with_what_to_do() {
        let resolve = |bytes| {
            let spec = LimitsSpec { memory_bytes: Some(bytes), ..LimitsSpec::default() };
            spec.resolve(SlotSize::default())
        };
        assert_eq!(resolve(8 << 30).expect("a whole slot").memory_bytes, SLOT_MEMORY_BYTES);
        let problems = resolve((8 << 30) + 1).expect_err("a byte more");
        let rule = problems[0].rule();
        assert!(rule.starts_with("must be from 65536 to 8589934592, found 8589934593; "), "{rule}");
        assert!(rule.ends_with("split the work over several jobs"), "{rule}");
        let too_little = resolve(1).expect_err("too little")[0].rule();
        assert_eq!(too_little, "must be from 65536 to 8589934592, found 1");
    }

    #[test]
    fn a_compiler_has_at_most_the_memory_of_a_slot() {
        let with = |bytes| {
            let spec = LimitsSpec { compile_memory_bytes: Some(bytes), ..LimitsSpec::default() };
            spec.resolve(SlotSize::default())
        };
        assert_eq!(with(8 << 30).expect("a slot").compile_memory_bytes, 8 << 30);
        let rule = with((8 << 30) + 1).expect_err("more than a slot")[0].rule();
        assert!(rule.contains("8589934592") && rule.contains("wasm-opt"), "{rule}");
        let rule = with(1).expect_err("too little")[0].rule();
        assert!(!rule.contains("wasm-opt"), "{rule}");
    }
}
