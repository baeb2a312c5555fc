//! A server and its nodes, as processes of the real binary in a directory of their own.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;

use crate::{api::Api, eventually, process::Process};

/// Longest time for a process to start, also on a machine that compiles at the same time.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A port of the loopback interface that nobody listened on a moment ago.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound listener has an address").port()
}

/// One server process and any number of node processes.
#[derive(Debug)]
pub struct TestCluster {
    /// Everything on disk: `server/` (the data), a state folder per node, logs.
    pub dir: TempDir,
    /// Name of the folder with the server's data, for its next start.
    pub data: String,
    /// The server's process.
    pub server: Process,
    /// Speaks to the server as its administrator.
    pub api: Api,
    port: u16,
    /// Further flags of `server run`.
    flags: Vec<String>,
    /// Further variables in the server's environment.
    variables: Vec<(String, String)>,
}

/// How a node is started; see [`TestCluster::node`].
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Name, and name of its state folder.
    pub name: String,
    /// The zone to join.
    pub zone: String,
    /// The server's address as the node sees it: a proxy's, or the server's own when empty.
    pub through: String,
    /// Further flags of `node run`.
    pub flags: Vec<String>,
}

impl NodeOptions {
    /// A node of the zone `default` that offers four cores and 4 GiB, whatever the machine has.
    pub fn named(name: &str) -> Self {
        let flags = ["--cpus", "4", "--memory", "4GiB"].map(str::to_owned).to_vec();
        Self { name: name.to_owned(), zone: "default".to_owned(), through: String::new(), flags }
    }
}

impl TestCluster {
    /// Starts a server on a free port and waits until it is ready.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// As [`TestCluster::start`], with further flags of `server run`.
    pub async fn start_with(flags: &[&str]) -> Self {
        Self::start_in(flags, &[]).await
    }

    /// As [`TestCluster::start_with`], with further variables in the server's environment.
    pub async fn start_in(flags: &[&str], variables: &[(String, String)]) -> Self {
        let dir = tempfile::Builder::new().prefix("gristmill-test-").tempdir().expect("a temp dir");
        let port = free_port();
        let flags: Vec<_> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let data = "server".to_owned();
        let variables = variables.to_vec();
        let server = start_server(dir.path(), &data, port, &flags, &variables);
        let url = format!("http://127.0.0.1:{port}");
        let mut cluster = Self { dir, data, server, api: Api::new(&url, ""), port, flags, variables };
        cluster.wait_until_ready().await;
        let token =
            fs::read_to_string(cluster.data_dir().join("admin.token")).expect("the first start writes it");
        cluster.api = Api::new(&url, token.trim());
        cluster
    }

    /// Starts a server and one node.
    pub async fn with_node() -> (Self, Process) {
        let cluster = Self::start().await;
        let node = cluster.node(&NodeOptions::named("node-1")).await;
        (cluster, node)
    }

    /// The server's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join(&self.data)
    }

    /// A node's state directory.
    pub fn state_dir(&self, node: &str) -> PathBuf {
        self.dir.path().join(node)
    }

    /// Starts the server again on the same data and port, after it was killed.
    pub async fn restart_server(&mut self) {
        self.server.kill_9();
        self.server = start_server(self.dir.path(), &self.data, self.port, &self.flags, &self.variables);
        self.wait_until_ready().await;
    }

    /// Starts a node and waits until the server has heard of it. The node enrols at its first start.
    pub async fn node(&self, options: &NodeOptions) -> Process {
        let node = self.spawn_node(options).await;
        eventually("the node to be active", START_LIMIT, || async {
            let nodes = self.api.nodes().await.ok()?;
            nodes.into_iter().find(|node| node.name == options.name && node.heartbeat_at.is_some())
        })
        .await;
        node
    }

    /// Starts a node without waiting for it.
    pub async fn spawn_node(&self, options: &NodeOptions) -> Process {
        let state = self.state_dir(&options.name);
        let server = if options.through.is_empty() { &self.api.url } else { &options.through };
        let mut args: Vec<&str> = vec!["node", "run", "--server", server, "--name", &options.name];
        let state_text = state.to_string_lossy().into_owned();
        args.extend(["--state", &state_text]);
        let token_file = self.dir.path().join(format!("{}.join", options.name));
        let token_text = token_file.to_string_lossy().into_owned();
        if !token_file.exists() {
            let secret = self.api.join_token(&options.zone).await.expect("a join token");
            fs::write(&token_file, secret).expect("the token file is written");
        }
        args.extend(["--join-token-file", &token_text]);
        args.extend(options.flags.iter().map(String::as_str));
        Process::start(self.dir.path(), &options.name, &args)
    }

    async fn wait_until_ready(&mut self) {
        let give_up = std::time::Instant::now() + START_LIMIT;
        while !self.api.is_ready().await {
            let log = self.server.log();
            assert!(self.server.is_alive(), "the server ended while starting:\n{log}");
            assert!(std::time::Instant::now() < give_up, "the server is not ready:\n{log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn start_server(
    dir: &Path,
    data: &str,
    port: u16,
    flags: &[String],
    variables: &[(String, String)],
) -> Process {
    let data = dir.join(data).to_string_lossy().into_owned();
    let listen = format!("127.0.0.1:{port}");
    let mut args = vec!["server", "run", "--data", &data, "--listen", &listen];
    args.extend(flags.iter().map(String::as_str));
    Process::start_with(dir, "server-process", &args, variables)
}
