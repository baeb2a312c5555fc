//! `gristmill run --local`: one attempt in the same sandbox, in an executor process, without a server.

use std::{
    collections::BTreeMap,
    io::Read as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use cap_std::{ambient_authority, fs::Dir};
use gristmill_executor::request::{RunEvent, StopReason};
use gristmill_node::{LocalInput, LocalOutput, LocalRun, run_local};
use gristmill_protocol::{
    JobSpec, Limits, Outcome,
    attempt::LogStream,
    job::{InputKind, InputMode, OutputEntry},
    module::ModuleWorld,
    reason::OutcomeState,
    units::format_bytes,
};
use serde_json::json;
use tokio::sync::{mpsc, watch};

use crate::{
    args::Global,
    embedded::{executor_config, machine_offer},
    environment,
    failure::{Exit, Failure},
    follow::Sink,
    harmless::harmless,
    inputs,
    interrupt::Interrupt,
    job_args::JobArgs,
    limit_texts::range_texts,
    module_ref::{ModuleArg, file_digest, name_from_file},
    outputs::{create_part, safe_path},
    printer::{Printer, note},
    progress::Progress,
    run::RunArgs,
    saved::private_dir,
    usage,
};

/// Compiled code that is kept for later runs.
const CACHE_BYTES_MAX: u64 = 5 << 30;

/// Runs the command.
pub(crate) async fn run(args: &RunArgs, global: &Global) -> anyhow::Result<Exit> {
    let ModuleArg::Local(wasm) = ModuleArg::parse(&args.job.module)? else {
        return Err(Failure::usage("--local runs a file").hint("name a .wasm file").into());
    };
    refuse_what_needs_a_server(&args.job, global)?;
    let spec = args.job.spec()?;
    inputs::check_distinct(&args.job.inputs)?;
    let interrupt = Interrupt::for_job();
    let (stop, stopped) = watch::channel(None);
    let progress = Progress::start();
    let newline = AtomicBool::new(true);
    let work = async {
        let files = Files::make(&args.job, &spec).await?;
        let run = prepare(args, &spec, &wasm, &files).await?;
        execute(run, args, global, &progress, &newline, stopped).await
    };
    let deadline = args.job.deadline.map_or(Duration::MAX, Duration::from_millis);
    let ended = tokio::select! {
        ended = work => ended?,
        never = stop_when(&interrupt, deadline, &stop) => match never {},
    };
    progress.finish();
    finish(&ended, &newline, global)
}

/// How the attempt ended.
struct Ended {
    outcome: Outcome,
    outputs: Vec<OutputEntry>,
    is_cut: bool,
}

/// Stops the guest at Ctrl-C or when the deadline passes; whoever runs it sees it end.
async fn stop_when(
    interrupt: &Interrupt,
    deadline: Duration,
    stop: &watch::Sender<Option<StopReason>>,
) -> std::convert::Infallible {
    let reason = match tokio::time::timeout(deadline, interrupt.first()).await {
        Ok(()) => StopReason::Cancelled,
        Err(_) => StopReason::Deadline,
    };
    stop.send_replace(Some(reason));
    std::future::pending().await
}

fn refuse_what_needs_a_server(job: &JobArgs, global: &Global) -> Result<(), Failure> {
    let given = [
        ("--server", global.server.is_some()),
        ("--context", global.context.is_some()),
        ("--token-file", global.token_file.is_some()),
        ("--zone", job.zone.is_some()),
        ("--label", !job.label.is_empty()),
        ("--priority", job.priority.is_some()),
        ("--queue-timeout", job.queue_timeout.is_some()),
        ("--wait-timeout", job.wait_timeout.is_some()),
        ("--retries", job.retries.is_some()),
        ("--retry-on", !job.retry_on.is_empty()),
        ("--idempotency-key", job.idempotency_key.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(Failure::usage(format!("{name} needs a server; leave it or --local away"))),
        None => Ok(()),
    }
}

/// What the node needs to run the module as it would run a job.
async fn prepare(args: &RunArgs, spec: &JobSpec, wasm: &Path, files: &Files) -> anyhow::Result<LocalRun> {
    Ok(LocalRun {
        executor: executor_config()?,
        cache_dir: files.dir.clone(),
        cache_bytes_max: CACHE_BYTES_MAX,
        module: std::path::absolute(wasm)?,
        digest: file_digest(wasm).await?,
        world: world(wasm)?,
        program: name_from_file(wasm),
        args: spec.args.clone(),
        env: environment_of_guest(spec),
        stdin: files.stdin.clone(),
        inputs: local_inputs(args, files.params.as_deref())?,
        limits: limits(spec)?,
        success_exit_codes: spec.success_exit_codes.clone(),
        reproducible: spec.reproducible,
    })
}

/// Files of this run that are not the user's own.
struct Files {
    dir: PathBuf,
    stdin: Option<PathBuf>,
    params: Option<PathBuf>,
    _lock: std::fs::File,
    /// Removed when the run is over.
    temporary: Vec<tempfile::NamedTempFile>,
}

impl Files {
    async fn make(args: &JobArgs, spec: &JobSpec) -> anyhow::Result<Self> {
        let (dir, lock) = free_cache(&environment::data_dir()?.join("local"))?;
        let mut files = Self { dir, stdin: None, params: None, _lock: lock, temporary: Vec::new() };
        match args.stdin.as_deref() {
            Some(path) if path == Path::new("-") => {
                let spooled =
                    inputs::spool(tokio::io::stdin()).await.context("cannot read standard input")?;
                files.stdin = Some(spooled.path().to_owned());
                files.temporary.push(spooled);
            }
            // A pipe can be read only once, and not by another process.
            Some(path) if !path.is_file() => {
                let spooled = inputs::spool(tokio::fs::File::open(path).await?).await?;
                files.stdin = Some(spooled.path().to_owned());
                files.temporary.push(spooled);
            }
            other => files.stdin = other.map(Path::to_owned),
        }
        if let Some(params) = &spec.params {
            let file = tempfile::NamedTempFile::new()?;
            serde_json::to_writer(&file, params)?;
            files.params = Some(file.path().to_owned());
            files.temporary.push(file);
        }
        Ok(files)
    }
}

/// The first cache that no other local run uses right now: one run after the other finds the code
/// that the one before has compiled.
fn free_cache(dir: &Path) -> anyhow::Result<(PathBuf, std::fs::File)> {
    for number in 0.. {
        let cache = dir.join(number.to_string());
        private_dir(&cache)?;
        let lock = std::fs::File::create(cache.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => return Ok((cache, lock)),
            Err(std::fs::TryLockError::WouldBlock) => {}
            Err(std::fs::TryLockError::Error(error)) => return Err(error.into()),
        }
    }
    Err(Failure::local("too many local runs at a time").into())
}

fn limits(spec: &JobSpec) -> anyhow::Result<Limits> {
    let (offer, notice) = machine_offer(None);
    if let Some(notice) = notice {
        note(&notice);
    }
    let resolved =
        spec.limits.resolve(offer.slot).map_err(|problems| Failure::usage(range_texts(&problems)))?;
    Ok(resolved)
}

/// A core module or a component, by the header of the file.
fn world(wasm: &Path) -> anyhow::Result<ModuleWorld> {
    let mut header = Vec::new();
    std::fs::File::open(wasm)?.take(8).read_to_end(&mut header)?;
    match header.as_slice() {
        b"\0asm\x01\0\0\0" => Ok(ModuleWorld::WasiP1),
        b"\0asm\x0d\0\x01\0" => Ok(ModuleWorld::WasiP2),
        _ => Err(Failure::local(format!("{} is neither a WASM module nor a component", wasm.display()))
            .hint("build the program for wasm32-wasip1 or wasm32-wasip2")
            .into()),
    }
}

/// Files and directories are given to the guest from where they lie.
fn local_inputs(args: &RunArgs, params: Option<&Path>) -> anyhow::Result<Vec<LocalInput>> {
    let mut staged = Vec::new();
    for input in &args.job.inputs {
        let meta = std::fs::metadata(&input.path).map_err(|error| {
            Failure::file(format!("--in {}={}", input.name, input.path.display()), &error)
        })?;
        let kind = if meta.is_dir() { InputKind::Tree } else { InputKind::File };
        let guest_path = input.guest_path();
        staged.push(LocalInput { guest_path, path: input.path.clone(), kind, mode: input.mode });
    }
    if let Some(params) = params {
        let guest_path = "/in/params.json".to_owned();
        let (kind, mode) = (InputKind::File, InputMode::Ro);
        staged.push(LocalInput { guest_path, path: params.to_owned(), kind, mode });
    }
    Ok(staged)
}

/// The job's own variables, and those of the guest contract that have a meaning without a server.
fn environment_of_guest(spec: &JobSpec) -> BTreeMap<String, String> {
    let mut env = spec.env.clone();
    if spec.bare_env {
        return env;
    }
    env.insert("GRISTMILL_JOB_ID".into(), "local".into());
    env.insert("GRISTMILL_ATTEMPT".into(), "1".into());
    env.insert("GRISTMILL_ZONE".into(), "local".into());
    env
}

async fn execute(
    run: LocalRun,
    args: &RunArgs,
    global: &Global,
    progress: &Progress,
    newline: &AtomicBool,
    stop: watch::Receiver<Option<StopReason>>,
) -> anyhow::Result<Ended> {
    let (events, mut happened) = mpsc::channel(64);
    progress.phase("compiling, or loading what was compiled before");
    let show = async {
        let mut stdout = Sink::new(LogStream::Stdout, global.json(), progress, newline);
        let mut stderr = Sink::new(LogStream::Stderr, global.json(), progress, newline);
        let mut is_cut = false;
        while let Some(event) = happened.recv().await {
            match event {
                RunEvent::Log { stream: LogStream::Stdout, bytes, .. } => stdout.write(bytes.into()).await?,
                RunEvent::Log { bytes, .. } => stderr.write(bytes.into()).await?,
                RunEvent::LogTruncated => is_cut = true,
                RunEvent::Started => progress.phase("running"),
            }
        }
        stdout.finish()?;
        stderr.finish()?;
        anyhow::Ok(is_cut)
    };
    let (end, is_cut) = tokio::join!(run_local(run, events, stop), show);
    let (end, is_cut) = (end?, is_cut?);
    let out = args.out.clone();
    tokio::task::spawn_blocking(move || {
        if let Some(out) = out {
            save(&end.outputs, &out)?;
        }
        let entry = |output: &LocalOutput| OutputEntry {
            path: output.path.clone(),
            digest: output.digest,
            size: output.size,
        };
        let outputs = end.outputs.iter().map(entry).collect();
        Ok(Ended { outcome: end.outcome.clone(), outputs, is_cut })
    })
    .await?
}

/// Copies the outputs below a directory, which is made if need be.
fn save(outputs: &[LocalOutput], out: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make the directory {}", out.display()))?;
    let root = Dir::open_ambient_dir(out, ambient_authority())?;
    for output in outputs {
        let about = || format!("cannot save the output {:?}", output.path);
        let path = safe_path(&output.path)?;
        let (part, mut file) = create_part(&root, &path).with_context(about)?;
        let copied =
            std::fs::File::open(&output.file).and_then(|mut from| std::io::copy(&mut from, &mut file));
        copied.and_then(|_| root.rename(&part, &root, &path)).with_context(about)?;
    }
    Ok(())
}

fn finish(ended: &Ended, newline: &AtomicBool, global: &Global) -> anyhow::Result<Exit> {
    if !newline.load(Ordering::Relaxed) {
        eprintln!();
    }
    if ended.is_cut {
        eprintln!("warning: standard output or standard error was cut at the log limit; raise --log-max");
    }
    eprintln!("{}", line(&ended.outcome));
    if global.json() {
        let mut document = json!(ended.outcome);
        document["outputs"] = json!(ended.outputs);
        document["log_truncated"] = ended.is_cut.into();
        Printer::new(true).show(&document, |_| String::new())?;
    }
    Ok(match ended.outcome.state {
        OutcomeState::Succeeded if ended.is_cut => Exit::Error,
        OutcomeState::Succeeded => Exit::Ok,
        OutcomeState::Cancelled => Exit::JobCancelled,
        _ => Exit::JobFailed,
    })
}

fn line(outcome: &Outcome) -> String {
    let usage = &outcome.usage;
    let reason = match (outcome.reason, outcome.trap_kind) {
        (Some(reason), Some(kind)) => format!(" ({reason}: {kind})"),
        (Some(reason), None) => format!(" ({reason})"),
        (None, _) => String::new(),
    };
    let mut parts = vec![format!("local run {}{reason}", outcome.state)];
    parts.extend(outcome.message.as_ref().map(|message| harmless(message)));
    parts.extend(outcome.reason.map(|reason| format!("hint: {}", reason.hint())));
    parts.extend(outcome.exit_code.map(|code| format!("exit code {code}")));
    parts.extend(usage::parts(usage));
    parts.extend(usage.output_bytes.map(|bytes| format!("output {}", format_bytes(bytes))));
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use gristmill_protocol::Reason;

    use super::*;

    #[test]
    fn the_contract_is_read_from_the_header() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("a.wasm");
        for (bytes, expected) in [
            (b"\0asm\x01\0\0\0rest".as_slice(), Some(ModuleWorld::WasiP1)),
            (b"\0asm\x0d\0\x01\0", Some(ModuleWorld::WasiP2)),
            (b"\0asm", None),
            (b"\x7fELF\x02\x01\x01\0", None),
        ] {
            std::fs::write(&file, bytes).expect("written");
            assert_eq!(world(&file).ok(), expected);
        }
    }

    #[test]
    fn the_last_line_names_state_reason_and_cost() {
        let mut outcome = Outcome::failed(Reason::FuelExhausted, "out of fuel");
        outcome.usage.fuel = Some(1_000);
        let line = line(&outcome);
        assert!(line.starts_with("local run failed (fuel_exhausted); out of fuel; hint: "), "{line}");
        assert!(line.ends_with("fuel 1,000"), "{line}");
    }
}
