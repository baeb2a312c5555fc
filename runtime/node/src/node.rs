//! A node from its start to its end.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use futures_util::FutureExt;
use gristmill_client::node::{CallError, NodeClient, Transport};
use gristmill_executor::{Confiner, engine_features, engine_version};
use gristmill_protocol::{Isolation, NodeId, OuterLimit, node::NodeCapabilities};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    NodeConfig,
    attempt::scratch_dirs::ScratchDirs,
    cache::Cache,
    code::Compiler,
    executors::Executors,
    heartbeat,
    identity::Identity,
    keeper::Keeper,
    outbox, poller,
    room::Room,
    services::{Failure, Mode, Services},
    state::StateDir,
};

/// How long a node that stops waits for its attempts to end.
const STOP_TIME: Duration = Duration::from_secs(15);

/// A running node. Dropping it without [`Node::stop`] leaves its tasks running until the runtime ends.
pub struct Node {
    services: Arc<Services>,
    state: StateDir,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("id", &self.id()).field("zone", &self.zone()).finish_non_exhaustive()
    }
}

impl Node {
    /// Opens the state directory, enrols if needed, and begins to take work.
    ///
    /// Without an identity this waits for the server, however long it is away; with one it returns
    /// at once and finds the server later. Errors: another node uses the state directory, the
    /// server refuses the join token, or there is none; the text says what to do.
    pub async fn start(config: NodeConfig) -> anyhow::Result<Self> {
        let node = Self::start_idle(config).await?;
        let ended = node.services.asking_ended.clone().drop_guard();
        let services = Arc::clone(&node.services);
        node.spawn(async move {
            poller::run(services).await;
            drop(ended);
        });
        Ok(node)
    }

    /// Like [`Node::start`], but nobody asks for work.
    pub(crate) async fn start_idle(config: NodeConfig) -> anyhow::Result<Self> {
        let transport = Transport::open(&config.server, config.ca_file.as_deref())?;
        let root = config.state_dir.clone();
        let state = blocking(move || StateDir::open(&root)).await?;
        let confiner = Confiner::measure(config.executor.clone(), state.slots())
            .await
            .context("failed to find out how executors can be confined")?;
        check_isolation(confiner.isolation(), config.isolation_min)?;
        let capabilities = capabilities(&config, confiner.isolation());
        let identity_file = state.identity_file();
        let identity =
            Identity::load_or_enroll(&identity_file, &transport, &config, capabilities.clone()).await?;
        let (cache_dir, cache_bytes_max) = (state.cache(), config.cache_bytes_max);
        let (of_compiler, key_file) = (Arc::clone(&confiner), state.code_key_file());
        let (cache, compiler) = blocking(move || {
            let cache =
                Cache::open(&cache_dir, cache_bytes_max).context("failed to open the node's cache")?;
            let compiler = Compiler::open(Arc::clone(&cache), of_compiler, &key_file)
                .context("failed to open the key of the compiled code")?;
            Ok((cache, compiler))
        })
        .await?;
        let (outbox, queue) = outbox::outbox();
        let mut incarnation = [0u8; 16];
        rand::fill(&mut incarnation);
        let services = Arc::new(Services {
            client: NodeClient::connect(transport, Arc::clone(&identity.key), identity.node),
            compiler,
            executors: Executors::keeping(
                confiner,
                Arc::clone(&cache),
                (config.attempts_max as usize / 2).max(2),
            ),
            cache,
            keeper: Arc::new(Keeper::default()),
            outbox,
            room: Room::of(config.cpus_milli, config.memory_bytes, config.attempts_max),
            tasks: TaskTracker::new(),
            scratch_dirs: ScratchDirs::below(state.attempts(), config.attempts_max as usize),
            zone: identity.zone,
            incarnation: hex::encode(incarnation),
            labels: config.labels,
            capabilities,
            mode: watch::Sender::new(Mode::default()),
            quitting: CancellationToken::new(),
            asking_ended: CancellationToken::new(),
            closing: CancellationToken::new(),
            failure: Failure::default(),
        });
        let node = Self { services, state };
        node.spawn_standing_tasks(queue);
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            node = %node.id(),
            name = config.name,
            zone = node.zone(),
            server = %config.server,
            state = %config.state_dir.display(),
            isolation = node.isolation().summary(),
            "the node is up"
        );
        Ok(node)
    }

    fn spawn_standing_tasks(&self, queue: outbox::OutboxQueue) {
        let services = || Arc::clone(&self.services);
        let (clock, renewals, watch, sending, retirement) =
            (services(), services(), services(), services(), services());
        self.spawn(heartbeat::run(services()));
        self.spawn(async move { clock.keeper.run_clock().await });
        self.spawn(async move {
            let is_refused = |error: &CallError| heartbeat::fail_if_refused(&renewals, error);
            renewals.keeper.run_renewals(&renewals.client, is_refused).await;
        });
        self.spawn(async move {
            let is_refused = |error: &CallError| heartbeat::fail_if_refused(&watch, error);
            watch.keeper.run_watch(&watch.client, |wanted| watch.pause_if(wanted), is_refused).await;
        });
        self.spawn(async move { outbox::run(queue, &sending.client).await });
        self.spawn(async move { retirement.executors.run_retirement().await });
    }

    /// Runs a standing task until the node closes.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let services = Arc::clone(&self.services);
        self.services.tasks.spawn(async move {
            let guarded = AssertUnwindSafe(task).catch_unwind();
            if let Some(Err(_)) = services.closing.run_until_cancelled(guarded).await {
                // Without any one of these tasks leases run out or are never let go.
                services.fail("a part of the node failed; the log has the place".into());
            }
        });
    }

    pub(crate) fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// The node's id.
    pub fn id(&self) -> NodeId {
        self.services.client.node()
    }

    /// The zone that the node belongs to, as the server said at enrolment.
    pub fn zone(&self) -> &str {
        &self.services.zone
    }

    /// What stands around its executors beside the sandbox itself.
    pub fn isolation(&self) -> Isolation {
        self.services.capabilities.isolation
    }

    /// Number of leases held: attempts that are prepared, run, or wait for their report's answer.
    pub fn attempt_count(&self) -> usize {
        self.services.keeper.count()
    }

    /// Waits until the server no longer accepts this node (it was revoked, or is not known) and says
    /// why and what to do. Every guest has been stopped; what is left is [`Node::stop`].
    pub async fn failed(&self) -> String {
        self.services.failure.happened().await
    }

    /// Takes nothing new, gives back what has not started, and returns when everything that runs has
    /// ended and was reported. Dropping the future keeps the node draining.
    pub async fn drain(&self) {
        tracing::info!(
            attempts = self.attempt_count(),
            "draining: what runs is finished, nothing new is taken"
        );
        self.services.mode.send_modify(|mode| mode.is_draining = true);
        tokio::select! {
            () = self.is_at_rest() => tracing::info!("drained"),
            _ = self.failed() => {}
        }
    }

    /// Waits until nobody asks for work and no lease is held. A call for work is waited for, since
    /// the server may be granting a lease in answer to it.
    async fn is_at_rest(&self) {
        self.services.asking_ended.cancelled().await;
        self.services.keeper.empty().await;
    }

    /// Stops every guest, tells the server so that their jobs are queued again, and ends all tasks
    /// and processes. Takes at most about 15 seconds; what the server has not heard by then it
    /// learns when the leases run out.
    pub async fn stop(self) {
        tracing::info!(attempts = self.attempt_count(), "stopping");
        self.services.mode.send_modify(|mode| mode.is_draining = true);
        self.services.quitting.cancel();
        self.services.keeper.stop_all();
        if tokio::time::timeout(STOP_TIME, self.is_at_rest()).await.is_err() {
            tracing::warn!("some attempts did not end in time; their leases will run out");
        }
        self.services.closing.cancel();
        self.services.executors.dismiss().await;
        self.services.tasks.close();
        let ending = async {
            self.services.tasks.wait().await;
            self.services.executors.all_gone().await;
        };
        let _ = tokio::time::timeout(STOP_TIME, ending).await;
        let Self { services, state } = self;
        let _ = blocking(move || {
            services.scratch_dirs.remove_spare();
            state.close();
            Ok(())
        })
        .await;
        tracing::info!("stopped");
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("failed to finish a task")?
}

/// Refuses a start with less isolation than is asked for.
fn check_isolation(reached: Isolation, least: Option<OuterLimit>) -> anyhow::Result<()> {
    let (level, summary) = (reached.level(), reached.summary());
    match (level, least) {
        (None, Some(_)) => bail!(
            "executors cannot be fully confined here: this kernel or container offers no {}; allow weak \
             isolation if only trusted jobs come here (those that require a level of isolation never do)",
            reached.lacks().join(" and no ")
        ),
        (Some(level), Some(least)) if level < least => bail!(
            "executors can only be bounded at the level {level} here, and {least} is asked for; the log \
             says why (a service manager has to delegate a control group, such as systemd's Delegate=yes)"
        ),
        (None, None) => {
            tracing::warn!(
                isolation = summary,
                "isolation is weak: jobs that require a level never run here"
            );
        }
        _ => tracing::info!(isolation = summary, "executors are confined"),
    }
    Ok(())
}

fn capabilities(config: &NodeConfig, isolation: Isolation) -> NodeCapabilities {
    NodeCapabilities {
        cpus_milli: config.cpus_milli,
        memory_bytes: config.memory_bytes,
        features: engine_features(),
        platform: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        engine: engine_version(),
        isolation,
    }
}
