//! Ceilings on what a module may make a compiler do. Real modules (Yosys: 46,473 functions, 298,321
//! locals, a body of 223 kB) stay far below them; modules made to exhaust a compiler do not.

use gristmill_protocol::{ErrorCode, limits::MEMORY_BYTES_MAX};

use crate::refusal::Refusal;

/// Functions in all, imported ones included.
const FUNCTIONS_MAX: u64 = 200_000;
/// Types in all.
const TYPES_MAX: u64 = 50_000;
/// Imports of one module or component.
const IMPORTS_MAX: u64 = 10_000;
/// Exports of one module or component.
const EXPORTS_MAX: u64 = 50_000;
/// Tables, memories, globals, tags, data and element segments in all.
const ITEMS_MAX: u64 = 200_000;
/// Bytes of all sections that are read whole: everything but code, data and custom sections. What is made
/// of them in memory is a few times larger. Yosys has 74 kB.
const DIRECTORY_BYTES_MAX: u64 = 16 << 20;
/// Entries of all element segments.
const ELEMENTS_MAX: u64 = 2_000_000;
/// Locals of one function, without its parameters.
const LOCALS_PER_FUNCTION_MAX: u64 = 5_000;
/// Locals in all.
const LOCALS_MAX: u64 = 5_000_000;
/// Bytes of one function body.
const BODY_BYTES_MAX: u64 = 4 << 20;
/// Depth of blocks within one function.
const NESTING_MAX: u64 = 10_000;
/// Targets of one `br_table`.
const BRANCH_TARGETS_MAX: u64 = 65_536;
/// Targets of every `br_table`.
const BRANCH_TARGETS_TOTAL_MAX: u64 = 1_000_000;
/// Blocks, loops and conditional branches of one function. Yosys has 8,525 in one of 658 locals.
const BLOCKS_MAX: u64 = 100_000;
/// The same times the function's locals: what register allocation and the renaming of variables take
/// grows with it.
const BLOCK_LOCALS_MAX: u64 = 32_000_000;
/// Modules and components within a component.
const NESTED_MAX: u64 = 200;
/// Depth of components within components.
const NESTED_DEPTH_MAX: u64 = 16;
/// Types, instances, aliases and canonical functions of components, in all.
const COMPONENT_ITEMS_MAX: u64 = 100_000;
/// Smallest size that a table may demand, in entries.
const TABLE_MIN_MAX: u64 = 10_000_000;

/// What was counted so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    functions: u64,
    types: u64,
    items: u64,
    elements: u64,
    locals: u64,
    branch_targets: u64,
    component_items: u64,
    nested: u64,
    directory_bytes: u64,
}

pub(crate) fn at_most(what: &str, found: u64, max: u64) -> Result<(), Refusal> {
    if found <= max {
        return Ok(());
    }
    Err(Refusal::new(
        ErrorCode::ModuleTooComplex,
        format!("the module has {what} of {found}; {max} are allowed"),
        "optimise it for size (-Oz, wasm-opt), or split the program into several modules",
    ))
}

impl Counts {
    pub(crate) fn functions(&mut self, more: u32) -> Result<(), Refusal> {
        self.functions += u64::from(more);
        at_most("a number of functions", self.functions, FUNCTIONS_MAX)
    }

    pub(crate) fn types(&mut self, more: u32) -> Result<(), Refusal> {
        self.types += u64::from(more);
        at_most("a number of types", self.types, TYPES_MAX)
    }

    pub(crate) fn imports(&mut self, more: u32) -> Result<(), Refusal> {
        self.functions += u64::from(more);
        at_most("a number of imports", more.into(), IMPORTS_MAX)
    }

    pub(crate) fn exports(more: u32) -> Result<(), Refusal> {
        at_most("a number of exports", more.into(), EXPORTS_MAX)
    }

    pub(crate) fn items(&mut self, more: u32) -> Result<(), Refusal> {
        self.items += u64::from(more);
        at_most("a number of tables, memories, globals, tags and segments", self.items, ITEMS_MAX)
    }

    /// Bytes of types, imports, exports and the like.
    pub(crate) fn directory(&mut self, more: u64) -> Result<(), Refusal> {
        self.directory_bytes += more;
        at_most(
            "sections beside code and data with a size in bytes",
            self.directory_bytes,
            DIRECTORY_BYTES_MAX,
        )
    }

    pub(crate) fn elements(&mut self, more: u32) -> Result<(), Refusal> {
        self.elements += u64::from(more);
        at_most("a number of table elements", self.elements, ELEMENTS_MAX)
    }

    pub(crate) fn branches(&mut self, targets: u32) -> Result<(), Refusal> {
        self.branch_targets += u64::from(targets);
        at_most("a number of br_table targets", targets.into(), BRANCH_TARGETS_MAX)?;
        at_most("a number of br_table targets in all", self.branch_targets, BRANCH_TARGETS_TOTAL_MAX)
    }

    pub(crate) fn component_items(&mut self, more: u32) -> Result<(), Refusal> {
        self.component_items += u64::from(more);
        at_most(
            "a number of component types, instances and functions",
            self.component_items,
            COMPONENT_ITEMS_MAX,
        )
    }

    pub(crate) fn nested(&mut self, depth: usize) -> Result<(), Refusal> {
        self.nested += 1;
        at_most("a number of nested modules", self.nested, NESTED_MAX)?;
        at_most("a nesting of components", depth as u64, NESTED_DEPTH_MAX)
    }

    pub(crate) fn table_min(entries: u64) -> Result<(), Refusal> {
        at_most("a table with a minimum", entries, TABLE_MIN_MAX)
    }

    pub(crate) fn memory_min(bytes: u64) -> Result<(), Refusal> {
        // The largest memory limit of a job: nobody could run it.
        at_most("a memory with a minimum in bytes", bytes, MEMORY_BYTES_MAX)
    }
}

/// What was counted in one function.
#[derive(Debug, Default)]
pub(crate) struct BodyCounts {
    locals: u64,
    blocks: u64,
}

impl BodyCounts {
    pub(crate) fn size(bytes: u64) -> Result<(), Refusal> {
        at_most("a function body with a size in bytes", bytes, BODY_BYTES_MAX)
    }

    pub(crate) fn locals(&mut self, total: &mut Counts, more: u32) -> Result<(), Refusal> {
        self.locals += u64::from(more);
        total.locals += u64::from(more);
        at_most("a function with a number of locals", self.locals, LOCALS_PER_FUNCTION_MAX)?;
        at_most("a number of locals", total.locals, LOCALS_MAX)
    }

    pub(crate) fn block(&mut self, depth: u32) -> Result<(), Refusal> {
        self.blocks += 1;
        at_most("a nesting of blocks", depth.into(), NESTING_MAX)?;
        at_most("a function with a number of blocks and branches", self.blocks, BLOCKS_MAX)?;
        at_most(
            "a function with a product of blocks and locals",
            self.blocks * (self.locals + 16),
            BLOCK_LOCALS_MAX,
        )
    }
}
