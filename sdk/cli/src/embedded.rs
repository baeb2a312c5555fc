//! A server and one node in this process: what `dev`, the private instance and `bench` are made of.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use gristmill_client::user::{Client, Endpoint, Secret};
use gristmill_executor::ExecutorConfig;
use gristmill_node::{Node, NodeConfig, Offer};
use gristmill_protocol::limits::SlotSize;
use gristmill_server::{Server, ServerConfig};

use crate::{environment, printer, saved::private_dir};

/// The zone that every server has from its first start.
const ZONE: &str = "default";

/// What to start.
#[derive(Debug)]
pub(crate) struct EmbeddedConfig {
    /// Database, blobs and the node's state go below it.
    pub(crate) data_dir: PathBuf,
    /// Where to listen; port 0 takes any free port.
    pub(crate) listen: SocketAddr,
    /// What the node offers, and the default limits of jobs.
    pub(crate) offer: Offer,
}

/// A running server with a running node.
#[derive(Debug)]
pub(crate) struct Embedded {
    server: Server,
    node: Node,
    /// How to reach it, as an administrator.
    pub(crate) endpoint: Endpoint,
}

/// What this machine offers, and one sentence if that is less than a standard slot.
pub(crate) fn machine_offer(slots: Option<u32>) -> (Offer, Option<String>) {
    let offer = gristmill_node::offer(slots, gristmill_node::machine_capacity());
    let standard = SlotSize::default();
    let notice = offer.is_reduced.then(|| {
        format!(
            "this machine is smaller than a standard slot ({}); jobs get {} unless they ask for less",
            printer::slot(standard.cpus_milli, standard.memory_bytes),
            printer::slot(offer.slot.cpus_milli, offer.slot.memory_bytes),
        )
    });
    (offer, notice)
}

/// How the node starts this same program again as executor and compiler.
pub(crate) fn executor_config() -> anyhow::Result<ExecutorConfig> {
    Ok(ExecutorConfig { exe: environment::program()?, prefix_args: Vec::new() })
}

impl Embedded {
    /// Starts the server, then the node; returns when both work.
    pub(crate) async fn start(config: EmbeddedConfig) -> anyhow::Result<Self> {
        private_dir(&config.data_dir)?;
        let server_dir = config.data_dir.join("server");
        let mut server_config = ServerConfig::new(&server_dir, config.listen);
        server_config.settings.slot_default = config.offer.slot;
        // Whoever runs it is its only user.
        server_config.clients.token_rate = None;
        server_config.sampling = crate::traces::sampling();
        crate::environment::keep_files_private();
        let server = Server::start(server_config).await.context("cannot start the server")?;
        let token = administrator(&server, &server_dir).await?;
        let join_token = server.issue_join_token(ZONE).await?;
        let state_dir = config.data_dir.join("node");
        let mut node_config =
            NodeConfig::offering(config.offer.total, server.base_url(), state_dir, executor_config()?);
        node_config.name = "local".into();
        node_config.join_token = Some(join_token);
        // This machine runs its own user's jobs, whatever its kernel offers; a notice says what is missing.
        node_config.isolation_min = None;
        let node = match Node::start(node_config).await {
            Ok(node) => node,
            Err(error) => {
                server.shutdown().await;
                return Err(error).context("cannot start the node");
            }
        };
        let endpoint =
            Endpoint { server: server.base_url(), token: Some(Secret::new(&token)), ca_file: None };
        Ok(Self { server, node, endpoint })
    }

    /// A client with all rights.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::new(&self.endpoint)?)
    }

    /// Stops both at once; what runs is queued again and tried at the next start.
    pub(crate) async fn stop(self) {
        self.node.stop().await;
        self.server.shutdown().await;
    }

    /// Takes nothing new and waits until what runs has ended. Dropping the future keeps it draining.
    pub(crate) async fn drain(&self) {
        self.node.drain().await;
    }
}

/// The administrator's token that the server wrote at its first start, or a new one.
async fn administrator(server: &Server, server_dir: &Path) -> anyhow::Result<String> {
    let kept = tokio::fs::read_to_string(server_dir.join("admin.token")).await.ok();
    if let Some(token) = kept.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()) {
        let endpoint =
            Endpoint { server: server.base_url(), token: Some(Secret::new(&token)), ca_file: None };
        if Client::new(&endpoint)?.zone_list().await.is_ok() {
            return Ok(token);
        }
    }
    server.issue_admin_token("command line").await
}
