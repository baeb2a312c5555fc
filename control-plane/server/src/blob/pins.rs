//! Who works on the bytes of which digest right now: those who store them share a pin, and whoever
//! removes them has a lock of its own.
//!
//! One process owns the embedded edition's bytes, so that a table in its memory is enough. Several
//! servers over one object store keep the same two promises with locks of their database.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gristmill_protocol::Digest;
use tokio::sync::Notify;

/// Who holds a digest.
#[derive(Debug)]
enum Holders {
    /// So many who store it.
    Storing(usize),
    /// One who removes it.
    Removing,
}

#[derive(Debug, Default)]
pub(super) struct Pins {
    held: Mutex<HashMap<Digest, Holders>>,
    unlocked: Notify,
}

/// Keeps bytes from being removed.
#[derive(Debug)]
pub struct BlobPin {
    pins: Arc<Pins>,
    digest: Digest,
}

/// Keeps bytes from being stored while they are removed.
#[derive(Debug)]
pub struct BlobLock {
    pins: Arc<Pins>,
    digest: Digest,
}

impl BlobLock {
    /// What is locked.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl Pins {
    fn held(&self) -> MutexGuard<'_, HashMap<Digest, Holders>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_share(self: &Arc<Self>, digest: Digest) -> Option<BlobPin> {
        let mut held = self.held();
        match held.entry(digest).or_insert(Holders::Storing(0)) {
            Holders::Storing(count) => *count += 1,
            Holders::Removing => return None,
        }
        Some(BlobPin { pins: Arc::clone(self), digest })
    }

    /// Waits while the bytes are being removed, which takes milliseconds.
    pub(super) async fn share(self: &Arc<Self>, digest: Digest) -> BlobPin {
        loop {
            let unlocked = self.unlocked.notified();
            if let Some(pin) = self.try_share(digest) {
                return pin;
            }
            unlocked.await;
        }
    }

    pub(super) fn try_lock(self: &Arc<Self>, digest: Digest) -> Option<BlobLock> {
        let mut held = self.held();
        if held.contains_key(&digest) {
            return None;
        }
        held.insert(digest, Holders::Removing);
        Some(BlobLock { pins: Arc::clone(self), digest })
    }
}

impl Drop for BlobPin {
    fn drop(&mut self) {
        let mut held = self.pins.held();
        match held.get_mut(&self.digest) {
            Some(Holders::Storing(count)) if *count > 1 => *count -= 1,
            _ => drop(held.remove(&self.digest)),
        }
    }
}

impl Drop for BlobLock {
    fn drop(&mut self) {
        self.pins.held().remove(&self.digest);
        self.pins.unlocked.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_are_removed_only_while_nobody_stores_them() {
        let pins: Arc<Pins> = Arc::default();
        let digest = Digest::from_bytes([1; 32]);
        let (first, second) = (pins.share(digest).await, pins.share(digest).await);
        drop(first);
        assert!(pins.try_lock(digest).is_none());
        drop(second);
        let lock = pins.try_lock(digest).expect("nobody stores them");
        assert!(pins.try_lock(digest).is_none(), "one removes");
        let waiting = pins.share(digest);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(lock);
        let pin = waiting.await;
        assert!(pins.try_lock(digest).is_none());
        drop(pin);
        assert!(pins.held().is_empty(), "nothing is left behind");
    }
}
