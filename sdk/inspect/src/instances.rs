//! What instances take of their host: for each function, global, table and element of a module the engine
//! keeps a record in every instance, outside all limits of the guest. So what all instances of a
//! module or component take together is bounded here, before anybody runs it.

use gristmill_protocol::ErrorCode;
use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind, ComponentTypeRef,
    Encoding, Instance,
};

use crate::{complexity::at_most, refusal::Refusal};

/// What all instances may take together, in bytes: a quarter of what an executor may hold beside its
/// guest's memory. Real components take less than a hundredth of it.
const HOST_BYTES_MAX: u64 = 64 << 20;

/// Bytes of one instance without anything in it.
const INSTANCE_BYTES: u64 = 2 << 10;
/// Bytes of a function, imported ones included: its import or its reference.
pub(crate) const FUNCTION_BYTES: u64 = 48;
/// Bytes of a global, a tag or a data segment.
pub(crate) const GLOBAL_BYTES: u64 = 32;
/// Bytes of a table, a memory or an element segment, without its content.
pub(crate) const TABLE_BYTES: u64 = 512;
/// Bytes of an entry of an element segment.
pub(crate) const ELEMENT_BYTES: u64 = 16;
/// Bytes of a component's type, alias, instance or function.
pub(crate) const COMPONENT_ITEM_BYTES: u64 = 64;

/// The modules and components that are open, the innermost last.
#[derive(Debug, Default)]
pub(crate) struct Instances {
    open: Vec<Open>,
}

/// One that is open, with what those take that it knows by number: `None` for one that is only handed to it.
#[derive(Debug)]
struct Open {
    encoding: Encoding,
    /// What one instance of it takes, with all that it instantiates.
    bytes: u64,
    modules: Vec<Option<u64>>,
    components: Vec<Option<u64>>,
}

impl Instances {
    /// A module or component begins.
    pub(crate) fn begin(&mut self, encoding: Encoding) {
        self.open.push(Open { encoding, bytes: INSTANCE_BYTES, modules: Vec::new(), components: Vec::new() });
    }

    /// The innermost one ends, and has a number in the one around it.
    pub(crate) fn end(&mut self) {
        let (Some(ended), Some(around)) = (self.open.pop(), self.open.last_mut()) else { return };
        match ended.encoding {
            Encoding::Module => around.modules.push(Some(ended.bytes)),
            Encoding::Component => around.components.push(Some(ended.bytes)),
        }
    }

    /// So many things of so many bytes each stand in the innermost one.
    pub(crate) fn hold(&mut self, count: u32, bytes_each: u64) -> Result<(), Refusal> {
        self.add(u64::from(count).saturating_mul(bytes_each))
    }

    fn add(&mut self, bytes: u64) -> Result<(), Refusal> {
        let Some(open) = self.open.last_mut() else { return Ok(()) };
        open.bytes = open.bytes.saturating_add(bytes);
        at_most("instances that take a number of bytes of their host", open.bytes, HOST_BYTES_MAX)
    }

    pub(crate) fn core_instance(&mut self, instance: &Instance<'_>) -> Result<(), Refusal> {
        let Instance::Instantiate { module_index, .. } = instance else { return Ok(()) };
        self.instantiate(|open| &open.modules, *module_index)
    }

    pub(crate) fn component_instance(&mut self, instance: &ComponentInstance<'_>) -> Result<(), Refusal> {
        let ComponentInstance::Instantiate { component_index, .. } = instance else { return Ok(()) };
        self.instantiate(|open| &open.components, *component_index)
    }

    fn instantiate(&mut self, those: fn(&Open) -> &Vec<Option<u64>>, index: u32) -> Result<(), Refusal> {
        match self.open.last().and_then(|open| those(open).get(index as usize)) {
            Some(Some(bytes)) => self.add(*bytes),
            Some(None) => Err(Refusal::new(
                ErrorCode::ModuleTooComplex,
                "the component instantiates a module or component that it is handed, whose size is not known",
                "let each component define the modules and components that it instantiates",
            )),
            // The validator says that there is none.
            None => Ok(()),
        }
    }

    pub(crate) fn import(&mut self, ty: ComponentTypeRef) {
        match ty {
            ComponentTypeRef::Module(_) => self.name(ComponentExternalKind::Module, None),
            ComponentTypeRef::Component(_) => self.name(ComponentExternalKind::Component, None),
            _ => {}
        }
    }

    /// What is exported gets a further number.
    pub(crate) fn export(&mut self, kind: ComponentExternalKind, index: u32) {
        let Some(open) = self.open.last() else { return };
        let known = match kind {
            ComponentExternalKind::Module => &open.modules,
            ComponentExternalKind::Component => &open.components,
            _ => return,
        };
        self.name(kind, known.get(index as usize).copied().flatten());
    }

    pub(crate) fn alias(&mut self, alias: &ComponentAlias<'_>) {
        match alias {
            ComponentAlias::InstanceExport { kind, .. } => self.name(*kind, None),
            ComponentAlias::CoreInstanceExport { .. } => {}
            ComponentAlias::Outer { kind, count, index } => {
                let outer = self.open.iter().rev().nth(*count as usize);
                let known = |those: fn(&Open) -> &Vec<Option<u64>>| {
                    outer.and_then(|open| those(open).get(*index as usize).copied().flatten())
                };
                match kind {
                    ComponentOuterAliasKind::CoreModule => {
                        self.name(ComponentExternalKind::Module, known(|open| &open.modules));
                    }
                    ComponentOuterAliasKind::Component => {
                        self.name(ComponentExternalKind::Component, known(|open| &open.components));
                    }
                    ComponentOuterAliasKind::CoreType | ComponentOuterAliasKind::Type => {}
                }
            }
        }
    }

    /// A module or component gets a number in the innermost one.
    fn name(&mut self, kind: ComponentExternalKind, bytes: Option<u64>) {
        let Some(open) = self.open.last_mut() else { return };
        match kind {
            ComponentExternalKind::Module => open.modules.push(bytes),
            ComponentExternalKind::Component => open.components.push(bytes),
            _ => {}
        }
    }
}
