//! The pass over a module: it counts, validates, and gathers what the metadata needs.

use std::collections::BTreeSet;

use gristmill_protocol::{
    ErrorCode,
    module::{ModuleMetadata, ModuleWorld},
};
use wasmparser::{
    BinaryReader, BinaryReaderError, ComponentExternalKind, ComponentTypeRef, DataKind, DataSectionReader,
    Encoding, ExternalKind, FuncValidatorAllocations, FunctionBody, MemoryType, Operator, OperatorsReader,
    Parser, Payload, SectionLimited, TableType, TypeRef, ValidPayload, Validator, WasmFeatures,
};

use crate::{
    complexity::{BodyCounts, Counts},
    features::{self, Used},
    imports,
    instances::{COMPONENT_ITEM_BYTES, ELEMENT_BYTES, FUNCTION_BYTES, GLOBAL_BYTES, Instances, TABLE_BYTES},
    metadata::Texts,
    refusal::Refusal,
};

/// Exports that are listed in a module's metadata.
const EXPORTS_LISTED_MAX: usize = 100;

/// Why the walk ended.
pub(crate) enum Fault {
    Invalid(BinaryReaderError),
    Refused(Box<Refusal>),
}

impl From<BinaryReaderError> for Fault {
    fn from(error: BinaryReaderError) -> Self {
        Self::Invalid(error)
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

/// One pass over a module: counts first, so that the validator never sees a bomb.
#[derive(Default)]
pub(crate) struct Walk {
    /// Encodings of the modules and components that are open; the last one is the innermost.
    open: Vec<Encoding>,
    world: Option<ModuleWorld>,
    counts: Counts,
    instances: Instances,
    used: Used,
    texts: Texts,
    imports: BTreeSet<String>,
    exports: BTreeSet<String>,
    has_entry: bool,
    wrong_entry: Option<&'static str>,
    refused_import: Option<Box<Refusal>>,
    start_function: Option<u32>,
    memories: u32,
}

impl Walk {
    /// Goes through a module. `passed` hears, at least for every function body and data segment, up to which
    /// offset everything has been read; all the rest is small.
    pub(crate) fn run(
        &mut self,
        bytes: &[u8],
        features: WasmFeatures,
        passed: &dyn Fn(u64),
    ) -> Result<(), Fault> {
        let mut validator = Validator::new_with_features(features);
        let mut allocations = FuncValidatorAllocations::default();
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload?;
            self.directory(&payload)?;
            self.note(&payload)?;
            if let Payload::DataSection(section) = &payload {
                let segments = self.without_data(section, passed)?;
                let reader = BinaryReader::new(&segments, section.range().start);
                validator.data_section(&DataSectionReader::new(reader)?)?;
                continue;
            }
            match validator.payload(&payload)? {
                ValidPayload::Func(function, body) => {
                    let mut function = function.into_validator(allocations);
                    self.body(&mut function, &body)?;
                    allocations = function.into_allocations();
                    passed(body.range().end);
                }
                ValidPayload::End(types) => {
                    let is_outermost = self.open.len() == 1;
                    self.open.pop();
                    self.instances.end();
                    if is_outermost && let Some(index) = self.start_function {
                        let types = types.as_ref();
                        let signature = types[types.core_function_at(index)].unwrap_func();
                        if !signature.params().is_empty() || !signature.results().is_empty() {
                            self.has_entry = false;
                            self.wrong_entry = Some("_start takes parameters or returns results");
                        }
                    }
                }
                ValidPayload::Ok | ValidPayload::Parser(_) => {}
            }
        }
        Ok(())
    }

    fn is_outermost(&self) -> bool {
        self.open.len() == 1
    }

    /// The same data section with empty segments. The validator looks at all segments at once but never at
    /// their bytes; of the section itself it would have every page in memory.
    fn without_data(
        &mut self,
        section: &DataSectionReader<'_>,
        passed: &dyn Fn(u64),
    ) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::new();
        push_leb(&mut bytes, section.count());
        for segment in section.clone() {
            let segment = segment?;
            let before = bytes.len();
            match segment.kind {
                DataKind::Passive => bytes.push(1),
                DataKind::Active { memory_index, offset_expr } => {
                    bytes.push(2);
                    push_leb(&mut bytes, memory_index);
                    let mut offset = offset_expr.get_binary_reader();
                    bytes.extend_from_slice(offset.read_bytes(offset.bytes_remaining())?);
                }
            }
            bytes.push(0);
            self.counts.directory((bytes.len() - before) as u64)?;
            passed(segment.range.end);
        }
        Ok(bytes)
    }

    /// Counts the bytes of a section that is read whole.
    fn directory(&mut self, payload: &Payload<'_>) -> Result<(), Fault> {
        match payload {
            Payload::CodeSectionStart { .. }
            | Payload::DataSection(_)
            | Payload::CustomSection(_)
            | Payload::ModuleSection { .. }
            | Payload::ComponentSection { .. } => {}
            section => {
                let range = section.as_section().map(|(_, range)| range).unwrap_or_default();
                self.counts.directory(range.end - range.start)?;
            }
        }
        Ok(())
    }

    /// Counts a payload and takes from it what the metadata needs.
    fn note(&mut self, payload: &Payload<'_>) -> Result<(), Fault> {
        match payload {
            Payload::Version { encoding, .. } => {
                self.open.push(*encoding);
                self.instances.begin(*encoding);
                self.memories = 0;
                if self.world.is_none() {
                    self.world = Some(match encoding {
                        Encoding::Module => ModuleWorld::WasiP1,
                        Encoding::Component => ModuleWorld::WasiP2,
                    });
                }
            }
            Payload::TypeSection(section) => self.counts.types(count(section)?)?,
            Payload::ImportSection(section) => {
                self.counts.imports(count(section)?)?;
                for import in section.clone().into_imports() {
                    let import = import?;
                    self.instances.hold(1, FUNCTION_BYTES)?;
                    self.core_import(import.module, import.name, import.ty)?;
                }
            }
            Payload::FunctionSection(section) => {
                self.counts.functions(count(section)?)?;
                self.instances.hold(section.count(), FUNCTION_BYTES)?;
            }
            Payload::TableSection(section) => {
                self.items(count(section)?, TABLE_BYTES)?;
                for table in section.clone() {
                    self.table(table?.ty)?;
                }
            }
            Payload::MemorySection(section) => {
                self.items(count(section)?, TABLE_BYTES)?;
                for memory in section.clone() {
                    self.memory(memory?)?;
                }
            }
            Payload::TagSection(section) => {
                self.items(count(section)?, GLOBAL_BYTES)?;
                self.used.note("exceptions");
            }
            Payload::GlobalSection(section) => self.items(count(section)?, GLOBAL_BYTES)?,
            Payload::ExportSection(section) => {
                Counts::exports(count(section)?)?;
                if self.is_outermost() {
                    for export in section.clone() {
                        let export = export?;
                        self.core_export(export.name, export.kind, export.index);
                    }
                }
            }
            Payload::ElementSection(section) => {
                self.items(count(section)?, TABLE_BYTES)?;
                for element in section.clone() {
                    let entries = match element?.items {
                        wasmparser::ElementItems::Functions(items) => count(&items)?,
                        wasmparser::ElementItems::Expressions(_, items) => count(&items)?,
                    };
                    self.counts.elements(entries)?;
                    self.instances.hold(entries, ELEMENT_BYTES)?;
                }
            }
            Payload::DataSection(section) => self.items(count(section)?, GLOBAL_BYTES)?,
            Payload::CustomSection(section) if self.is_outermost() => self.texts.note(section)?,
            component => self.note_component(component)?,
        }
        Ok(())
    }

    fn note_component(&mut self, payload: &Payload<'_>) -> Result<(), Fault> {
        match payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                self.counts.nested(self.open.len())?;
            }
            Payload::InstanceSection(section) => {
                self.component_items(count(section)?)?;
                for instance in section.clone() {
                    self.instances.core_instance(&instance?)?;
                }
            }
            Payload::CoreTypeSection(section) => self.component_items(count(section)?)?,
            Payload::ComponentInstanceSection(section) => {
                self.component_items(count(section)?)?;
                for instance in section.clone() {
                    self.instances.component_instance(&instance?)?;
                }
            }
            Payload::ComponentAliasSection(section) => {
                self.component_items(count(section)?)?;
                for alias in section.clone() {
                    self.instances.alias(&alias?);
                }
            }
            Payload::ComponentTypeSection(section) => self.component_items(count(section)?)?,
            Payload::ComponentCanonicalSection(section) => self.component_items(count(section)?)?,
            Payload::ComponentImportSection(section) => {
                self.counts.imports(count(section)?)?;
                for import in section.clone() {
                    let import = import?;
                    self.instances.import(import.ty);
                    if self.is_outermost() {
                        self.component_import(import.name.name, import.ty);
                    }
                }
            }
            Payload::ComponentExportSection(section) => {
                Counts::exports(count(section)?)?;
                for export in section.clone() {
                    let export = export?;
                    self.instances.export(export.kind, export.index);
                    if self.is_outermost() {
                        self.component_export(export.name.name, export.kind);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn items(&mut self, more: u32, bytes_each: u64) -> Result<(), Refusal> {
        self.counts.items(more)?;
        self.instances.hold(more, bytes_each)
    }

    fn component_items(&mut self, more: u32) -> Result<(), Refusal> {
        self.counts.component_items(more)?;
        self.instances.hold(more, COMPONENT_ITEM_BYTES)
    }

    fn core_import(&mut self, module: &str, name: &str, ty: TypeRef) -> Result<(), Fault> {
        match ty {
            TypeRef::Table(table) => self.table(table)?,
            TypeRef::Memory(memory) => self.memory(memory)?,
            TypeRef::Tag(_) => self.used.note("exceptions"),
            TypeRef::Func(_) | TypeRef::FuncExact(_) | TypeRef::Global(_) => {}
        }
        if self.is_outermost() {
            self.imports.insert(format!("{module}.{name}"));
            let is_function = matches!(ty, TypeRef::Func(_));
            self.note_refused(imports::check_core(module, name, is_function));
        }
        Ok(())
    }

    fn component_import(&mut self, name: &str, ty: ComponentTypeRef) {
        self.imports.insert(name.to_owned());
        let is_instance = matches!(ty, ComponentTypeRef::Instance(_));
        self.note_refused(imports::check_component(name, is_instance));
    }

    /// Keeps the first refused import: that a module has no entry point is the better news.
    fn note_refused(&mut self, checked: Result<(), Refusal>) {
        if let Err(refusal) = checked
            && self.refused_import.is_none()
        {
            self.refused_import = Some(Box::new(refusal));
        }
    }

    fn core_export(&mut self, name: &str, kind: ExternalKind, index: u32) {
        match (name, kind) {
            ("_start", ExternalKind::Func | ExternalKind::FuncExact) => {
                self.has_entry = true;
                self.start_function = Some(index);
            }
            ("_initialize", _) => self.wrong_entry = Some("it is a library (reactor) with _initialize"),
            _ => {}
        }
        self.exports.insert(name.to_owned());
    }

    fn component_export(&mut self, name: &str, kind: ComponentExternalKind) {
        let (interface, version) = name.split_once('@').unwrap_or((name, ""));
        match interface {
            "wasi:cli/run" if kind == ComponentExternalKind::Instance => {
                self.has_entry = imports::is_0_2(version);
                if !self.has_entry {
                    self.wrong_entry = Some("its wasi:cli/run is not of WASI 0.2");
                }
            }
            "wasi:http/incoming-handler" => self.wrong_entry = Some("it is an HTTP handler"),
            _ => {}
        }
        self.exports.insert(name.to_owned());
    }

    fn table(&mut self, table: TableType) -> Result<(), Fault> {
        if table.table64 {
            self.used.note("memory64");
        }
        Ok(Counts::table_min(table.initial)?)
    }

    fn memory(&mut self, memory: MemoryType) -> Result<(), Fault> {
        self.memories += 1;
        if memory.memory64 {
            self.used.note("memory64");
        }
        if self.memories > 1 {
            self.used.note("multi_memory");
        }
        Ok(Counts::memory_min(memory.initial.saturating_mul(64 << 10))?)
    }

    /// Validates and counts one function body.
    fn body(
        &mut self,
        function: &mut wasmparser::FuncValidator<wasmparser::ValidatorResources>,
        body: &FunctionBody<'_>,
    ) -> Result<(), Fault> {
        let mut counts = BodyCounts::default();
        let range = body.range();
        BodyCounts::size(range.end - range.start)?;
        for group in body.get_locals_reader()? {
            counts.locals(&mut self.counts, group?.0)?;
        }
        let mut reader = body.get_binary_reader();
        function.read_locals(&mut reader)?;
        let mut operators = OperatorsReader::new(reader);
        while !operators.eof() {
            let (operator, offset) = operators.read_with_offset()?;
            self.used.note_operator(&operator);
            match &operator {
                Operator::Block { .. }
                | Operator::Loop { .. }
                | Operator::If { .. }
                | Operator::Else
                | Operator::Try { .. }
                | Operator::TryTable { .. }
                | Operator::BrIf { .. } => counts.block(function.control_stack_height())?,
                Operator::BrTable { targets } => self.counts.branches(targets.len())?,
                _ => {}
            }
            function.op(offset, &operator)?;
        }
        operators.finish()?;
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<ModuleMetadata, Refusal> {
        if !self.has_entry {
            return Err(no_entry(self.wrong_entry));
        }
        if let Some(refusal) = self.refused_import {
            return Err(*refusal);
        }
        Ok(ModuleMetadata {
            world: self.world.unwrap_or(ModuleWorld::WasiP1),
            description: self.texts.description,
            licenses: self.texts.licenses,
            source: self.texts.source,
            imports: self.imports.into_iter().collect(),
            exports: self.exports.into_iter().take(EXPORTS_LISTED_MAX).collect(),
            features: self.used.names(),
            params_schema: self.texts.params_schema,
        })
    }
}

/// How many things a section or segment says that it has. Each of them takes a byte at least.
fn count<T>(section: &SectionLimited<'_, T>) -> Result<u32, Refusal> {
    let bytes = section.range().end - section.range().start;
    if u64::from(section.count()) <= bytes {
        return Ok(section.count());
    }
    let text = format!("a section of {bytes} bytes says that it has {} items", section.count());
    Err(features::invalid(&text))
}

fn push_leb(bytes: &mut Vec<u8>, mut value: u32) {
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn no_entry(wrong_entry: Option<&str>) -> Refusal {
    let detail = match wrong_entry {
        Some(why) => format!("the module cannot be run as a command: {why}"),
        None => "the module exports neither the function _start nor wasi:cli/run@0.2".into(),
    };
    Refusal::new(
        ErrorCode::ModuleNoEntry,
        detail,
        "build it as a command with a main function: for C leave out -mexec-model=reactor, for Rust build \
         a bin target instead of a cdylib",
    )
}
