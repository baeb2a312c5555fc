//! One life of the server process: a runtime of its own that can be killed at any moment, with
//! everything that runs in it, while the database file stays.

use std::{future::Future, path::Path, sync::Arc};

use gristmill_lifecycle::Settings;
use gristmill_server::{
    app::App,
    blob::BlobStore,
    clock::Clock,
    entropy::Entropy,
    store::sqlite::{SqliteStore, StoreOptions},
    sweep::Sweep,
    wake::Wakes,
};
use tokio::runtime::{Builder, Runtime};

/// What outlives the process.
pub(super) struct Ground {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) settings: Settings,
}

/// A running server, without its HTTP interface.
pub(super) struct Life {
    pub(super) app: Arc<App>,
    pub(super) sweep: Sweep,
    runtime: Runtime,
}

impl Life {
    /// Starts on whatever is in the directory.
    pub(super) fn start(dir: &Path, ground: &Ground) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
        let app = runtime.block_on(async {
            let wakes = Arc::new(Wakes::default());
            let with = StoreOptions {
                clock: ground.clock.clone(),
                entropy: ground.entropy.clone(),
                settings: ground.settings.clone(),
                wakes: wakes.clone(),
            };
            let store = SqliteStore::open(&dir.join("gristmill.db"), with).await.expect("the store opens");
            let blobs =
                BlobStore::open_local(&dir.join("blobs"), ground.entropy.clone()).expect("blobs open");
            let (clock, entropy, settings) =
                (ground.clock.clone(), ground.entropy.clone(), ground.settings.clone());
            App::assemble(store, clock, entropy, Arc::new(blobs), wakes, settings).await
        });
        Self { app: Arc::new(app.expect("the server starts")), sweep: Sweep::default(), runtime }
    }

    /// Runs something in this life to its end.
    pub(super) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Starts something in this life that may wait for a long time.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.spawn(work)
    }

    /// Stops in order: what is under way is finished.
    pub(super) fn stop(self) {
        self.app.shutdown.cancel();
        self.runtime.block_on(self.app.store.close());
    }

    /// Works until the writer has made some more commits, and is then killed before anybody hears of
    /// the last one; or after the work, if that needs fewer. The work's answer is known in that case
    /// only. A kill inside a transaction is the same to all who come later; which statement it hits
    /// is up to the machine, so that the conformance suite does that, and no seed.
    pub(super) fn kill_during<T>(self, commits: u64, work: impl Future<Output = T>) -> Option<T> {
        let end = self.app.store.counters().commits + commits;
        let answer = self.runtime.block_on(async {
            let killed = async {
                while self.app.store.counters().commits < end {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                () = killed => None,
                answer = work => Some(answer),
            }
        });
        drop(self.runtime);
        answer
    }
}
