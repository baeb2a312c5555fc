//! kill -9 of server, node and executor at named steps, then a restart: every acknowledged job
//! reaches exactly one terminal state, and accepted outputs are whole.

mod chaos;
mod cuts;
mod executor_killed;
mod node_killed;
mod server_killed;
mod streams;

use std::time::Duration;

use gristmill_protocol::{JobId, JobState, attempt::AttemptState};
use gristmill_tests::{
    checker,
    cluster::{NodeOptions, TestCluster},
    eventually,
    process::{Process, send_signal},
    proxy::Proxy,
};
use rustix::process::Signal;

pub(crate) use crate::e2e::small_job;

/// Covers a lease's full time after a restart, and the second attempt.
pub(crate) const RECOVERY: Duration = Duration::from_secs(120);

/// A server with one node that reaches it through a proxy.
pub(crate) struct Watched {
    pub(crate) cluster: TestCluster,
    pub(crate) proxy: Proxy,
    pub(crate) node: Process,
    options: NodeOptions,
}

impl Watched {
    pub(crate) async fn start() -> Self {
        let cluster = TestCluster::start().await;
        let proxy = Proxy::start(&cluster.api.url).await;
        let options = NodeOptions { through: proxy.url.clone(), ..NodeOptions::named("node-1") };
        let node = cluster.node(&options).await;
        Self { cluster, proxy, node, options }
    }

    /// What kills the node, for a trap.
    pub(crate) fn node_killer(&self) -> impl FnOnce() + Send + 'static {
        killer(self.node.pid())
    }

    /// What kills the server, for a trap.
    pub(crate) fn server_killer(&self) -> impl FnOnce() + Send + 'static {
        killer(self.cluster.server.pid())
    }

    /// Starts the node again on its state.
    pub(crate) async fn restart_node(&mut self) {
        self.node.kill_9();
        self.node = self.cluster.spawn_node(&self.options).await;
    }

    /// The job succeeded, its one output is whole, and the history holds every rule.
    pub(crate) async fn expect_result(&self, job: &JobId) {
        let ended = self.cluster.api.finished(job, RECOVERY).await.expect("the job ends");
        assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
        assert_eq!(self.cluster.api.output(job, "result").await.expect("its output"), b"result");
        self.expect_clean_history(&[*job]).await;
    }

    pub(crate) async fn expect_clean_history(&self, acknowledged: &[JobId]) {
        checker::check(&self.cluster.data_dir(), acknowledged).await;
    }

    pub(crate) async fn attempt_states(&self, job: &JobId) -> Vec<AttemptState> {
        let attempts = self.cluster.api.attempts(job).await.expect("its attempts");
        attempts.iter().map(|attempt| attempt.state).collect()
    }

    /// Waits until the guest of a job has written to stdout.
    pub(crate) async fn speaking(&self, job: &JobId) {
        eventually("the guest to speak", Duration::from_secs(60), || async {
            let attempts = self.cluster.api.attempts(job).await.ok()?;
            attempts.iter().any(|attempt| attempt.stdout_bytes > 0).then_some(())
        })
        .await;
    }
}

fn killer(pid: u32) -> impl FnOnce() + Send + 'static {
    move || send_signal(pid, Signal::KILL)
}
