//! `gristmill bench`: measure this machine, always against baselines of the same run.

pub(crate) mod baseline;
mod exec;
mod queue;

use clap::Subcommand;

use crate::{args::Global, failure::Exit};

/// Measure this machine
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// How many durable jobs a second pass through server, queue, node and executor
    Queue(queue::QueueArgs),
    /// How much slower a program that only computes is in the sandbox, with and without fuel
    Exec(exec::ExecArgs),
}

/// Runs the command.
pub(crate) async fn run(command: BenchCommand, global: &Global) -> anyhow::Result<Exit> {
    match command {
        BenchCommand::Queue(args) => queue::run(args, global).await,
        BenchCommand::Exec(args) => exec::run(args, global).await,
    }
}
