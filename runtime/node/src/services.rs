//! What the parts of a node share.

use std::sync::{Arc, Mutex, PoisonError};

use gristmill_client::node::NodeClient;
use gristmill_protocol::node::NodeCapabilities;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    attempt::scratch_dirs::ScratchDirs, cache::Cache, code::Compiler, executors::Executors, keeper::Keeper,
    outbox::Outbox, room::Room,
};

/// What the parts of a node share.
pub(crate) struct Services {
    pub(crate) client: NodeClient,
    pub(crate) cache: Arc<Cache>,
    pub(crate) compiler: Compiler,
    pub(crate) executors: Arc<Executors>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) outbox: Outbox,
    pub(crate) room: Arc<Room>,
    pub(crate) tasks: TaskTracker,
    pub(crate) scratch_dirs: Arc<ScratchDirs>,
    pub(crate) zone: String,
    pub(crate) incarnation: String,
    pub(crate) labels: std::collections::BTreeMap<String, String>,
    pub(crate) capabilities: NodeCapabilities,
    pub(crate) mode: watch::Sender<Mode>,
    /// The node ends now: guests are stopped and their jobs go back to the queue.
    pub(crate) quitting: CancellationToken,
    /// Nobody asks for work any more.
    pub(crate) asking_ended: CancellationToken,
    /// Everything has been said: the standing tasks end.
    pub(crate) closing: CancellationToken,
    pub(crate) failure: Failure,
}

/// Whether the node takes work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Mode {
    /// The server has answered a heartbeat of this incarnation.
    pub(crate) is_known: bool,
    /// The node itself drains: what has not started is given back.
    pub(crate) is_draining: bool,
    /// An operator asked the node to drain: it takes nothing new.
    pub(crate) is_paused: bool,
}

impl Mode {
    pub(crate) fn takes_work(self) -> bool {
        self.is_known && !self.is_draining && !self.is_paused
    }
}

impl Services {
    /// Whether attempts that have not started are to be given back.
    pub(crate) async fn released(&self) {
        let mut mode = self.mode.subscribe();
        tokio::select! {
            _ = mode.wait_for(|mode| mode.is_draining) => {}
            () = self.quitting.cancelled() => {}
        }
    }

    /// Notes that some answer said that an operator wants the node to drain. Only a heartbeat's answer
    /// says that it no longer wants this.
    pub(crate) fn pause_if(&self, wanted: bool) {
        if wanted {
            self.pause(true);
        }
    }

    /// Notes what an operator wants.
    pub(crate) fn pause(&self, is_paused: bool) {
        self.mode.send_if_modified(|mode| {
            let changed = mode.is_paused != is_paused;
            if changed {
                tracing::info!(is_paused, "an operator changed whether this node takes work");
            }
            mode.is_paused = is_paused;
            changed
        });
    }

    /// The server no longer accepts this node: every guest stops, and the node has ended.
    pub(crate) fn fail(&self, why: String) {
        tracing::error!("{why}");
        self.failure.set(why);
        self.keeper.stop_all();
    }
}

/// Why the node cannot go on.
#[derive(Debug, Default)]
pub(crate) struct Failure {
    why: Mutex<Option<String>>,
    happened: CancellationToken,
}

impl Failure {
    fn set(&self, why: String) {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        self.happened.cancel();
    }

    /// Waits until the node cannot go on, and says why.
    pub(crate) async fn happened(&self) -> String {
        self.happened.cancelled().await;
        self.get().unwrap_or_default()
    }

    pub(crate) fn get(&self) -> Option<String> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
