//! Who writes to which upload: one at a time, and whoever asks last has it, because a client that
//! comes back has given up its former connection long before the server notices.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gristmill_protocol::UploadId;
use tokio::sync::OwnedMutexGuard;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::upload_files::RunningHash;

/// The uploads that somebody works on, or has worked on in this process.
#[derive(Debug, Default)]
pub struct UploadDesk {
    slots: Mutex<HashMap<UploadId, Arc<Slot>>>,
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
struct Slot {
    /// Held by whoever has the upload. The hash over its bytes stays here between two pieces.
    turn: Arc<tokio::sync::Mutex<Option<RunningHash>>>,
    /// Tells whoever asked last that another one has asked since.
    last: Mutex<CancellationToken>,
}

/// The right to work on an upload, until it is dropped.
#[derive(Debug)]
pub struct UploadTurn {
    hash: OwnedMutexGuard<Option<RunningHash>>,
    /// Cancelled when somebody else asks for the upload: stop as soon as what came is durable.
    pub wanted: CancellationToken,
}

impl UploadTurn {
    /// Takes out the hash over the upload's bytes, if there is one.
    pub fn take_hash(&mut self) -> Option<RunningHash> {
        self.hash.take()
    }

    /// Leaves a hash for whoever comes next.
    pub fn leave_hash(&mut self, hash: Option<RunningHash>) {
        *self.hash = hash;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl UploadDesk {
    fn slot(&self, id: UploadId) -> Arc<Slot> {
        Arc::clone(lock(&self.slots).entry(id).or_default())
    }

    /// Waits for an upload. Whoever has it is asked to stop and does so soon, unless it is already
    /// turning the upload into a blob.
    pub async fn take(&self, id: UploadId) -> UploadTurn {
        let slot = self.slot(id);
        let wanted = CancellationToken::new();
        std::mem::replace(&mut *lock(&slot.last), wanted.clone()).cancel();
        UploadTurn { hash: Arc::clone(&slot.turn).lock_owned().await, wanted }
    }

    /// Takes an upload that nobody works on; `None` when somebody does.
    pub fn try_take(&self, id: UploadId) -> Option<UploadTurn> {
        let slot = self.slot(id);
        let hash = Arc::clone(&slot.turn).try_lock_owned().ok()?;
        let wanted = lock(&slot.last).clone();
        Some(UploadTurn { hash, wanted })
    }

    /// Forgets an upload that is over.
    pub fn forget(&self, id: UploadId) {
        lock(&self.slots).remove(&id);
    }

    /// Does the work also when the caller goes away meanwhile, so that bytes which have come are kept.
    ///
    /// # Panics
    /// When the work panics.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        match self.tasks.spawn(work).await {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Waits until nobody works on any upload. Everybody has been told to stop before.
    pub async fn close(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
