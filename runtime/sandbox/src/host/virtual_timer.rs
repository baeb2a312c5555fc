//! `wasi:clocks/monotonic-clock` 0.2: the engine's own, or timers on the virtual clock.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use wasmtime::component::{HasData, Resource};
use wasmtime_wasi::{
    WasiView as _,
    clocks::WasiClocksCtxView,
    p2::{DynPollable, Pollable, bindings::clocks::monotonic_clock, subscribe},
};

use super::{Host, clock::VirtualClock};

/// The linker's name for [`TimersView`].
pub(crate) struct Timers;

impl HasData for Timers {
    type Data<'a> = TimersView<'a>;
}

/// The monotonic clock of one component for the length of one call.
pub(crate) struct TimersView<'a> {
    engine: WasiClocksCtxView<'a>,
    virtual_clock: Option<VirtualClock>,
}

/// A timer that lets time pass instead of waiting for it, so what a poll answers does not depend on
/// how busy the machine is.
struct VirtualTimer {
    clock: VirtualClock,
    at_ns: u64,
}

impl Pollable for VirtualTimer {
    fn ready<'life, 'future>(&'life mut self) -> Pin<Box<dyn Future<Output = ()> + Send + 'future>>
    where
        'life: 'future,
        Self: 'future,
    {
        Box::pin(VirtualWait { clock: self.clock.clone(), at_ns: self.at_ns, is_waiting: false })
    }
}

/// One wait for a [`VirtualTimer`]. All that a guest waits for at a time is looked at before time passes:
/// what is ready comes first, then the earliest timer, and the others go on waiting.
struct VirtualWait {
    clock: VirtualClock,
    at_ns: u64,
    is_waiting: bool,
}

impl Future for VirtualWait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if !self.is_waiting {
            // A guest may ask again and again whether the moment has come.
            self.clock.look();
        }
        if self.at_ns <= self.clock.read_ns() {
            return Poll::Ready(());
        }
        if !self.is_waiting {
            self.is_waiting = true;
            self.clock.wait_for(self.at_ns);
            // A second round, in which time passes unless the first one found something ready.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.clock.next_wait() != Some(self.at_ns) {
            return Poll::Pending;
        }
        self.clock.advance_to(self.at_ns);
        Poll::Ready(())
    }
}

impl Drop for VirtualWait {
    fn drop(&mut self) {
        if self.is_waiting {
            self.clock.wait_no_more(self.at_ns);
        }
    }
}

impl<'a> TimersView<'a> {
    pub(crate) fn new(host: &'a mut Host) -> Self {
        let virtual_clock = host.p1.virtual_clock.clone();
        let view = host.ctx();
        Self { engine: WasiClocksCtxView { ctx: view.ctx.clocks(), table: view.table }, virtual_clock }
    }

    fn timer(&mut self, clock: VirtualClock, at_ns: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let timer = self.engine.table.push(VirtualTimer { clock, at_ns })?;
        subscribe(self.engine.table, timer)
    }
}

impl monotonic_clock::Host for TimersView<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.engine.now()
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        self.engine.resolution()
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        match self.virtual_clock.clone() {
            Some(clock) => self.timer(clock, when),
            None => self.engine.subscribe_instant(when),
        }
    }

    fn subscribe_duration(&mut self, duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        match self.virtual_clock.clone() {
            Some(clock) => {
                let at_ns = clock.read_ns().saturating_add(duration);
                self.timer(clock, at_ns)
            }
            None => self.engine.subscribe_duration(duration),
        }
    }
}
