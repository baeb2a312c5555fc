//! `gristmill node`: run a node, or look after nodes.

use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use gristmill_client::user::Client;
use gristmill_node::{Node, NodeConfig, RunOnceEnd};
use gristmill_protocol::{JobId, NodeId, node::NodeView, reason::OutcomeState, units::format_duration_us};
use serde_json::json;

use crate::{
    args::Global,
    configuration::{Given, NodeFlags, needed},
    connect::{connect, read_secret, server_address},
    embedded::{executor_config, machine_offer},
    failure::{Exit, Failure},
    interrupt::Interrupt,
    job_args::duration_ms,
    printer::{Printer, labels, note, pairs, slot, time},
    table::table,
};

const ONCE_EXITS: &str = "\
Exit codes: 0 the job succeeded, or none came within --wait; 3 it failed; 4 it was cancelled;
5 the job of --job could not be had: it has ended, runs elsewhere, does not fit here, or is unknown; 1 error.";

/// How long `run-once` waits for a job when nothing else is said.
const WAIT_DEFAULT_MS: u64 = 10_000;

/// Run a node, or look after nodes
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Run a node until SIGTERM or Ctrl-C, which lets running jobs finish; a second one stops them
    Run(NodeRunArgs),
    /// Take one job, run it and exit: how a batch system starts nodes
    #[command(after_help = ONCE_EXITS)]
    RunOnce(NodeOnceArgs),
    /// List nodes
    List,
    /// Show a node
    Show {
        /// Its id or name
        node: String,
    },
    /// Let a node finish what runs and take nothing new
    Drain {
        /// Its id or name
        node: String,
    },
    /// Let a drained node take work again
    Resume {
        /// Its id or name
        node: String,
    },
    /// Take a node's identity back, for good
    Revoke {
        /// Its id or name
        node: String,
    },
}

/// How a node is set up
#[derive(Debug, Args)]
pub(crate) struct NodeRunArgs {
    #[command(flatten)]
    settings: NodeFlags,
}

/// Take one job, run it and exit
#[derive(Debug, Args)]
pub(crate) struct NodeOnceArgs {
    #[command(flatten)]
    node: NodeRunArgs,
    /// Only this job
    #[arg(long, value_name = "ID")]
    job: Option<JobId>,
    /// Longest wait for a job [default: 10s]
    #[arg(long, value_name = "D", value_parser = duration_ms)]
    wait: Option<u64>,
}

impl NodeCommand {
    /// Whether it is a long-running process rather than a question.
    pub(crate) fn is_service(&self) -> bool {
        matches!(self, Self::Run(_) | Self::RunOnce(_))
    }

    /// What its options say about settings.
    pub(crate) fn given(&self) -> Given {
        match self {
            Self::Run(args) => args.settings.given(),
            Self::RunOnce(args) => args.node.settings.given(),
            _ => Given::default(),
        }
    }
}

/// Runs the command.
pub(crate) async fn run(command: NodeCommand, global: &Global) -> anyhow::Result<Exit> {
    let (verb, node) = match command {
        NodeCommand::Run(_) => return run_node(global).await,
        NodeCommand::RunOnce(args) => return run_once(args, global).await,
        NodeCommand::List => return list(global).await,
        NodeCommand::Show { node } => (Verb::Show, node),
        NodeCommand::Drain { node } => (Verb::Drain, node),
        NodeCommand::Resume { node } => (Verb::Resume, node),
        NodeCommand::Revoke { node } => (Verb::Revoke, node),
    };
    let connection = connect(global).await?;
    let client = &connection.client;
    let id = find(client, &node).await?;
    let view = match verb {
        Verb::Show => client.node_get(&id).await?,
        Verb::Drain => client.node_drain(&id).await?,
        Verb::Resume => client.node_resume(&id).await?,
        Verb::Revoke => client.node_revoke(&id).await?,
    };
    Printer::new(global.json()).show(&view, details)?;
    Ok(Exit::Ok)
}

#[derive(Clone, Copy)]
enum Verb {
    Show,
    Drain,
    Resume,
    Revoke,
}

async fn list(global: &Global) -> anyhow::Result<Exit> {
    let connection = connect(global).await?;
    let nodes = connection.client.node_list().await?;
    Printer::new(global.json()).show(&json!({ "items": nodes }), |_| {
        let rows = nodes.iter().map(|node| {
            let used = slot(node.cpus_milli_used, node.memory_bytes_used);
            let offers = slot(node.capabilities.cpus_milli, node.capabilities.memory_bytes);
            vec![
                node.id.to_string(),
                node.name.clone(),
                node.zone.clone(),
                node.state.to_string(),
                offers,
                used,
                node.capabilities.isolation.level().map_or_else(|| "weak".into(), |level| level.to_string()),
                labels(&node.labels),
                node.heartbeat_at.map(time).unwrap_or_default(),
            ]
        });
        table(&["id", "name", "zone", "state", "offers", "used", "isolation", "labels", "heard of"], rows)
    })?;
    Ok(Exit::Ok)
}

fn details(node: &NodeView) -> String {
    let can = &node.capabilities;
    pairs(&[
        ("id", Some(node.id.to_string())),
        ("name", Some(node.name.clone())),
        ("zone", Some(node.zone.clone())),
        ("state", Some(node.state.to_string())),
        ("offers", Some(slot(can.cpus_milli, can.memory_bytes))),
        ("used", Some(slot(node.cpus_milli_used, node.memory_bytes_used))),
        ("isolation", Some(can.isolation.summary())),
        ("labels", (!node.labels.is_empty()).then(|| labels(&node.labels))),
        ("platform", Some(can.platform.clone())),
        ("version", Some(can.version.clone())),
        ("engine", Some(can.engine.clone())),
        ("enrolled", Some(time(node.created_at))),
        ("heard of", node.heartbeat_at.map(time)),
    ])
}

/// A node by its id, or by its name if only one has it.
async fn find(client: &Client, text: &str) -> anyhow::Result<NodeId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let nodes = client.node_list().await?;
    let mut named = nodes.iter().filter(|node| node.name == text);
    match (named.next(), named.next()) {
        (Some(node), None) => Ok(node.id),
        (None, _) => Err(Failure::local(format!("there is no node {text:?}"))
            .hint("`gristmill node list` shows names and ids")
            .into()),
        _ => Err(Failure::local(format!("several nodes are called {text:?}"))
            .hint("name the node by its id, as `gristmill node list` shows it")
            .into()),
    }
}

fn node_config(global: &Global) -> anyhow::Result<NodeConfig> {
    let settings = &global.loaded.settings.node;
    let Some(server) =
        settings.server.clone().map_or_else(|| server_address(global), |server| Ok(Some(server)))?
    else {
        return Err(Failure::usage("a node needs a server")
            .hint("add --server URL, set GRISTMILL_SERVER, or write it into a file (`gristmill config example node`)")
            .into());
    };
    let state_dir = needed("node.state", settings.state.as_ref())?;
    let (offer, notice) = machine_offer(settings.slots);
    if let Some(notice) = notice.filter(|_| settings.cpus_milli.is_none() && settings.memory_bytes.is_none())
    {
        tracing::warn!("{notice}");
    }
    let mut total = offer.total;
    total.cpus_milli = settings.cpus_milli.unwrap_or(total.cpus_milli);
    total.memory_bytes = settings.memory_bytes.unwrap_or(total.memory_bytes);
    let mut config = NodeConfig::offering(total, server, state_dir, executor_config()?);
    config.name = settings.name.clone().unwrap_or_else(host_name);
    config.labels.clone_from(&settings.labels);
    config.attempts_max = settings.attempts_max.unwrap_or(config.attempts_max);
    config.ca_file.clone_from(&settings.ca_file);
    config.isolation_min = (!settings.allow_weak_isolation).then_some(settings.isolation);
    config.cache_bytes_max = settings.cache_bytes_max;
    if let Some(path) = &settings.join_token_file {
        config.join_token = Some(read_secret(path)?.expose().to_owned());
    }
    Ok(config)
}

/// The host's name as far as a node's name allows it.
fn host_name() -> String {
    // Elsewhere than on Linux the name has to be given; nodes run on Linux.
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().to_lowercase();
    let clean: String = text
        .trim()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(63)
        .collect();
    if clean.is_empty() { "node".into() } else { clean }
}

async fn run_node(global: &Global) -> anyhow::Result<Exit> {
    let interrupt = Interrupt::for_service();
    let config = node_config(global)?;
    let offered = slot(config.cpus_milli, config.memory_bytes);
    let server = config.server.clone();
    let node = tokio::select! {
        node = Node::start(config) => node.context("cannot start the node")?,
        () = interrupt.first() => return Ok(Exit::Ok),
    };
    let (id, isolation) = (node.id(), node.isolation());
    let document =
        json!({ "node": id.to_string(), "server": server, "offers": offered, "isolation": isolation });
    Printer::new(global.json()).show(&document, |_| {
        let isolation = isolation.summary();
        format!("node       {id}\nserver     {server}\noffers     {offered}\nisolation  {isolation}\n")
    })?;
    tokio::select! {
        () = interrupt.first() => {}
        why = node.failed() => {
            node.stop().await;
            return Err(Failure::local(why).into());
        }
    }
    note("finishing what runs; a second signal stops it");
    tokio::select! {
        () = node.drain() => {}
        () = interrupt.second() => tracing::warn!("stopping what runs"),
    }
    node.stop().await;
    Ok(Exit::Ok)
}

async fn run_once(args: NodeOnceArgs, global: &Global) -> anyhow::Result<Exit> {
    let interrupt = Interrupt::for_service();
    let config = node_config(global)?;
    let wait = Duration::from_millis(args.wait.unwrap_or(WAIT_DEFAULT_MS));
    let named = args.job;
    let end = gristmill_node::run_once(config, named, wait, interrupt.token()).await?;
    let printer = Printer::new(global.json());
    match end {
        RunOnceEnd::NoJob => {
            printer.show(&json!({ "job": null }), |_| "no job came".to_owned())?;
            if let Some(job) = named {
                // Also for the log file of a batch system.
                eprintln!(
                    "{job} could not be had: it has ended, runs elsewhere, does not fit here, or there is no such job"
                );
                return Ok(Exit::WaitTimedOut);
            }
            eprintln!("no job came within {}; that is no error", format_duration_us(wait.as_micros() as u64));
        }
        RunOnceEnd::Ran(end) => {
            let state = end.outcome.as_ref().map_or("given back", |outcome| outcome.state.as_str());
            let document = json!({
                "job": end.job, "attempt": end.attempt, "outcome": end.outcome, "accepted": end.is_accepted,
            });
            printer.show(&document, |_| format!("{} attempt {}: {state}", end.job, end.attempt))?;
            if end.outcome.is_some() && !end.is_accepted {
                return Err(
                    Failure::local("the server did not take the report; the job is tried again").into()
                );
            }
            return Ok(match end.outcome.map(|outcome| outcome.state) {
                Some(OutcomeState::Failed | OutcomeState::TimedOut) => Exit::JobFailed,
                Some(OutcomeState::Cancelled) => Exit::JobCancelled,
                _ => Exit::Ok,
            });
        }
    }
    Ok(Exit::Ok)
}
