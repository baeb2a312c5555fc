//! Compiled code, mapped from an open file.
//!
//! The file is handed over open, because the process may not open it itself. Its pages are shared by all
//! processes that map it, and only what is written to (relocations, if any) becomes private.

use std::{fs::File, os::unix::fs::MetadataExt as _, ptr::NonNull};

use memmap2::{Mmap, MmapOptions};
use rustix::mm::{MprotectFlags, mprotect};
use wasmtime::{CustomCodeMemory, Engine, Module, component::Component};

/// Makes code executable, wherever its memory comes from. The engine itself does so only for memory
/// that it mapped.
pub(crate) struct ExecutablePages;

impl CustomCodeMemory for ExecutablePages {
    fn required_alignment(&self) -> usize {
        rustix::param::page_size()
    }

    fn publish_executable(&self, start: *const u8, bytes: usize) -> wasmtime::Result<()> {
        protect(start, bytes, MprotectFlags::READ | MprotectFlags::EXEC)
    }

    fn unpublish_executable(&self, start: *const u8, bytes: usize) -> wasmtime::Result<()> {
        protect(start, bytes, MprotectFlags::READ)
    }
}

#[expect(unsafe_code, reason = "changing the protection of pages of code")]
fn protect(start: *const u8, bytes: usize, flags: MprotectFlags) -> wasmtime::Result<()> {
    // SAFETY: the engine names whole pages of code that it owns or was given, and changes them no more.
    unsafe { mprotect(start.cast_mut().cast(), bytes, flags) }
        .map_err(|error| wasmtime::format_err!("the protection of code cannot be set: {error}"))
}

/// Loads a core module.
#[expect(unsafe_code, reason = "loading compiled code; only the node's own compile child writes it")]
pub(crate) fn load_module(engine: &Engine, file: &File) -> wasmtime::Result<Module> {
    let file = file.try_clone()?;
    // SAFETY: the node checked that the file is what its compile child wrote.
    unsafe { Module::deserialize_open_file(engine, file) }
}

/// Loads a component. Its mapping stays for the life of the process, which keeps the modules that it
/// used last and serves a bounded number of runs.
#[expect(unsafe_code, reason = "loading compiled code; only the node's own compile child writes it")]
pub(crate) fn load_component(engine: &Engine, file: &File) -> wasmtime::Result<Component> {
    let mapped = map(file)?;
    let memory = NonNull::from(&mapped[..]);
    // SAFETY: the node checked that the file is what its compile child wrote; the mapping is private,
    // whole pages, never written to and, being leaked below, never unmapped.
    let component = unsafe { Component::deserialize_raw(engine, memory) }?;
    std::mem::forget(mapped);
    Ok(component)
}

#[expect(unsafe_code, reason = "mapping a file")]
fn map(file: &File) -> wasmtime::Result<Mmap> {
    let bytes = usize::try_from(file.metadata()?.size())?;
    // SAFETY: files of compiled code are written once, before they get their name, and never changed.
    Ok(unsafe { MmapOptions::new().len(bytes).map_copy_read_only(file) }?)
}
