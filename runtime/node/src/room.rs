//! How much of the node is free.

use std::sync::{Arc, Mutex, PoisonError};

use gristmill_protocol::Limits;
use tokio::sync::Notify;

/// CPU, memory and attempts; signed, because compilers take more for a while than the attempts that they
/// work for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Free {
    pub(crate) cpus_milli: i64,
    pub(crate) memory_bytes: i64,
    pub(crate) attempts: i64,
}

/// The node's room.
#[derive(Debug)]
pub(crate) struct Room {
    left: Mutex<Left>,
    total: Free,
    freed: Notify,
}

/// What is left of the room.
#[derive(Debug, Clone, Copy)]
struct Left {
    /// Beside the attempts.
    by_attempts: Free,
    /// What compilers take beyond that.
    raised_cpus_milli: i64,
    raised_memory_bytes: i64,
}

/// The part of the room that one attempt takes; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    room: Arc<Room>,
    cpus_milli: i64,
    memory_bytes: i64,
}

/// What a compiler takes of the room beyond its attempt's part, which stays reserved too; given back when
/// dropped.
#[derive(Debug)]
pub(crate) struct Raised {
    reserved: Arc<Reserved>,
    cpus_milli: i64,
    memory_bytes: i64,
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl Room {
    pub(crate) fn of(cpus_milli: u32, memory_bytes: u64, attempts_max: u32) -> Arc<Self> {
        let total = Free {
            cpus_milli: cpus_milli.into(),
            memory_bytes: signed(memory_bytes),
            attempts: attempts_max.into(),
        };
        let left = Left { by_attempts: total, raised_cpus_milli: 0, raised_memory_bytes: 0 };
        Arc::new(Self { left: Mutex::new(left), total, freed: Notify::new() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What may be offered: less than nothing while compilers take more than there was.
    pub(crate) fn free(&self) -> Free {
        let left = *self.lock();
        Free {
            cpus_milli: left.by_attempts.cpus_milli - left.raised_cpus_milli,
            memory_bytes: left.by_attempts.memory_bytes.saturating_sub(left.raised_memory_bytes),
            attempts: left.by_attempts.attempts,
        }
    }

    /// Whether nothing is reserved.
    pub(crate) fn is_idle(&self) -> bool {
        self.free() == self.total
    }

    /// Takes what an attempt needs, or `None` when that is more than other attempts leave. What compilers
    /// take does not count: it may have been free when the attempt was asked for.
    pub(crate) fn reserve(self: &Arc<Self>, limits: &Limits) -> Option<Arc<Reserved>> {
        let cpus_milli = i64::from(limits.cpus_milli);
        let memory_bytes = signed(limits.memory_bytes);
        let mut left = self.lock();
        let free = &mut left.by_attempts;
        if free.attempts < 1 || free.cpus_milli < cpus_milli || free.memory_bytes < memory_bytes {
            return None;
        }
        free.attempts -= 1;
        free.cpus_milli -= cpus_milli;
        free.memory_bytes -= memory_bytes;
        Some(Arc::new(Reserved { room: Arc::clone(self), cpus_milli, memory_bytes }))
    }

    /// Waits until there is room for anything at all.
    pub(crate) async fn any(&self) -> Free {
        loop {
            let freed = self.freed.notified();
            let free = self.free();
            if free.attempts > 0 && free.cpus_milli > 0 && free.memory_bytes > 0 {
                return free;
            }
            freed.await;
        }
    }
}

impl Reserved {
    /// Makes the attempt's part at least this large while its compiler works: its guest does not run then.
    /// Never waits, so that less than nothing may be free afterwards.
    pub(crate) fn raise(self: &Arc<Self>, cpus_milli: u32, memory_bytes: u64) -> Raised {
        let cpus_milli = (i64::from(cpus_milli) - self.cpus_milli).max(0);
        let memory_bytes = (signed(memory_bytes) - self.memory_bytes).max(0);
        let mut left = self.room.lock();
        left.raised_cpus_milli += cpus_milli;
        left.raised_memory_bytes = left.raised_memory_bytes.saturating_add(memory_bytes);
        Raised { reserved: Arc::clone(self), cpus_milli, memory_bytes }
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        let room = &self.reserved.room;
        let mut left = room.lock();
        left.raised_cpus_milli -= self.cpus_milli;
        left.raised_memory_bytes -= self.memory_bytes;
        drop(left);
        room.freed.notify_waiters();
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut left = self.room.lock();
        left.by_attempts.attempts += 1;
        left.by_attempts.cpus_milli += self.cpus_milli;
        left.by_attempts.memory_bytes += self.memory_bytes;
        drop(left);
        self.room.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use gristmill_protocol::{LimitsSpec, limits::SlotSize};

    use super::*;

    #[tokio::test]
    async fn room_is_taken_and_given_back() {
        let room = Room::of(4_000, 16 << 30, 10);
        let limits = LimitsSpec::default().resolve(SlotSize::default()).expect("in range");
        let first = room.reserve(&limits).expect("room for one");
        let second = room.reserve(&limits).expect("room for two");
        assert!(room.reserve(&limits).is_none(), "no room for three");
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(10), room.any());
        assert!(waiting.await.is_err(), "nothing is free");
        drop(first);
        assert_eq!(room.any().await.cpus_milli, 2_000);
        drop(second);
        assert!(room.is_idle());
    }

    #[tokio::test]
    async fn a_compiler_takes_what_its_attempt_has_not_and_gives_it_back() {
        let room = Room::of(4_000, 8 << 30, 10);
        let small =
            LimitsSpec { cpus_milli: Some(500), memory_bytes: Some(1 << 30), ..LimitsSpec::default() };
        let small = small.resolve(SlotSize::default()).expect("in range");
        let reserved = room.reserve(&small).expect("room");
        let raised = reserved.raise(2_000, 4 << 30);
        assert_eq!(room.free(), Free { cpus_milli: 2_000, memory_bytes: 4 << 30, attempts: 9 });
        let other = room.reserve(&small).expect("room");
        let too_much = other.raise(2_000, 8 << 30);
        assert_eq!(room.free(), Free { cpus_milli: 0, memory_bytes: -(4 << 30), attempts: 8 });
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(10), room.any());
        assert!(waiting.await.is_err(), "nothing is offered");
        assert!(room.reserve(&small).is_some(), "what was offered before is kept to");

        drop(other);
        assert_eq!(room.free().attempts, 8, "a compiler keeps its attempt's own part as well");
        drop(too_much);
        assert_eq!(room.any().await, Free { cpus_milli: 2_000, memory_bytes: 4 << 30, attempts: 9 });
        assert_eq!(reserved.raise(100, 1).cpus_milli, 0, "its attempt has more than that");
        drop((raised, reserved));
        assert!(room.is_idle());
    }
}
