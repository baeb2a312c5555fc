//! A run without a server: the same staging, compilation, sandbox and collecting as on a node.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _, Write},
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use anyhow::{Context, bail};
use gristmill_executor::{
    Confiner, Executor, ExecutorConfig, RunOrders, remove_tree,
    request::{MountSpec, RunEvent, RunRequest, RunSpec, StopReason},
};
use gristmill_inspect::{InspectError, Refusal, inspect_file};
use gristmill_protocol::{
    Digest, ErrorCode, Isolation, Limits, Outcome, OuterLimit, Reason,
    job::{InputKind, InputMode},
    limits::MODULE_BYTES_MAX,
    module::ModuleWorld,
    reason::OutcomeState,
};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, watch};

use crate::{
    attempt::{
        collect::{CollectError, Collected, collect},
        layout::{LayoutError, Mount, StagedInput, lay_out},
        placed,
        scratch_dirs::make_skeleton,
    },
    cache::Cache,
    code::{Code, CodeSpec, Compiler, Customer},
};

/// An input of a local run.
#[derive(Debug, Clone)]
pub struct LocalInput {
    /// Absolute guest path, such as `/in/NAME`.
    pub guest_path: String,
    /// A file, or a directory for a tree. It is mounted or copied, never changed.
    pub path: PathBuf,
    /// A file or a tree.
    pub kind: InputKind,
    /// Read-only, or a writable copy.
    pub mode: InputMode,
}

/// A local run of one module.
#[derive(Debug, Clone)]
pub struct LocalRun {
    /// How executors are started.
    pub executor: ExecutorConfig,
    /// Where compiled code is kept for the next run.
    pub cache_dir: PathBuf,
    /// Bytes of compiled code kept.
    pub cache_bytes_max: u64,
    /// The module's file.
    pub module: PathBuf,
    /// Its digest: the name of its compiled code.
    pub digest: Digest,
    /// Its contract.
    pub world: ModuleWorld,
    /// `argv[0]`.
    pub program: String,
    /// Arguments after it.
    pub args: Vec<String>,
    /// The guest's environment.
    pub env: BTreeMap<String, String>,
    /// File that is standard input; empty when absent.
    pub stdin: Option<PathBuf>,
    /// Files and trees.
    pub inputs: Vec<LocalInput>,
    /// Ceilings.
    pub limits: Limits,
    /// Exit codes beside 0 that mean success.
    pub success_exit_codes: Vec<i32>,
    /// Reproducible mode.
    pub reproducible: bool,
}

/// A file that the guest left below `/out`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalOutput {
    /// Path below `/out`, with `/` between parts; it never leads out.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its digest.
    pub digest: Digest,
    /// Where its bytes lie, as long as the [`LocalRunEnd`] lives.
    pub file: PathBuf,
}

/// How a local run ended.
#[derive(Debug)]
pub struct LocalRunEnd {
    /// The outcome.
    pub outcome: Outcome,
    /// Outputs, sorted by path; empty unless succeeded.
    pub outputs: Vec<LocalOutput>,
    /// The outputs lie in here.
    _scratch: Scratch,
}

/// The run's own directory. A lock in it tells later runs that it is in use.
#[derive(Debug)]
struct Scratch {
    dir: PathBuf,
    lock: File,
}

impl Scratch {
    /// Makes a directory in `runs` and removes those of runs that were killed.
    fn open(runs: &Path) -> io::Result<Self> {
        fs::create_dir_all(runs)?;
        for entry in fs::read_dir(runs)? {
            let stale = entry?.path();
            // A directory without a lock is just being made by another run, or is no run's.
            let Ok(lock) = File::open(stale.join("lock")) else { continue };
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                remove_tree(&stale)?;
            }
        }
        let dir = tempfile::Builder::new().prefix("run-").tempdir_in(runs)?;
        let lock = File::create(dir.path().join("new-lock"))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        fs::rename(dir.path().join("new-lock"), dir.path().join("lock"))?;
        make_skeleton(&dir.path().join("attempt"))?;
        Ok(Self { dir: dir.keep(), lock })
    }

    fn attempt(&self) -> PathBuf {
        self.dir.join("attempt")
    }

    fn slots(&self) -> PathBuf {
        self.dir.join("slots")
    }

    fn module(&self) -> PathBuf {
        self.dir.join("module")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), %error, "failed to remove a run's directory");
        }
        // Whatever is left is stale from now on.
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }
}

/// Runs a module without a server. What the guest writes comes through `events`; `stop` ends it.
///
/// Errors are the machine's: a file that cannot be read, a directory that cannot be made, an
/// executor that does not start; or the [`Refusal`] of a module that a server would not publish.
/// However the guest ends is an outcome. The compiled code is kept for the next run. Runs that share
/// `cache_dir` compile one after the other and run side by side.
pub async fn run_local(
    run: LocalRun,
    events: mpsc::Sender<RunEvent>,
    stop: watch::Receiver<Option<StopReason>>,
) -> anyhow::Result<LocalRunEnd> {
    let runs = run.cache_dir.join("runs");
    let scratch = tokio::task::spawn_blocking(move || Scratch::open(&runs))
        .await?
        .with_context(|| format!("failed to make a directory in {}", run.cache_dir.display()))?;
    let inputs = run.inputs.iter().map(staged).collect::<anyhow::Result<Vec<_>>>()?;
    let attempt = scratch.attempt();
    let laid_out = tokio::task::spawn_blocking(move || lay_out(&attempt, &inputs, &AtomicBool::new(false)));
    let mounts = match laid_out.await? {
        Ok(mounts) => mounts,
        // As on a node: the same inputs have the same outcome everywhere.
        Err(LayoutError::Path(text)) => {
            let outcome = Outcome::failed(Reason::InputMissing, text);
            return Ok(LocalRunEnd { outcome, outputs: Vec::new(), _scratch: scratch });
        }
        Err(LayoutError::Io(error)) => return Err(error).context("failed to lay out the inputs"),
    };
    // The guest may read what this user may read, so it runs as this user.
    let most = Isolation { outer_limit: OuterLimit::CgroupV2, ..Isolation::default() };
    let confiner = Confiner::measure_up_to(most, run.executor.clone(), scratch.slots())
        .await
        .context("failed to find out how executors can be confined")?;
    let lacks = confiner.isolation().lacks();
    if !lacks.is_empty() {
        tracing::warn!("isolation is weak: this kernel or container offers no {}", lacks.join(" and no "));
    }
    let code = match compiled(&run, &scratch, Arc::clone(&confiner), stop.clone()).await? {
        Ok(code) => code,
        Err(outcome) => return Ok(LocalRunEnd { outcome, outputs: Vec::new(), _scratch: scratch }),
    };
    // Shared trees are the user's own directories.
    let attempt = scratch.attempt();
    let shared: Vec<&Path> = mounts
        .iter()
        .map(|mount| mount.host_dir.as_path())
        .filter(|dir| !dir.starts_with(&attempt))
        .collect();
    let mut executor =
        Executor::spawn(&confiner, &shared, Box::new(())).await.context("failed to start an executor")?;
    let slot = executor.slot();
    let request = RunRequest {
        directories: placed::place(&attempt, &slot, &mounts).context("failed to lay out the inputs")?,
        stdin: run.stdin.as_deref().map(open).transpose()?,
        code: Arc::clone(&code.file),
        spec: run_spec(&run, code.key, &mounts),
    };
    let end = executor.run(request, events, RunOrders::without_lease(stop)).await;
    executor.kill().await;
    placed::take_back(&attempt, &slot).context("failed to take back what the guest wrote")?;
    let mut outcome = end.outcome;
    outcome.usage.compile_us = Some(code.compile_us);
    outcome.usage.compile_cache_hit = Some(code.is_cache_hit);
    let (outcome, outputs) = collected(outcome, scratch.attempt(), run.limits).await?;
    Ok(LocalRunEnd { outcome, outputs, _scratch: scratch })
}

fn run_spec(run: &LocalRun, code_key: String, mounts: &[Mount]) -> RunSpec {
    let mount = |mount: &Mount| MountSpec { guest_path: mount.guest_path.clone(), writable: mount.writable };
    RunSpec {
        label: "local run".into(),
        code_key,
        world: run.world,
        program: run.program.clone(),
        args: run.args.clone(),
        env: run.env.clone(),
        has_stdin: run.stdin.is_some(),
        mounts: mounts.iter().map(mount).collect(),
        limits: run.limits.clone(),
        success_exit_codes: run.success_exit_codes.clone(),
        reproducible: run.reproducible,
    }
}

/// Compiled code. It is open, so no other run's eviction takes it away.
async fn compiled(
    run: &LocalRun,
    scratch: &Scratch,
    confiner: Arc<Confiner>,
    stop: watch::Receiver<Option<StopReason>>,
) -> anyhow::Result<Result<Code, Outcome>> {
    let (cache_dir, cache_bytes_max) = (run.cache_dir.join("cache"), run.cache_bytes_max);
    let key_file = run.cache_dir.join("code.key");
    let opening = tokio::task::spawn_blocking(move || {
        fs::create_dir_all(&cache_dir)?;
        let lock = File::create(cache_dir.join("lock"))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        let cache = Cache::open(&cache_dir, cache_bytes_max)?;
        io::Result::Ok((lock, Compiler::open(cache, confiner, &key_file)?))
    });
    let (_lock, compiler) = opening.await?.context("failed to open the cache of compiled code")?;
    let spec = CodeSpec {
        module: run.digest,
        world: run.world,
        limits: run.limits.clone(),
        reproducible: run.reproducible,
    };
    if let Some(code) = compiler.find(&spec).await {
        return Ok(Ok(code));
    }
    let (from, copy, digest) = (run.module.clone(), scratch.module(), run.digest);
    let admitting = tokio::task::spawn_blocking(move || admit(&from, &copy, digest));
    admitting.await??;
    let customer = Customer { tenant: "", reserved: None };
    Ok(compiler.compile(customer, &spec, scratch.module(), stop).await)
}

/// Copies the module to where nobody changes it any more, and inspects the copy: no server has done
/// that, and a compiler is not to see what it would take gigabytes or hours for.
fn admit(from: &Path, copy: &Path, digest: Digest) -> anyhow::Result<()> {
    let about = || format!("failed to read {}", from.display());
    let mut file = File::open(from).with_context(about)?.take(MODULE_BYTES_MAX + 1);
    let mut sink = HashingFile { file: File::create_new(copy)?, hash: Sha256::new() };
    if io::copy(&mut file, &mut sink).with_context(about)? > MODULE_BYTES_MAX {
        return Err(Refusal {
            code: ErrorCode::ModuleTooLarge,
            detail: format!("the module is larger than {MODULE_BYTES_MAX} bytes"),
            hint: "leave debug information out (strip it), or give data as an input instead".into(),
        }
        .into());
    }
    if Digest::from_bytes(sink.hash.finalize().into()) != digest {
        bail!("{} has changed while it was read; run it again", from.display());
    }
    match inspect_file(copy) {
        Ok(_) => Ok(()),
        Err(InspectError::Refused(refusal)) => Err(refusal.into()),
        Err(InspectError::Unreadable(error)) => Err(error).with_context(about),
    }
}

/// Hashes what is written to a file.
struct HashingFile {
    file: File,
    hash: Sha256,
}

impl Write for HashingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hash.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

async fn collected(
    mut outcome: Outcome,
    attempt: PathBuf,
    limits: Limits,
) -> anyhow::Result<(Outcome, Vec<LocalOutput>)> {
    if outcome.state != OutcomeState::Succeeded {
        return Ok((outcome, Vec::new()));
    }
    match tokio::task::spawn_blocking(move || collect(&attempt, &limits)).await? {
        Ok(collected) => {
            outcome.usage.output_bytes = Some(collected.bytes());
            outcome.message = collected.with_note(outcome.message);
            Ok((outcome, local_outputs(collected)))
        }
        Err(CollectError::TooLarge(text)) => {
            let usage = std::mem::take(&mut outcome.usage);
            Ok((Outcome { usage, ..Outcome::failed(Reason::OutputTooLarge, text) }, Vec::new()))
        }
        Err(CollectError::Io(error)) => Err(error).context("failed to collect the outputs"),
    }
}

fn local_outputs(collected: Collected) -> Vec<LocalOutput> {
    let output = |output: crate::attempt::collect::CollectedOutput| LocalOutput {
        path: output.entry.path,
        size: output.entry.size,
        digest: output.entry.digest,
        file: output.file,
    };
    collected.outputs.into_iter().map(output).collect()
}

fn staged(input: &LocalInput) -> anyhow::Result<StagedInput> {
    let source = canonical(&input.path)?;
    if source.is_dir() != (input.kind == InputKind::Tree) {
        anyhow::bail!("the input {} is not of the kind that was asked for", input.path.display());
    }
    Ok(StagedInput { guest_path: input.guest_path.clone(), source, kind: input.kind, mode: input.mode })
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("failed to open {}", path.display()))
}

fn canonical(path: &Path) -> anyhow::Result<PathBuf> {
    let found: io::Result<PathBuf> = fs::canonicalize(path);
    found.with_context(|| format!("failed to open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_killed_runs_go_and_those_in_use_stay() {
        let temp = tempfile::tempdir().expect("a directory");
        let killed = Scratch::open(temp.path()).expect("opened");
        let stale = killed.dir.clone();
        flock(&killed.lock, FlockOperation::Unlock).expect("as when the process is killed");
        let living = Scratch::open(temp.path()).expect("opened");
        assert!(!stale.exists() && living.attempt().join("rw/root/out").is_dir());
        let second = Scratch::open(temp.path()).expect("opened");
        assert!(living.dir.exists());
        drop((living, second));
        assert_eq!(fs::read_dir(temp.path()).expect("listed").count(), 0);
    }

    #[test]
    fn a_module_that_no_server_would_publish_is_refused_before_it_is_compiled() {
        let temp = tempfile::tempdir().expect("a directory");
        let (from, copy) = (temp.path().join("from"), temp.path().join("copy"));
        // 900,000 data segments announced, in a section of four bytes.
        fs::write(&from, b"\0asm\x01\0\0\0\x0b\x04\xa0\xf7\x36\0").expect("a file");
        let digest = Digest::from_bytes(Sha256::digest(fs::read(&from).expect("read")).into());
        let error = admit(&from, &copy, digest).expect_err("refused");
        let refusal = error.downcast_ref::<Refusal>().expect("a refusal");
        assert_eq!(refusal.code, ErrorCode::ModuleInvalid, "{refusal}");
        fs::remove_file(&copy).expect("copied");
        let error = admit(&from, &copy, Digest::from_bytes([0; 32])).expect_err("other bytes");
        assert!(error.to_string().contains("has changed"), "{error}");
    }
}
