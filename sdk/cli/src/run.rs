//! `gristmill run`: submit, follow, fetch.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use gristmill_client::user::Client;
use gristmill_protocol::{JobSpec, JobState, JobView, job::OutputEntry};
use serde_json::json;

use crate::{
    args::Global,
    connect::connect_or_begin,
    failure::Exit,
    follow::{self, Followed},
    inputs,
    interrupt::Interrupt,
    job_args::JobArgs,
    local,
    module_ref::ModuleArg,
    outputs,
    printer::Printer,
    progress::Progress,
    steady::{Steady, job_is_kept},
    summary,
};

/// How long the answer to a submit may wait for the job's end: a quick job needs no second call.
const SUBMIT_WAIT: Duration = Duration::from_millis(200);

/// Run a module: submit a job, follow it, fetch its outputs
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) job: JobArgs,
    /// Directory that receives the outputs; it is made, also when there are none
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Run a local .wasm in the same sandbox, without a server
    #[arg(long)]
    pub(crate) local: bool,
}

/// Runs the command.
pub(crate) async fn run(args: RunArgs, global: &Global) -> anyhow::Result<Exit> {
    args.job.check_sources()?;
    if let Some(out) = &args.out {
        outputs::check_writable(out)?;
    }
    if args.local {
        return local::run(&args, global).await;
    }
    let module = ModuleArg::parse(&args.job.module)?;
    let spec = args.job.spec()?;
    let interrupt = Interrupt::for_job();
    let progress = Progress::start();
    progress.phase("connecting");
    let prepared = async {
        let connection = connect_or_begin(global).await?;
        let spec = complete(&connection.client, spec, &module, &args.job, &progress).await?;
        anyhow::Ok((connection, spec))
    };
    let (connection, spec) = tokio::select! {
        prepared = prepared => prepared?,
        () = interrupt.first() => {
            progress.finish();
            eprintln!("interrupted before the job was submitted");
            return Ok(Exit::JobCancelled);
        }
    };
    let steady = Steady::new(connection);
    let (spec, key) = (&spec, &args.job.key());
    let submit = steady.call(|client| async move { client.job_submit(spec, key, Some(SUBMIT_WAIT)).await });
    let job = submit.await.context("cannot submit the job")?;
    let _cancel = interrupt.cancel_on(&steady, job.id);
    let ended = async {
        let newline = Arc::new(AtomicBool::new(true));
        let followed = follow_within(&steady, &job, &args.job, global, &progress, &newline).await?;
        let Some(followed) = followed else {
            return timed_out(&steady, &job, global, &progress).await;
        };
        let outputs = save(&steady, &followed.job, args.out.as_deref(), &progress).await?;
        progress.finish();
        finish(&followed, &outputs, &newline, global)
    };
    ended.await.map_err(|error| job_is_kept(error, job.id))
}

/// Brings module, stdin and inputs to the server and names them in the job.
pub(crate) async fn complete(
    client: &Client,
    mut spec: JobSpec,
    module: &ModuleArg,
    args: &JobArgs,
    progress: &Progress,
) -> anyhow::Result<JobSpec> {
    inputs::check_distinct(&args.inputs)?;
    spec.module = module.resolve(client, progress).await?;
    spec.inputs = inputs::upload(client, &args.inputs, progress).await?;
    if let Some(path) = &args.stdin {
        spec.stdin = Some(inputs::upload_stdin(client, path, progress).await?);
    }
    Ok(spec)
}

/// Follows the job, at most for `--wait-timeout`.
async fn follow_within(
    steady: &Steady,
    job: &JobView,
    args: &JobArgs,
    global: &Global,
    progress: &Progress,
    newline: &AtomicBool,
) -> anyhow::Result<Option<Followed>> {
    let follow = follow::follow(steady, job, global.json(), progress, newline);
    let Some(limit_ms) = args.wait_timeout else { return follow.await.map(Some) };
    match tokio::time::timeout(Duration::from_millis(limit_ms), follow).await {
        Ok(followed) => followed.map(Some),
        Err(_) => Ok(None),
    }
}

async fn timed_out(
    steady: &Steady,
    job: &JobView,
    global: &Global,
    progress: &Progress,
) -> anyhow::Result<Exit> {
    progress.finish();
    let id = job.id;
    let job = steady.call(|client| async move { client.job_get(&id).await }).await?;
    eprintln!("{} is {} and goes on; wait for it with: gristmill job wait {}", job.id, job.state, job.id);
    Printer::new(global.json()).show(&job, |_| String::new())?;
    Ok(Exit::WaitTimedOut)
}

async fn save(
    steady: &Steady,
    job: &JobView,
    out: Option<&std::path::Path>,
    progress: &Progress,
) -> anyhow::Result<Vec<OutputEntry>> {
    if job.state != JobState::Succeeded || job.output_count == 0 {
        return Ok(Vec::new());
    }
    let id = job.id;
    let outputs = steady.call(|client| async move { client.job_outputs(&id).await }).await?;
    if let Some(dir) = out {
        progress.phase("fetching the outputs");
        outputs::fetch_all(&steady.client().await, &id, &outputs, dir).await?;
    }
    Ok(outputs)
}

fn finish(
    followed: &Followed,
    outputs: &[OutputEntry],
    newline: &AtomicBool,
    global: &Global,
) -> anyhow::Result<Exit> {
    if !newline.load(Ordering::Relaxed) {
        eprintln!();
    }
    for fault in &followed.stream_faults {
        eprintln!("warning: {fault}");
    }
    eprintln!("{}", summary::line(&followed.job));
    if global.json() {
        let mut document = json!(followed.job);
        document["outputs"] = json!(outputs);
        document["attempts"] = json!(followed.attempts);
        document["stream_faults"] = json!(followed.stream_faults);
        Printer::new(true).show(&document, |_| String::new())?;
    }
    Ok(exit(&followed.job, &followed.stream_faults))
}

/// A job that succeeded while its streams are not whole is no plain success.
fn exit(job: &JobView, stream_faults: &[String]) -> Exit {
    match Exit::of_job(job.state) {
        Exit::Ok if !stream_faults.is_empty() => Exit::Error,
        exit => exit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_stream_turns_success_into_an_error_and_leaves_failures_alone() {
        let cut = ["cut".to_owned()];
        let exits = ["succeeded", "failed", "cancelled"].map(|state| exit(&summary::sample(state), &cut));
        assert_eq!(exits, [Exit::Error, Exit::JobFailed, Exit::JobCancelled]);
        assert_eq!(exit(&summary::sample("succeeded"), &[]), Exit::Ok);
    }
}
