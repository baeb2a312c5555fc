//! WASI preview 1: the engine's implementation with the disk, handle and log limits around it.
//!
//! Everything is passed on, and only what makes, grows or removes something on disk, opens or closes
//! a handle, writes to the log, sleeps or exits is looked at.

use std::sync::Arc;

use wasmtime_wasi::p1::{
    WasiP1Ctx,
    types::{
        Ciovec, CiovecArray, Errno, Error, Fd, Fdflags, Filesize, Filestat, Filetype, Lookupflags, Oflags,
        Rights, Size,
    },
    wasi_snapshot_preview1::WasiSnapshotPreview1 as _,
};
use wiggle::{GuestMemory, GuestPtr};

use super::{
    clock::{START, VirtualClock},
    component_files::OpenListings,
    files::{Files, Handle},
    listing::{self, Entry, Listing, Listings},
};
use crate::{disk::FileId, fault::Halt, log::Log};

/// Buffers looked at in one call; more make a short write, which every program expects.
const BUFFERS_MAX: usize = 1_024;
/// Descriptors opened to get a certain number; the engine hands out those that were closed before.
const OCCUPY_TRIES: usize = 64;
/// Most bytes of one directory's listing.
const LISTING_BYTES_MAX: usize = 1 << 30;

/// The state behind preview 1.
pub(crate) struct P1 {
    pub(crate) wasi: WasiP1Ctx,
    pub(crate) files: Files,
    log: Arc<Log>,
    pub(super) listings: Listings,
    component_listings: OpenListings,
    pub(crate) virtual_clock: Option<VirtualClock>,
}

impl P1 {
    pub(crate) fn new(
        wasi: WasiP1Ctx,
        files: Files,
        log: Arc<Log>,
        virtual_clock: Option<VirtualClock>,
    ) -> Self {
        let (listings, component_listings) = (Listings::default(), OpenListings::default());
        Self { wasi, files, log, listings, component_listings, virtual_clock }
    }

    /// What the file system of a component needs.
    pub(crate) fn parts(&mut self) -> (&mut WasiP1Ctx, &mut Files, &mut OpenListings) {
        (&mut self.wasi, &mut self.files, &mut self.component_listings)
    }

    /// Reads and writes of files copy nothing into the host's memory, so the bound on what one call
    /// may copy would only break programs that use large buffers.
    pub(super) fn lift_copy_bound(&mut self) {
        self.wasi.set_hostcall_fuel(usize::MAX);
    }

    /// What the guest sees of a file's metadata; `is_own` tells its own files from inputs, which may
    /// have further names in the node's cache.
    pub(super) fn shown(&mut self, mut stat: Filestat, is_own: bool) -> Filestat {
        if self.files.reproducible() {
            let start_ns = START.as_nanos() as u64;
            (stat.atim, stat.mtim, stat.ctim) = (start_ns, start_ns, start_ns);
            stat.ino = self.files.shown_inode(stat.ino);
            if stat.filetype == Filetype::Directory {
                // It depends on the host's file system, and so does the number of links.
                stat.size = 0;
            }
            if stat.filetype == Filetype::Directory || !is_own {
                stat.nlink = 1;
            }
        }
        stat
    }

    /// Metadata of a name itself, if it exists.
    pub(super) async fn stat_name(
        &mut self,
        mem: &mut GuestMemory<'_>,
        dir: Fd,
        flags: Lookupflags,
        path: GuestPtr<str>,
    ) -> Option<Filestat> {
        self.wasi.path_filestat_get(mem, dir, flags, path).await.ok()
    }

    /// Corrects a file's size after a change that failed or was done in part.
    pub(super) async fn settle(&mut self, mem: &mut GuestMemory<'_>, fd: Fd, id: FileId) {
        if let Ok(stat) = self.wasi.fd_filestat_get(mem, fd).await {
            self.files.disk().settle(id, stat.size);
        }
    }

    pub(super) async fn write(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: Fd,
        buffers: CiovecArray,
        at: Option<Filesize>,
    ) -> Result<Size, Error> {
        match (self.files.get(fd.into()), at) {
            (Handle::Log(stream), None) => {
                let mut written: Size = 0;
                for buffer in buffers.iter().take(BUFFERS_MAX) {
                    let Ciovec { buf, buf_len } = mem.read(buffer?)?;
                    let bytes = mem.as_cow(buf.as_array(buf_len))?;
                    self.files.traffic().note_written(bytes.len());
                    self.log.write_all(stream, &bytes).await;
                    written = written.saturating_add(buf_len);
                }
                Ok(written)
            }
            (Handle::File { id, append, writable: true }, _) => {
                let start = match at {
                    _ if append => self.files.disk().size(id),
                    Some(offset) => offset,
                    None => self.wasi.fd_tell(mem, fd)?,
                };
                let len = first_len(mem, buffers)?;
                if len > 0 {
                    self.files.disk().extend(id, start.saturating_add(len.into())).map_err(trap)?;
                }
                let result = self.write_through(mem, fd, buffers, at).await;
                if !matches!(result, Ok(written) if written == len) {
                    self.settle(mem, fd, id).await;
                }
                self.files.traffic().note_written(*result.as_ref().unwrap_or(&0) as usize);
                result
            }
            _ => self.write_through(mem, fd, buffers, at).await,
        }
    }

    async fn write_through(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: Fd,
        buffers: CiovecArray,
        at: Option<Filesize>,
    ) -> Result<Size, Error> {
        self.lift_copy_bound();
        match at {
            Some(offset) => self.wasi.fd_pwrite(mem, fd, buffers, offset).await,
            None => self.wasi.fd_write(mem, fd, buffers).await,
        }
    }

    /// Takes up a handle that was opened below a writable directory.
    pub(super) async fn adopt(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: Fd,
        append: bool,
        writable: bool,
        size_before: Option<u64>,
    ) -> Result<(), Error> {
        // Only files have a position; asking for it costs no system call.
        let handle = if self.wasi.fd_tell(mem, fd).is_err() {
            Handle::Dir { writable: true }
        } else {
            let stat = self.wasi.fd_filestat_get(mem, fd).await?;
            let id = FileId(stat.dev, stat.ino);
            self.files.disk().opened(id, size_before.unwrap_or(stat.size), stat.size);
            Handle::File { id, append, writable }
        };
        self.files.insert(fd.into(), handle);
        Ok(())
    }

    /// Makes the closed number of a standard stream denote something. A descriptor moves only onto an
    /// open one, but programs that redirect their output, such as Yosys, move a file to where they
    /// moved stdout away, as `dup2` allows.
    pub(super) async fn occupy(&mut self, number: u32) {
        let Some(dir) = self.files.any_dir() else { return };
        let mut path = *b".";
        let mut scratch = GuestMemory::Unshared(&mut path);
        let none = Rights::empty();
        let mut others = Vec::new();
        for _ in 0..OCCUPY_TRIES {
            let path = GuestPtr::new((0, 1));
            let opened = self
                .wasi
                .path_open(
                    &mut scratch,
                    dir.into(),
                    Lookupflags::empty(),
                    path,
                    Oflags::DIRECTORY,
                    none,
                    none,
                    Fdflags::empty(),
                )
                .await;
            match opened {
                Ok(fd) if u32::from(fd) != number => others.push(fd),
                _ => break,
            }
        }
        for fd in others {
            // It was just opened, so closing it cannot fail.
            _ = self.wasi.fd_close(&mut scratch, fd).await;
        }
    }

    /// Reads a directory; `NOMEM` when the listing is more than the guest's memory limit leaves.
    pub(super) async fn list(&mut self, fd: Fd) -> Result<Listing, Error> {
        let mut size = 64 << 10;
        loop {
            let _held = self.files.memory().hold(size).ok_or(Errno::Nomem)?;
            // The engine lays the entries out for a guest; here the guest's memory is a host buffer.
            let mut buffer = vec![0; size];
            let mut scratch = GuestMemory::Unshared(&mut buffer);
            let used = self.wasi.fd_readdir(&mut scratch, fd, GuestPtr::new(0), size as Size, 0).await?;
            if (used as usize) < size {
                let mut entries = listing::parse(&buffer[..used as usize]);
                for entry in &mut entries {
                    entry.inode = self.files.shown_inode(entry.inode);
                }
                let bytes = entries.iter().map(Entry::bytes).sum();
                let held = self.files.memory().hold(bytes).ok_or(Errno::Nomem)?;
                return Ok(Listing::new(entries, held));
            }
            size *= 8;
            if size > LISTING_BYTES_MAX {
                return Err(Errno::Nomem.into());
            }
        }
    }

    /// A name is gone, or was replaced.
    pub(super) fn name_removed(&mut self, stat: &Filestat) {
        if stat.filetype == Filetype::Directory || stat.nlink <= 1 {
            self.files.forget_inode(stat.ino);
        }
        let file = (stat.filetype == Filetype::RegularFile).then_some((
            FileId(stat.dev, stat.ino),
            stat.size,
            stat.nlink,
        ));
        self.files.disk().entry_removed(file);
    }

    pub(super) fn name_added(&mut self) -> Result<(), Error> {
        self.files.disk().entry_added().map_err(trap)
    }
}

/// Ends the guest from inside a call.
pub(super) fn trap(halt: Halt) -> Error {
    Error::trap(halt.into())
}

/// Length of the first buffer that is not empty, the only one that a write to a file takes.
fn first_len(mem: &GuestMemory<'_>, buffers: CiovecArray) -> Result<Size, Error> {
    for buffer in buffers.iter() {
        let Ciovec { buf_len, .. } = mem.read(buffer?)?;
        if buf_len > 0 {
            return Ok(buf_len);
        }
    }
    Ok(0)
}
