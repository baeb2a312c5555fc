//! Waiting in the reproducible mode: nothing is waited for, time passes instead.
//!
//! What is ready after a real wait depends on how busy the machine is. Here files and streams are
//! always ready, and where only timers are asked for, time goes on to the first of them.

use std::time::Duration;

use wasmtime_wasi::p1::{
    types::{
        Clockid, Errno, Error, Event, EventFdReadwrite, Eventrwflags, Eventtype, Fd, Filetype, Size,
        Subclockflags, Subscription, SubscriptionU,
    },
    wasi_snapshot_preview1::WasiSnapshotPreview1 as _,
};
use wiggle::{GuestMemory, GuestPtr};

use super::{
    clock::{START, VirtualClock},
    files::Handle,
    p1::P1,
};

/// Subscriptions of one call; programs have as many as they have descriptors.
const SUBSCRIPTIONS_MAX: Size = 16_384;

/// When a subscription is ready: at once, or at a time of the monotonic clock in nanoseconds.
enum Ready {
    Now(EventFdReadwrite),
    At(u64),
}

impl P1 {
    /// `poll_oneoff` on the virtual clock.
    pub(super) async fn poll_virtual(
        &mut self,
        clock: &VirtualClock,
        mem: &mut GuestMemory<'_>,
        subscriptions: GuestPtr<Subscription>,
        events: GuestPtr<Event>,
        count: Size,
    ) -> Result<Size, Error> {
        match count {
            0 => return Err(Errno::Inval.into()),
            1..=SUBSCRIPTIONS_MAX => {}
            _ => return Err(Errno::Nomem.into()),
        }
        let mut all = Vec::with_capacity(count as usize);
        let mut first = u64::MAX;
        for subscription in subscriptions.as_array(count).iter() {
            let subscription = mem.read(subscription?)?;
            let (kind, ready) = match &subscription.u {
                SubscriptionU::Clock(of) => {
                    let absolute = of.flags.contains(Subclockflags::SUBSCRIPTION_CLOCK_ABSTIME);
                    (Eventtype::Clock, Ready::At(due(clock, of.id, of.timeout, absolute)?))
                }
                SubscriptionU::FdRead(of) => {
                    (Eventtype::FdRead, Ready::Now(self.readable(mem, of.file_descriptor).await?))
                }
                SubscriptionU::FdWrite(of) => {
                    (Eventtype::FdWrite, Ready::Now(self.writable(mem, of.file_descriptor).await?))
                }
            };
            first = first.min(match ready {
                Ready::Now(_) => clock.read_ns(),
                Ready::At(at) => at,
            });
            all.push((subscription.userdata, kind, ready));
        }
        clock.advance_to(first);
        let now = clock.read_ns();
        let mut written = 0;
        for (userdata, type_, ready) in all {
            let fd_readwrite = match ready {
                Ready::Now(what) => what,
                Ready::At(at) if at <= now => nothing(),
                Ready::At(_) => continue,
            };
            let event = Event { userdata, error: Errno::Success, type_, fd_readwrite };
            mem.write(events.add(written)?, event)?;
            written += 1;
        }
        Ok(written)
    }

    async fn readable(&mut self, mem: &mut GuestMemory<'_>, fd: Fd) -> Result<EventFdReadwrite, Error> {
        if matches!(self.files.get(fd.into()), Handle::Log(_)) {
            return Err(Errno::Badf.into());
        }
        let stat = self.wasi.fd_filestat_get(mem, fd).await?;
        let at_end = match stat.filetype {
            Filetype::Directory => return Err(Errno::Badf.into()),
            Filetype::RegularFile => self.wasi.fd_tell(mem, fd)? >= stat.size,
            _ => false,
        };
        let flags = if at_end { Eventrwflags::FD_READWRITE_HANGUP } else { Eventrwflags::empty() };
        Ok(EventFdReadwrite { nbytes: 1, flags })
    }

    async fn writable(&mut self, mem: &mut GuestMemory<'_>, fd: Fd) -> Result<EventFdReadwrite, Error> {
        let is_log = matches!(self.files.get(fd.into()), Handle::Log(_));
        let stat = self.wasi.fd_filestat_get(mem, fd).await?;
        if !is_log && stat.filetype != Filetype::RegularFile {
            return Err(Errno::Badf.into());
        }
        Ok(EventFdReadwrite { nbytes: 1, flags: Eventrwflags::empty() })
    }
}

/// When a timer is due on the monotonic clock.
fn due(clock: &VirtualClock, id: Clockid, timeout: u64, absolute: bool) -> Result<u64, Error> {
    match (id, absolute) {
        (Clockid::Monotonic | Clockid::Realtime, false) => Ok(clock.read_ns().saturating_add(timeout)),
        (Clockid::Monotonic, true) => Ok(timeout),
        (Clockid::Realtime, true) => {
            Ok(Duration::from_nanos(timeout).saturating_sub(START).as_nanos() as u64)
        }
        _ => Err(Errno::Inval.into()),
    }
}

fn nothing() -> EventFdReadwrite {
    EventFdReadwrite { nbytes: 0, flags: Eventrwflags::empty() }
}
