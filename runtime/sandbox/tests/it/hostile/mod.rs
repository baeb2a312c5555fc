//! Guests that mean harm, each with the outcome it has to have. The numbers are those of the list in
//! `tests/it/hostile` at the top of the repository.

mod components;
mod cpu;
mod files;
mod host_api;
mod memory;
mod output;
mod paths;

use std::time::{Duration, Instant};

use gristmill_channel::StopReason;
use gristmill_protocol::LimitsSpec;

use crate::guest::{Ended, Guest};

/// Fuel that no test uses up.
const ENDLESS: u64 = 1 << 60;

/// A wall time, and fuel that does not end before it.
fn wall_ms(ms: u64) -> impl FnOnce(&mut LimitsSpec) {
    move |limits| {
        limits.wall_time_ms = Some(ms);
        limits.fuel = Some(ENDLESS);
    }
}

/// A memory limit.
fn memory(bytes: u64) -> impl FnOnce(&mut LimitsSpec) {
    move |limits| limits.memory_bytes = Some(bytes)
}

/// Runs a guest and cancels it after a while; answers how long the stop took too.
fn cancel_after(guest: &mut Guest, delay: Duration) -> (Ended, Duration) {
    let (sender, stopped) = std::sync::mpsc::channel();
    let ended = guest.run_with(move |control| {
        std::thread::sleep(delay);
        sender.send(Instant::now()).expect("the test waits");
        control.stop(StopReason::Cancelled);
    });
    let elapsed = stopped.recv().expect("was stopped").elapsed();
    (ended, elapsed)
}
