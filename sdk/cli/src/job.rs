//! `gristmill job`: submit jobs and look after them.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use gristmill_protocol::{
    JobId,
    job::{OutputEntry, OutputsView},
    units::format_bytes,
    zone::{PlacementView, ZonePlacement},
};
use serde_json::json;

use crate::{
    args::Global,
    connect::{connect, connect_or_begin},
    failure::Exit,
    follow, job_args,
    job_args::JobArgs,
    job_list, job_log,
    module_ref::ModuleArg,
    outputs,
    printer::{Printer, pairs},
    progress::Progress,
    run::complete,
    steady::{Steady, job_is_kept},
    summary,
    table::{table, wrapped},
    usage::attempts_table,
};

/// Submit jobs and look after them
#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// Submit a job and print its id
    Submit(Box<SubmitArgs>),
    /// Show a job
    Get {
        /// Its id
        id: JobId,
    },
    /// List jobs, newest first
    List(job_list::ListArgs),
    /// Wait until a job has ended; the exit code tells how
    Wait {
        /// Its id
        id: JobId,
        /// Longest wait (exit code 5)
        #[arg(long, value_name = "D", value_parser = job_args::duration_ms)]
        wait_timeout: Option<u64>,
    },
    /// Show what a job wrote, both streams by time or one stream raw
    Logs(job_log::LogArgs),
    /// Cancel a job
    Cancel {
        /// Its id
        id: JobId,
    },
    /// Submit an ended job again, as a new job with the same module
    Retry {
        /// Its id
        id: JobId,
    },
    /// List a job's attempts and what each used
    Attempts {
        /// Its id
        id: JobId,
    },
    /// Say for every zone and node why a job can or cannot run there
    Explain {
        /// Its id
        id: JobId,
    },
    /// List a job's outputs, or save them
    Outputs {
        /// Its id
        id: JobId,
        /// Directory that receives them
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Save them as one tar archive instead; `-` is standard output
        #[arg(long, value_name = "FILE", conflicts_with = "out")]
        tar: Option<PathBuf>,
    },
}

/// Submit a job and print its id
#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    job: JobArgs,
    /// Queue nothing; say where the job could run
    #[arg(long)]
    validate_only: bool,
}

/// Runs the command.
pub(crate) async fn run(command: JobCommand, global: &Global) -> anyhow::Result<Exit> {
    let printer = Printer::new(global.json());
    if let JobCommand::Submit(args) = command {
        return submit(*args, global, printer).await;
    }
    let connection = connect(global).await?;
    let client = &connection.client;
    match command {
        JobCommand::Submit(_) => {}
        JobCommand::Get { id } => printer.show(&client.job_get(&id).await?, summary::details)?,
        JobCommand::List(args) => return job_list::run(connection, args, global).await,
        JobCommand::Wait { id, wait_timeout } => {
            return wait(&Steady::new(connection), id, wait_timeout, printer).await;
        }
        JobCommand::Logs(args) => return job_log::run(&Steady::new(connection), args, global).await,
        JobCommand::Cancel { id } => {
            let job = client.job_cancel(&id).await?;
            printer.show(&job, |job| {
                let is_pending = !job.state.is_terminal() && job.cancel_requested_at.is_some();
                let state = if is_pending { "being cancelled" } else { job.state.as_str() };
                format!("{id} is {state}")
            })?;
        }
        JobCommand::Retry { id } => {
            printer.show(&client.job_retry(&id).await?, |job| job.id.to_string())?;
        }
        JobCommand::Attempts { id } => {
            let attempts = client.job_attempts(&id).await?;
            printer.show(&json!({ "items": attempts }), |_| attempts_table(&attempts))?;
        }
        JobCommand::Explain { id } => printer.show(&client.job_placement(&id).await?, placement_text)?,
        JobCommand::Outputs { id, tar: Some(file), .. } => {
            outputs::save_tar(client, &id, &file, global.json()).await?;
        }
        JobCommand::Outputs { id, out, tar: None } => {
            let outputs = client.job_outputs(&id).await?;
            if let Some(dir) = out {
                outputs::fetch_all(client, &id, &outputs, &dir).await?;
            }
            printer.show(&OutputsView { outputs }, |view| outputs_table(&view.outputs))?;
        }
    }
    Ok(Exit::Ok)
}

async fn submit(args: SubmitArgs, global: &Global, printer: Printer) -> anyhow::Result<Exit> {
    args.job.check_sources()?;
    let module = ModuleArg::parse(&args.job.module)?;
    let spec = args.job.spec()?;
    let progress = Progress::start();
    let connection = connect_or_begin(global).await?;
    let client = &connection.client;
    let spec = complete(client, spec, &module, &args.job, &progress).await?;
    progress.finish();
    if args.validate_only {
        let placement = client.job_validate(&spec).await.context("the job is refused")?;
        printer.show(&placement, placement_text)?;
        return Ok(Exit::Ok);
    }
    let job = client.job_submit(&spec, &args.job.key(), None).await.context("cannot submit the job")?;
    if let Some(limit_ms) = args.job.wait_timeout {
        return wait(&Steady::new(connection), job.id, Some(limit_ms), printer).await;
    }
    printer.show(&job, |job| job.id.to_string())?;
    Ok(Exit::Ok)
}

async fn wait(steady: &Steady, id: JobId, limit_ms: Option<u64>, printer: Printer) -> anyhow::Result<Exit> {
    let progress = Progress::start();
    let get = || steady.call(|client| async move { client.job_get(&id).await });
    let first = get().await?;
    let limit = limit_ms.map_or(Duration::MAX, Duration::from_millis);
    let job = match tokio::time::timeout(limit, follow::wait_for_end(steady, first, &progress)).await {
        Ok(job) => job.map_err(|error| job_is_kept(error, id))?,
        Err(_) => get().await?,
    };
    progress.finish();
    printer.show(&job, summary::line)?;
    Ok(Exit::of_job(job.state))
}

fn outputs_table(outputs: &[OutputEntry]) -> String {
    let rows = outputs
        .iter()
        .map(|output| vec![output.path.clone(), format_bytes(output.size), output.digest.to_string()]);
    table(&["path", "size", "digest"], rows)
}

/// Verdict and reasons, one line for each zone and node.
fn placement_text(placement: &PlacementView) -> String {
    let rows = placement.zones.iter().flat_map(|zone: &ZonePlacement| {
        let own = vec![zone.zone.clone(), String::new(), zone.runnable.to_string(), zone.why_not.join("; ")];
        let nodes = zone.nodes.iter().map(|node| {
            vec![zone.zone.clone(), node.name.clone(), node.runnable.to_string(), node.why_not.join("; ")]
        });
        std::iter::once(own).chain(nodes).collect::<Vec<_>>()
    });
    let verdict =
        [("runnable", Some(placement.runnable.to_string())), ("summary", Some(placement.summary.clone()))];
    pairs(&verdict) + "\n" + &wrapped(&["zone", "node", "runnable", "why not"], rows)
}
