//! The calls of WASI preview 1, each with what the limits have to do with it.

use std::time::Duration;

use wasmtime_wasi::p1::{
    types::{
        Advice, CiovecArray, Clockid, Dircookie, Errno, Error, Event, EventFdReadwrite, Eventrwflags,
        Eventtype, Exitcode, Fd, Fdflags, Fdstat, Filedelta, Filesize, Filestat, Fstflags, IovecArray,
        Lookupflags, Oflags, Prestat, Riflags, Rights, Roflags, Sdflags, Siflags, Signal, Size,
        Subclockflags, Subscription, SubscriptionU, Timestamp, Whence,
    },
    wasi_snapshot_preview1::WasiSnapshotPreview1,
};
use wiggle::{GuestMemory, GuestPtr};

use super::{
    RANDOM_BYTES_MAX,
    files::Handle,
    listing,
    p1::{P1, trap},
};
use crate::fault::Halt;

/// The longest path that a kernel takes (`PATH_MAX`).
const PATH_BYTES_MAX: u32 = 4_096;
/// Most random bytes that one call fills in.
const RANDOM_FILL_MAX: Size = 64 << 20;
/// The largest number of a standard stream.
const STREAM_MAX: u32 = 2;

/// A guest that only sleeps: the time, if `subscriptions` is one relative timer.
fn sole_sleep(
    mem: &GuestMemory<'_>,
    subscriptions: GuestPtr<Subscription>,
    count: Size,
) -> Result<Option<(Duration, u64)>, Error> {
    if count != 1 {
        return Ok(None);
    }
    let subscription = mem.read(subscriptions)?;
    Ok(match subscription.u {
        SubscriptionU::Clock(clock)
            if !clock.flags.contains(Subclockflags::SUBSCRIPTION_CLOCK_ABSTIME)
                && matches!(clock.id, Clockid::Realtime | Clockid::Monotonic) =>
        {
            Some((Duration::from_nanos(clock.timeout), subscription.userdata))
        }
        _ => None,
    })
}

macro_rules! pass_on {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $result:ty;)*) => {$(
        fn $name(&mut self, mem: &mut GuestMemory<'_>, $($arg: $ty),*) -> $result {
            self.wasi.$name(mem, $($arg),*)
        }
    )*};
}

macro_rules! pass_on_async {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $result:ty;)*) => {$(
        async fn $name(&mut self, mem: &mut GuestMemory<'_>, $($arg: $ty),*) -> $result {
            self.wasi.$name(mem, $($arg),*).await
        }
    )*};
}

impl WasiSnapshotPreview1 for P1 {
    pass_on! {
        args_get(argv: GuestPtr<GuestPtr<u8>>, argv_buf: GuestPtr<u8>) -> Result<(), Error>;
        args_sizes_get() -> Result<(Size, Size), Error>;
        environ_get(environ: GuestPtr<GuestPtr<u8>>, environ_buf: GuestPtr<u8>) -> Result<(), Error>;
        environ_sizes_get() -> Result<(Size, Size), Error>;
        clock_res_get(id: Clockid) -> Result<Timestamp, Error>;
        clock_time_get(id: Clockid, precision: Timestamp) -> Result<Timestamp, Error>;
        fd_fdstat_set_rights(fd: Fd, base: Rights, inheriting: Rights) -> Result<(), Error>;
        fd_prestat_get(fd: Fd) -> Result<Prestat, Error>;
        fd_prestat_dir_name(fd: Fd, path: GuestPtr<u8>, path_len: Size) -> Result<(), Error>;
        fd_tell(fd: Fd) -> Result<Filesize, Error>;
        proc_raise(signal: Signal) -> Result<(), Error>;
        sched_yield() -> Result<(), Error>;
        sock_accept(fd: Fd, flags: Fdflags) -> Result<Fd, Error>;
        sock_recv(fd: Fd, buffers: IovecArray, flags: Riflags) -> Result<(Size, Roflags), Error>;
        sock_send(fd: Fd, buffers: CiovecArray, flags: Siflags) -> Result<Size, Error>;
    }

    pass_on_async! {
        fd_advise(fd: Fd, offset: Filesize, len: Filesize, advice: Advice) -> Result<(), Error>;
        fd_datasync(fd: Fd) -> Result<(), Error>;
        fd_fdstat_get(fd: Fd) -> Result<Fdstat, Error>;
        fd_filestat_set_times(fd: Fd, atim: Timestamp, mtim: Timestamp, flags: Fstflags) -> Result<(), Error>;
        fd_seek(fd: Fd, offset: Filedelta, whence: Whence) -> Result<Filesize, Error>;
        fd_sync(fd: Fd) -> Result<(), Error>;
        path_filestat_set_times(
            dir: Fd, flags: Lookupflags, path: GuestPtr<str>, atim: Timestamp, mtim: Timestamp, set: Fstflags
        ) -> Result<(), Error>;
        path_readlink(dir: Fd, path: GuestPtr<str>, buf: GuestPtr<u8>, len: Size) -> Result<Size, Error>;
    }

    fn set_hostcall_fuel(&mut self, fuel: usize) {
        self.wasi.set_hostcall_fuel(fuel);
    }

    /// In pieces, so that the host holds one of them at a time; the length is bounded, because nothing
    /// stops the guest in between.
    fn random_get(&mut self, mem: &mut GuestMemory<'_>, buf: GuestPtr<u8>, len: Size) -> Result<(), Error> {
        if len > RANDOM_FILL_MAX {
            let text = format!("{len} random bytes in one call; at most {RANDOM_FILL_MAX} are given");
            return Err(Error::trap(wasmtime::Error::msg(text)));
        }
        let mut done = 0;
        loop {
            let piece = (len - done).min(RANDOM_BYTES_MAX);
            self.wasi.random_get(mem, buf.add(done)?, piece)?;
            done += piece;
            if done == len {
                return Ok(());
            }
        }
    }

    fn fd_fdstat_set_flags(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: Fd,
        flags: Fdflags,
    ) -> Result<(), Error> {
        self.wasi.fd_fdstat_set_flags(mem, fd, flags)?;
        self.files.set_append(fd.into(), flags.contains(Fdflags::APPEND));
        Ok(())
    }

    /// Space is not set aside, which programs have to expect; but more than the limit is never to be had.
    fn fd_allocate(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: Fd,
        offset: Filesize,
        len: Filesize,
    ) -> Result<(), Error> {
        if let Handle::File { id, writable: true, .. } = self.files.get(fd.into()) {
            self.files.disk().check(id, offset.saturating_add(len)).map_err(trap)?;
        }
        self.wasi.fd_allocate(mem, fd, offset, len)
    }

    /// Every code is the guest's own; the engine would make a trap of those from 126 on.
    fn proc_exit(&mut self, _mem: &mut GuestMemory<'_>, code: Exitcode) -> wasmtime::Error {
        Halt::Exit(code.cast_signed()).into()
    }

    async fn fd_close(&mut self, mem: &mut GuestMemory<'_>, fd: Fd) -> Result<(), Error> {
        self.wasi.fd_close(mem, fd).await?;
        self.files.remove(fd.into());
        self.listings.forget(fd.into());
        Ok(())
    }

    /// There are no sockets. A directory is no descriptor for this call, as it is none for reading.
    fn sock_shutdown(&mut self, mem: &mut GuestMemory<'_>, fd: Fd, how: Sdflags) -> Result<(), Error> {
        self.wasi.sock_shutdown(mem, fd, how).map_err(|error| match self.files.get(fd.into()) {
            Handle::Dir { .. } => Errno::Badf.into(),
            _ => error,
        })
    }

    async fn fd_renumber(&mut self, mem: &mut GuestMemory<'_>, from: Fd, to: Fd) -> Result<(), Error> {
        let is_stream = u32::from(to) <= STREAM_MAX;
        if is_stream && self.files.is_open(from.into()) && !self.files.is_open(to.into()) {
            self.occupy(to.into()).await;
        }
        self.wasi.fd_renumber(mem, from, to).await?;
        self.files.renumber(from.into(), to.into());
        self.listings.forget(from.into());
        self.listings.forget(to.into());
        Ok(())
    }

    async fn fd_filestat_get(&mut self, mem: &mut GuestMemory<'_>, fd: Fd) -> Result<Filestat, Error> {
        let stat = self.wasi.fd_filestat_get(mem, fd).await?;
        let is_own = matches!(self.files.get(fd.into()), Handle::File { .. });
        Ok(self.shown(stat, is_own))
    }

    async fn path_filestat_get(
        &mut self,
        mem: &mut GuestMemory<'_>,
        dir: Fd,
        flags: Lookupflags,
        path: GuestPtr<str>,
    ) -> Result<Filestat, Error> {
        let stat = self.wasi.path_filestat_get(mem, dir, flags, path).await?;
        let is_own = self.files.writable_dir(dir.into());
        Ok(self.shown(stat, is_own))
    }

    async fn fd_filestat_set_size(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: Fd,
        size: Filesize,
    ) -> Result<(), Error> {
        let Handle::File { id, writable: true, .. } = self.files.get(fd.into()) else {
            return self.wasi.fd_filestat_set_size(mem, fd, size).await;
        };
        self.files.disk().resize(id, size).map_err(trap)?;
        let result = self.wasi.fd_filestat_set_size(mem, fd, size).await;
        if result.is_err() {
            self.settle(mem, fd, id).await;
        }
        result
    }

    async fn fd_read(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: Fd,
        buffers: IovecArray,
    ) -> Result<Size, Error> {
        self.lift_copy_bound();
        let count = self.wasi.fd_read(mem, fd, buffers).await?;
        // Standard input counts what is read of it itself.
        if self.files.is_file(fd.into()) {
            self.files.traffic().note_read(count as usize);
        }
        Ok(count)
    }

    async fn fd_pread(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: Fd,
        buffers: IovecArray,
        offset: Filesize,
    ) -> Result<Size, Error> {
        self.lift_copy_bound();
        let count = self.wasi.fd_pread(mem, fd, buffers, offset).await?;
        self.files.traffic().note_read(count as usize);
        Ok(count)
    }

    async fn fd_write(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: Fd,
        buffers: CiovecArray,
    ) -> Result<Size, Error> {
        self.write(mem, fd, buffers, None).await
    }

    async fn fd_pwrite(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: Fd,
        buffers: CiovecArray,
        offset: Filesize,
    ) -> Result<Size, Error> {
        self.write(mem, fd, buffers, Some(offset)).await
    }

    async fn fd_readdir(
        &mut self,
        mem: &mut GuestMemory<'_>,
        fd: Fd,
        buf: GuestPtr<u8>,
        len: Size,
        cookie: Dircookie,
    ) -> Result<Size, Error> {
        let number = fd.into();
        if cookie == 0 || self.listings.get(number).is_none() {
            self.listings.forget(number);
            let listing = self.list(fd).await?;
            self.listings.keep(number, listing);
        }
        let entries = self.listings.get(number).unwrap_or_default();
        let start = usize::try_from(cookie).unwrap_or(usize::MAX);
        let bytes = listing::lay_out(entries, start, len as usize);
        mem.copy_from_slice(&bytes, buf.as_array(bytes.len() as Size))?;
        Ok(bytes.len() as Size)
    }

    async fn path_create_directory(
        &mut self,
        mem: &mut GuestMemory<'_>,
        dir: Fd,
        path: GuestPtr<str>,
    ) -> Result<(), Error> {
        self.wasi.path_create_directory(mem, dir, path).await?;
        self.name_added()
    }

    async fn path_link(
        &mut self,
        mem: &mut GuestMemory<'_>,
        old_dir: Fd,
        flags: Lookupflags,
        old: GuestPtr<str>,
        new_dir: Fd,
        new: GuestPtr<str>,
    ) -> Result<(), Error> {
        self.wasi.path_link(mem, old_dir, flags, old, new_dir, new).await?;
        self.name_added()
    }

    async fn path_symlink(
        &mut self,
        mem: &mut GuestMemory<'_>,
        old: GuestPtr<str>,
        dir: Fd,
        new: GuestPtr<str>,
    ) -> Result<(), Error> {
        self.wasi.path_symlink(mem, old, dir, new).await?;
        self.name_added()
    }

    async fn path_open(
        &mut self,
        mem: &mut GuestMemory<'_>,
        dir: Fd,
        lookup: Lookupflags,
        path: GuestPtr<str>,
        oflags: Oflags,
        rights: Rights,
        inheriting: Rights,
        fdflags: Fdflags,
    ) -> Result<Fd, Error> {
        self.files.check_room().map_err(trap)?;
        if !self.files.writable_dir(dir.into()) {
            let fd = self.wasi.path_open(mem, dir, lookup, path, oflags, rights, inheriting, fdflags).await?;
            let handle = match self.wasi.fd_tell(mem, fd) {
                Ok(_) => Handle::Input,
                Err(_) => Handle::Dir { writable: false },
            };
            self.files.insert(fd.into(), handle);
            return Ok(fd);
        }
        let changes = oflags.intersects(Oflags::CREAT | Oflags::TRUNC);
        let before = if changes { self.stat_name(mem, dir, lookup, path).await } else { None };
        let fd = self.wasi.path_open(mem, dir, lookup, path, oflags, rights, inheriting, fdflags).await?;
        if before.is_none() && oflags.contains(Oflags::CREAT) {
            self.name_added()?;
        }
        let writable = changes || rights.contains(Rights::FD_WRITE);
        let append = fdflags.contains(Fdflags::APPEND);
        self.adopt(mem, fd, append, writable, before.map(|stat| stat.size)).await?;
        Ok(fd)
    }

    async fn path_remove_directory(
        &mut self,
        mem: &mut GuestMemory<'_>,
        dir: Fd,
        path: GuestPtr<str>,
    ) -> Result<(), Error> {
        let stat = self.stat_name(mem, dir, Lookupflags::empty(), path).await;
        self.wasi.path_remove_directory(mem, dir, path).await?;
        match stat {
            Some(stat) => self.name_removed(&stat),
            None => self.files.disk().entry_removed(None),
        }
        Ok(())
    }

    async fn path_rename(
        &mut self,
        mem: &mut GuestMemory<'_>,
        old_dir: Fd,
        old: GuestPtr<str>,
        new_dir: Fd,
        new: GuestPtr<str>,
    ) -> Result<(), Error> {
        let flags = Lookupflags::empty();
        let source = self.stat_name(mem, old_dir, flags, old).await;
        let target = self.stat_name(mem, new_dir, flags, new).await;
        self.wasi.path_rename(mem, old_dir, old, new_dir, new).await?;
        // Renaming one name of a file to another of its names changes nothing.
        if let Some(target) = target
            && source.is_none_or(|source| source.ino != target.ino)
        {
            self.name_removed(&target);
        }
        Ok(())
    }

    async fn path_unlink_file(
        &mut self,
        mem: &mut GuestMemory<'_>,
        dir: Fd,
        path: GuestPtr<str>,
    ) -> Result<(), Error> {
        // Of all calls with paths this is the one whose copy the engine does not count.
        if path.len() > PATH_BYTES_MAX {
            return Err(Errno::Nametoolong.into());
        }
        let stat = self.stat_name(mem, dir, Lookupflags::empty(), path).await;
        self.wasi.path_unlink_file(mem, dir, path).await?;
        if let Some(stat) = stat {
            self.name_removed(&stat);
        }
        Ok(())
    }

    async fn poll_oneoff(
        &mut self,
        mem: &mut GuestMemory<'_>,
        subscriptions: GuestPtr<Subscription>,
        events: GuestPtr<Event>,
        count: Size,
    ) -> Result<Size, Error> {
        if let Some(clock) = self.virtual_clock.clone() {
            return self.poll_virtual(&clock, mem, subscriptions, events, count).await;
        }
        // The engine would put the thread to sleep here, out of reach of every limit.
        let Some((time, userdata)) = sole_sleep(mem, subscriptions, count)? else {
            return self.wasi.poll_oneoff(mem, subscriptions, events, count).await;
        };
        tokio::time::sleep(time).await;
        let nothing = EventFdReadwrite { nbytes: 0, flags: Eventrwflags::empty() };
        let event = Event { userdata, error: Errno::Success, type_: Eventtype::Clock, fd_readwrite: nothing };
        mem.write(events, event)?;
        Ok(1)
    }
}
