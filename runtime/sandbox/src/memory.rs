//! The memory limit: one sum over everything that a guest holds, in its own memories and tables and
//! in what the host keeps for it.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use wasmtime::ResourceLimiter;

/// Bytes that one table element takes in the host, the widest kind.
const TABLE_ELEMENT_BYTES: usize = 8;
/// What a 32-bit memory can hold.
const ADDRESSABLE_BYTES: usize = 1 << 32;
/// Instances, memories and tables of one guest; real components have a few dozen.
const PARTS_MAX: usize = 1_000;

/// What one guest holds, shared by everything that takes memory for it.
#[derive(Debug)]
pub(crate) struct MemoryAccount {
    limit_bytes: u64,
    used_bytes: AtomicU64,
    peak_bytes: AtomicU64,
    /// What was refused last because of the limit.
    refused: Mutex<Option<RefusedMemory>>,
}

/// Memory that a guest did not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RefusedMemory {
    /// What it held then, in bytes.
    pub(crate) held_bytes: u64,
    /// How much more it wanted, in bytes.
    pub(crate) asked_bytes: u64,
}

impl MemoryAccount {
    pub(crate) fn new(limit_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            limit_bytes,
            used_bytes: AtomicU64::new(0),
            peak_bytes: AtomicU64::new(0),
            refused: Mutex::new(None),
        })
    }

    /// What the guest was refused last, so that a failure that follows is put down to it.
    pub(crate) fn refused(&self) -> Option<RefusedMemory> {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_refused(&self, held_bytes: u64, asked_bytes: u64) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused = Some(RefusedMemory { held_bytes, asked_bytes });
    }

    /// The largest sum so far, in bytes.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.peak_bytes.load(Ordering::Relaxed)
    }

    /// Takes memory that the host holds for the guest until the answer is dropped; `None`, and on
    /// record, beyond the limit.
    pub(crate) fn hold(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        let bytes = bytes as u64;
        self.take(bytes).then(|| Held { account: Arc::clone(self), bytes })
    }

    fn take(&self, bytes: u64) -> bool {
        let within = |used: u64| used.checked_add(bytes).filter(|total| *total <= self.limit_bytes);
        let taken = self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within);
        match taken {
            Ok(before) => _ = self.peak_bytes.fetch_max(before + bytes, Ordering::Relaxed),
            Err(used) => self.note_refused(used, bytes),
        }
        taken.is_ok()
    }

    fn give_back(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        // The closure always answers, so this cannot fail.
        _ = self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// Memory of the host that is held for a guest. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    account: Arc<MemoryAccount>,
    bytes: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.account.give_back(self.bytes);
    }
}

/// Counts the memories, tables and the exception heap of one guest as the engine grows them.
pub(crate) struct MemoryMeter {
    account: Arc<MemoryAccount>,
    /// The growth of a memory just approved, taken back if the host then cannot provide it.
    pending_bytes: u64,
}

impl MemoryMeter {
    pub(crate) fn new(account: Arc<MemoryAccount>) -> Self {
        Self { account, pending_bytes: 0 }
    }

    /// What the guest holds.
    pub(crate) fn account(&self) -> &Arc<MemoryAccount> {
        &self.account
    }
}

impl ResourceLimiter for MemoryMeter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.pending_bytes = 0;
        let by_bytes = desired.saturating_sub(current) as u64;
        if let Some(maximum) = maximum.filter(|maximum| desired > *maximum) {
            // A maximum of its own making is the program's business; what 32 bits can address is not.
            if maximum >= ADDRESSABLE_BYTES {
                let held = self.account.used_bytes.load(Ordering::Relaxed);
                self.account.note_refused(held, by_bytes);
            }
            return Ok(false);
        }
        let granted = self.account.take(by_bytes);
        if granted {
            self.pending_bytes = by_bytes;
        }
        Ok(granted)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.account.give_back(std::mem::take(&mut self.pending_bytes));
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.pending_bytes = 0;
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let elements = desired.saturating_sub(current);
        Ok(self.account.take(elements.saturating_mul(TABLE_ELEMENT_BYTES) as u64))
    }

    /// Takes nothing back: the engine also calls this for growth that it never asked about (a size
    /// that overflows), so a guest could make its earlier growth free with it.
    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        Ok(())
    }

    fn instances(&self) -> usize {
        PARTS_MAX
    }

    fn tables(&self) -> usize {
        PARTS_MAX
    }

    fn memories(&self) -> usize {
        PARTS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(limit: u64) -> MemoryMeter {
        MemoryMeter::new(MemoryAccount::new(limit))
    }

    #[test]
    fn memories_tables_and_what_the_host_holds_share_one_limit() {
        let mut meter = meter(1_000);
        assert!(meter.memory_growing(0, 500, None).expect("counts"));
        assert!(meter.table_growing(0, 50, None).expect("counts"));
        let held = meter.account().hold(100).expect("fits");
        assert_eq!(meter.account().refused(), None);
        assert!(!meter.memory_growing(0, 1, None).expect("counts"));
        assert!(meter.account().hold(7).is_none());
        let refused = RefusedMemory { held_bytes: 1_000, asked_bytes: 7 };
        assert_eq!(meter.account().refused(), Some(refused), "the last one");
        drop(held);
        assert!(meter.memory_growing(0, 100, None).expect("counts"), "what was dropped is free again");
        assert_eq!(meter.account().peak_bytes(), 1_000);
    }

    #[test]
    fn a_growth_that_the_host_could_not_provide_is_not_charged() {
        let mut meter = meter(1_000);
        assert!(meter.memory_growing(0, 900, None).expect("counts"));
        meter.memory_grow_failed(wasmtime::format_err!("no memory")).expect("rolls back");
        assert!(meter.memory_growing(0, 1_000, None).expect("counts"));
    }

    #[test]
    fn a_table_growth_that_failed_makes_no_earlier_growth_free() {
        let mut meter = meter(1_000);
        assert!(meter.memory_growing(0, 500, None).expect("counts"));
        assert!(meter.table_growing(0, 50, None).expect("counts"));
        meter.table_grow_failed(wasmtime::format_err!("overflow")).expect("is noted");
        meter.memory_grow_failed(wasmtime::format_err!("no memory")).expect("is noted");
        assert!(!meter.memory_growing(500, 700, None).expect("counts"));
    }

    #[test]
    fn a_refused_growth_that_is_then_reported_as_failed_gives_nothing_back() {
        let mut meter = meter(1_000);
        assert!(meter.memory_growing(0, 900, None).expect("counts"));
        assert!(!meter.memory_growing(900, 1_100, None).expect("counts"));
        meter.memory_grow_failed(wasmtime::format_err!("refused")).expect("rolls back");
        assert!(!meter.memory_growing(900, 1_100, None).expect("counts"));
    }

    #[test]
    fn a_memorys_own_maximum_is_no_refusal_of_the_limit() {
        let mut meter = meter(1_000);
        assert!(!meter.memory_growing(0, 900, Some(800)).expect("counts"));
        assert!(!meter.table_growing(0, 9, Some(8)).expect("counts"));
        assert_eq!(meter.account().refused(), None);
        assert!(!meter.memory_growing(0, 5 << 30, Some(4 << 30)).expect("counts"));
        assert!(meter.account().refused().is_some(), "but the end of what 32 bits can address is");
    }

    #[test]
    fn an_absurd_growth_is_refused_without_overflow() {
        let mut meter = meter(u64::MAX);
        assert!(meter.memory_growing(0, 10, None).expect("counts"));
        assert!(!meter.memory_growing(0, usize::MAX, None).expect("counts"));
        let mut meter = self::meter(1_000);
        assert!(!meter.table_growing(0, usize::MAX, None).expect("counts"));
    }
}
