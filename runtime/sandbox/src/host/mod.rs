//! What a guest can reach. One file per capability; anything not listed here does not exist for it.

mod clock;
mod component_files;
mod component_stream;
mod files;
mod listing;
mod p1;
mod p1_calls;
mod stdin;
mod virtual_poll;
mod virtual_timer;

use std::{
    collections::HashMap,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    sync::{Arc, Mutex},
};

use files::{Files, Handle};
use gristmill_channel::{MountSpec, RunSpec};
use gristmill_protocol::{attempt::LogStream, module::ModuleWorld};
use wasmtime::{Linker, component};
use wasmtime_wasi::{
    FsPerms, WasiCtxBuilder, WasiCtxView, WasiView,
    p2::bindings::{clocks::monotonic_clock, filesystem::types as filesystem},
};

use crate::{
    control::RunControl,
    disk::Disk,
    log::{Log, LogWriter},
    memory::{MemoryAccount, MemoryMeter},
    run::RunFiles,
};

/// Largest answer to one request for random bytes; the host holds it as a whole.
const RANDOM_BYTES_MAX: u32 = 1 << 20;
/// Handles that the host itself needs beside the guest's: standard streams and what a poll holds.
const HANDLES_SPARE: usize = 64;

/// Everything in a store.
pub(crate) struct Host {
    pub(crate) p1: p1::P1,
    pub(crate) memory: MemoryMeter,
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.p1.wasi.ctx()
    }
}

/// Links WASI preview 1.
pub(crate) fn link_core(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    wasmtime_wasi::p1::wasi_snapshot_preview1::add_to_linker(linker, |host: &mut Host| &mut host.p1)
}

/// Links WASI 0.2; the file system through the disk limit.
pub(crate) fn link_component(linker: &mut component::Linker<Host>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    linker.allow_shadowing(true);
    filesystem::add_to_linker::<Host, component_files::LimitedFiles>(linker, |host| {
        component_files::LimitedFilesView::new(host)
    })?;
    monotonic_clock::add_to_linker::<Host, virtual_timer::Timers>(linker, |host| {
        virtual_timer::TimersView::new(host)
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Builds the guest's world. The text of an error is for people and names no host path.
pub(crate) fn build(
    request: &RunSpec,
    files: RunFiles,
    control: &RunControl,
    log: &Arc<Log>,
) -> Result<Host, String> {
    let limits = &request.limits;
    let mut disk = Disk::new(limits.disk_bytes, limits.disk_files);
    let mut builder = WasiCtxBuilder::new();
    builder
        // The guest has a thread of its own, so file calls need not hop to another one.
        .allow_blocking_current_thread(true)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .max_random_size(RANDOM_BYTES_MAX.into())
        .initial_cwd("/")
        .arg(&request.program)
        .args(&request.args)
        .stdout(LogWriter::new(log, LogStream::Stdout, &control.traffic))
        .stderr(LogWriter::new(log, LogStream::Stderr, &control.traffic));
    for (name, value) in &request.env {
        builder.env(name, value);
    }
    if let Some(file) = files.stdin {
        builder.stdin(stdin::FileInput::of(file, Arc::clone(&control.traffic))?);
    }
    let virtual_clock = request.reproducible.then(|| clock::make_reproducible(&mut builder));
    let mut handles = vec![Handle::Other, Handle::Log(LogStream::Stdout), Handle::Log(LogStream::Stderr)];
    for (mount, directory) in root_first(request, &files.directories)? {
        // The one way to open again what was handed over open, with this process's own rights.
        let host_dir = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let perms = if mount.writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
        let guest_path = &mount.guest_path;
        let failed =
            |error: std::io::Error| format!("the directory for {guest_path} cannot be used: {error}");
        if mount.writable {
            disk.count_existing(Path::new(&host_dir)).map_err(failed)?;
        }
        builder
            .preopened_dir(&host_dir, guest_path, perms)
            .map_err(|_| format!("the directory for {guest_path} cannot be opened"))?;
        handles.push(Handle::Dir { writable: mount.writable });
    }
    let disk = Arc::new(Mutex::new(disk));
    _ = control.disk.set(Arc::clone(&disk));
    let mut wasi = builder.build_p1();
    let handles_max = handles.len() + limits.handles as usize;
    wasi.ctx().table.set_max_capacity(handles_max + HANDLES_SPARE);
    // A component asks for its directories and streams itself.
    let handles =
        if request.world == ModuleWorld::WasiP1 { (0..).zip(handles).collect() } else { HashMap::new() };
    let memory = MemoryAccount::new(limits.memory_bytes);
    _ = control.memory.set(Arc::clone(&memory));
    let traffic = Arc::clone(&control.traffic);
    let files = Files::new(disk, handles, handles_max, request.reproducible, Arc::clone(&memory), traffic);
    Ok(Host {
        p1: p1::P1::new(wasi, files, Arc::clone(log), virtual_clock),
        memory: MemoryMeter::new(memory),
    })
}

/// Programs that know no mounts take the first directory for the working directory.
fn root_first<'a>(
    request: &'a RunSpec,
    directories: &'a [OwnedFd],
) -> Result<Vec<(&'a MountSpec, &'a OwnedFd)>, String> {
    if request.mounts.len() != directories.len() {
        return Err("there is not one directory for each mount".to_owned());
    }
    let mut sorted: Vec<_> = request.mounts.iter().zip(directories).collect();
    sorted.sort_by_key(|(mount, _)| (mount.guest_path != "/", mount.guest_path.as_str()));
    Ok(sorted)
}
