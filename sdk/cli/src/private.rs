//! The private instance: the server and node behind `run` when no server is configured.
//!
//! It is a background process of this same program. Three locks in its directory keep it single and
//! alive for as long as it is needed; the kernel releases them however a process ends.
//!
//! | file | who holds it |
//! |---|---|
//! | `start.lock` | a command that looks for the instance or starts it, one at a time |
//! | `instance.lock` | the instance, for as long as it lives |
//! | `users.lock` | shared: every command that uses the instance; exclusive: the instance when it ends |
//!
//! `instance.json` says where the instance listens. It is written when the instance is ready and
//! removed before it ends, and it counts only while `instance.lock` is held.

use std::{
    fs::{File, TryLockError},
    io::{Read as _, Seek as _, SeekFrom},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use gristmill_client::user::{Client, Endpoint, Secret};
use gristmill_protocol::{JobState, job::JobFilter};
use serde::{Deserialize, Serialize};

use crate::{
    embedded::{Embedded, EmbeddedConfig, machine_offer},
    environment,
    failure::{Exit, Failure},
    interrupt::Interrupt,
    printer::note,
    saved::{private_dir, write_private},
};

/// How long a command waits for the instance to start or to end.
const START_WAIT: Duration = Duration::from_mins(1);
/// How often the files are looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(15);
/// How long a living instance may take to accept a connection.
const DIAL_WAIT: Duration = Duration::from_secs(1);
/// How long the instance lives without a command that uses it and without unfinished jobs.
const IDLE: Duration = Duration::from_mins(1);
/// How long the instance lets running jobs finish when it is told to end.
const END_GRACE: Duration = Duration::from_secs(10);
/// The log is started anew when it is larger than this.
const LOG_BYTES_MAX: u64 = 4 << 20;

/// The background process behind `run` when no server is configured
#[derive(Debug, Args)]
pub(crate) struct InstanceArgs {
    /// Its directory
    #[arg(long)]
    data: PathBuf,
}

/// Keeps the private instance alive until it is dropped.
#[derive(Debug)]
pub(crate) struct Attachment {
    _users: File,
}

#[derive(Debug, Serialize, Deserialize)]
struct InstanceFile {
    pid: i32,
    build: String,
    server: String,
    token: String,
}

impl InstanceFile {
    fn path(dir: &Path) -> PathBuf {
        dir.join("instance.json")
    }

    fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(Self::path(dir)).ok()?).ok()
    }

    /// Whether somebody answers at the address, which is this machine's own.
    fn is_listening(&self) -> bool {
        let address = self.server.strip_prefix("http://").and_then(|address| address.parse().ok());
        address.is_some_and(|address: SocketAddr| TcpStream::connect_timeout(&address, DIAL_WAIT).is_ok())
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint { server: self.server.clone(), token: Some(Secret::new(&self.token)), ca_file: None }
    }
}

/// Whether there is, or was, a private instance.
pub(crate) fn exists() -> anyhow::Result<bool> {
    Ok(environment::data_dir()?.join("instance.lock").exists())
}

/// Finds the living instance or starts one, and keeps it alive.
pub(crate) async fn attach() -> anyhow::Result<(Endpoint, Attachment)> {
    let dir = environment::data_dir()?;
    private_dir(&dir)?;
    if let (_, Some(notice)) = machine_offer(None) {
        note(&notice);
    }
    tokio::task::spawn_blocking(move || attach_in(&dir, &|dir| spawn(dir))).await?
}

fn attach_in(
    dir: &Path,
    spawn: &dyn Fn(&Path) -> anyhow::Result<Child>,
) -> anyhow::Result<(Endpoint, Attachment)> {
    let starters = lock_file(dir, "start.lock")?;
    starters.lock().context("cannot lock start.lock")?;
    let (own, deadline) = (environment::build_fingerprint(), Instant::now() + START_WAIT);
    while Instant::now() < deadline {
        let users = lock_file(dir, "users.lock")?;
        // An instance that ends holds it until it is gone.
        if !try_shared(&users)? {
            std::thread::sleep(LOOK_EVERY);
            continue;
        }
        if try_exclusive(&lock_file(dir, "instance.lock")?)? {
            let file = start(dir, spawn, deadline)?;
            return Ok((file.endpoint(), Attachment { _users: users }));
        }
        match InstanceFile::read(dir) {
            // One that is being killed holds its lock a little longer than its port.
            Some(file) if file.build == own && file.is_listening() => {
                return Ok((file.endpoint(), Attachment { _users: users }));
            }
            Some(file) if file.build != own && !replace(dir, users, &file)? => {
                let users = lock_file(dir, "users.lock")?;
                users.lock_shared()?;
                note("another build's private instance is in use; this command uses it too");
                return Ok((file.endpoint(), Attachment { _users: users }));
            }
            _ => std::thread::sleep(LOOK_EVERY),
        }
    }
    Err(Failure::local("the private instance neither starts nor ends")
        .hint(format!("its log is {}", log_path(dir).display()))
        .into())
}

/// Starts an instance and waits until it is ready.
fn start(
    dir: &Path,
    spawn: &dyn Fn(&Path) -> anyhow::Result<Child>,
    deadline: Instant,
) -> anyhow::Result<InstanceFile> {
    // Left over from an instance that was killed.
    let _ = std::fs::remove_file(InstanceFile::path(dir));
    let mut child = spawn(dir)?;
    while Instant::now() < deadline {
        if let Some(file) = InstanceFile::read(dir) {
            return Ok(file);
        }
        if let Some(status) = child.try_wait()? {
            let detail = format!("the private instance ended with {status}: {}", last_log_line(dir));
            let hint = format!("its log is {}", log_path(dir).display());
            return Err(Failure::local(detail).hint(hint).into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(Failure::local(format!("the private instance was not ready after {} s", START_WAIT.as_secs()))
        .hint(format!("its log is {}", log_path(dir).display()))
        .into())
}

/// Tells an instance of another build to end if nobody uses it; false when somebody does.
fn replace(dir: &Path, users: File, file: &InstanceFile) -> anyhow::Result<bool> {
    drop(users);
    let users = lock_file(dir, "users.lock")?;
    if !try_exclusive(&users)? {
        return Ok(false);
    }
    if let Some(pid) = rustix::process::Pid::from_raw(file.pid) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    drop(users);
    let deadline = Instant::now() + START_WAIT;
    let instance = lock_file(dir, "instance.lock")?;
    while Instant::now() < deadline && !try_exclusive(&instance)? {
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(true)
}

fn spawn(dir: &Path) -> anyhow::Result<Child> {
    let path = log_path(dir);
    let fresh = std::fs::metadata(&path).is_ok_and(|meta| meta.len() > LOG_BYTES_MAX);
    let mut options = std::fs::OpenOptions::new();
    options.create(true).mode(0o600).append(!fresh).write(true).truncate(fresh);
    let log = options.open(&path).with_context(|| format!("cannot write {}", path.display()))?;
    Command::new(environment::program()?)
        .arg("instance")
        .arg("--data")
        .arg(dir)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start this program again")
}

fn log_path(dir: &Path) -> PathBuf {
    dir.join("instance.log")
}

fn last_log_line(dir: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log_path(dir))?;
        let start = file.metadata()?.len().saturating_sub(4_096);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let errors = text.lines().rev().find_map(|line| line.strip_prefix("error: "));
    errors.or_else(|| text.lines().last()).unwrap_or("its log is empty").to_owned()
}

fn lock_file(dir: &Path, name: &str) -> anyhow::Result<File> {
    let path = dir.join(name);
    let mut options = std::fs::OpenOptions::new();
    options.create(true).write(true).truncate(false).mode(0o600);
    options.open(&path).with_context(|| format!("cannot open {}", path.display()))
}

fn try_exclusive(file: &File) -> std::io::Result<bool> {
    locked(file.try_lock())
}

fn try_shared(file: &File) -> std::io::Result<bool> {
    locked(file.try_lock_shared())
}

fn locked(result: Result<(), TryLockError>) -> std::io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The body of the background process.
pub(crate) async fn run_instance(args: InstanceArgs) -> anyhow::Result<Exit> {
    // Ctrl-C in the terminal that started it is not meant for it. It fails for a process that
    // leads its group already, which then is apart from that terminal anyway.
    let _ = rustix::process::setsid();
    let interrupt = Interrupt::for_service();
    let dir = &args.data;
    let instance = lock_file(dir, "instance.lock")?;
    let mut held = try_exclusive(&instance)?;
    for _ in 0..200 {
        if held {
            break;
        }
        // The command that starts it may just be looking.
        tokio::time::sleep(LOOK_EVERY).await;
        held = try_exclusive(&instance)?;
    }
    if !held {
        return Err(Failure::local("another private instance lives in this directory").into());
    }
    let _ = std::fs::remove_file(InstanceFile::path(dir));
    let (offer, _) = machine_offer(None);
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let embedded = Embedded::start(EmbeddedConfig { data_dir: dir.clone(), listen, offer }).await?;
    let token = embedded.endpoint.token.as_ref().map(|token| token.expose().to_owned());
    let file = InstanceFile {
        pid: i32::try_from(std::process::id())?,
        build: environment::build_fingerprint(),
        server: embedded.endpoint.server.clone(),
        token: token.unwrap_or_default(),
    };
    write_private(&InstanceFile::path(dir), &serde_json::to_vec(&file)?)?;
    tracing::info!(server = file.server, pid = file.pid, "the private instance is ready");
    let client = embedded.client()?;
    let users = tokio::select! {
        users = until_idle(dir, &client, file.pid) => users?,
        () = interrupt.first() => None,
    };
    let _ = std::fs::remove_file(InstanceFile::path(dir));
    tracing::info!("the private instance ends");
    if tokio::time::timeout(END_GRACE, embedded.drain()).await.is_err() {
        tracing::warn!("jobs that still run are tried again at the next start");
    }
    embedded.stop().await;
    // Held to the end, so that a command that comes now waits for this process to be gone.
    drop(users);
    drop(instance);
    Ok(Exit::Ok)
}

/// Returns when nobody has used the instance for a while and no job is unfinished, with the lock
/// that keeps new commands waiting; or without it when its files were taken away.
async fn until_idle(dir: &Path, client: &Client, pid: i32) -> anyhow::Result<Option<File>> {
    let idle = environment::instance_idle().unwrap_or(IDLE);
    let mut used_at = Instant::now();
    let mut tick: u64 = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(1).min(idle)).await;
        tick += 1;
        if InstanceFile::read(dir).is_none_or(|file| file.pid != pid) {
            return Ok(None);
        }
        let users = lock_file(dir, "users.lock")?;
        if !try_exclusive(&users)? {
            used_at = Instant::now();
            continue;
        }
        let due = used_at.elapsed() >= idle;
        if (due || tick.is_multiple_of(10)) && has_unfinished_jobs(client).await? {
            used_at = Instant::now();
        } else if due {
            return Ok(Some(users));
        }
    }
}

async fn has_unfinished_jobs(client: &Client) -> anyhow::Result<bool> {
    for state in [JobState::Queued, JobState::Running] {
        let filter = JobFilter { state: Some(state), page_size: Some(1), ..JobFilter::default() };
        if !client.job_list(&filter).await?.items.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn instance(dir: &Path, build: &str, server: &str) {
        let file =
            InstanceFile { pid: i32::MAX, build: build.into(), server: server.into(), token: "gmu_x".into() };
        let text = serde_json::to_vec(&file).expect("a document");
        write_private(&InstanceFile::path(dir), &text).expect("written");
    }

    fn child(command: &str) -> anyhow::Result<Child> {
        Ok(Command::new("/bin/sh").arg("-c").arg(command).stdin(Stdio::null()).spawn()?)
    }

    #[test]
    fn what_a_killed_instance_left_behind_is_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        instance(dir.path(), &environment::build_fingerprint(), "http://old");
        let spawn = |dir: &Path| {
            instance(dir, &environment::build_fingerprint(), "http://fresh");
            child("exit 0")
        };
        let (endpoint, _attachment) = attach_in(dir.path(), &spawn).expect("attached");
        assert_eq!(endpoint.server, "http://fresh");
    }

    #[test]
    fn a_living_instance_is_used_and_kept_alive() {
        let dir = tempfile::tempdir().expect("a directory");
        let living = lock_file(dir.path(), "instance.lock").expect("a lock");
        assert!(try_exclusive(&living).expect("locked"));
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let living_at = format!("http://{}", listener.local_addr().expect("bound"));
        instance(dir.path(), &environment::build_fingerprint(), &living_at);
        let started = Cell::new(false);
        let spawn = |_: &Path| {
            started.set(true);
            child("exit 0")
        };
        let first = attach_in(dir.path(), &spawn).expect("attached");
        let second = attach_in(dir.path(), &spawn).expect("attached");
        assert_eq!((first.0.server.as_str(), started.get()), (living_at.as_str(), false));
        let users = lock_file(dir.path(), "users.lock").expect("a lock");
        assert!(!try_exclusive(&users).expect("looked"), "the instance must not end now");
        drop(first);
        assert!(!try_exclusive(&users).expect("looked"), "somebody still uses it");
        drop(second);
        // A child that another test starts meanwhile holds every open file until it is the other program.
        let may_end = || try_exclusive(&users).expect("looked");
        let is_free = (0..200).any(|_| {
            may_end() || {
                std::thread::sleep(Duration::from_millis(10));
                false
            }
        });
        assert!(is_free, "now it may end");
    }

    #[test]
    fn an_instance_that_is_being_killed_is_waited_for_and_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let dying = lock_file(dir.path(), "instance.lock").expect("a lock");
        assert!(try_exclusive(&dying).expect("locked"));
        // Nobody listens at the discard port.
        instance(dir.path(), &environment::build_fingerprint(), "http://127.0.0.1:9");
        let gone = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(dying);
        });
        let spawn = |dir: &Path| {
            instance(dir, &environment::build_fingerprint(), "http://fresh");
            child("exit 0")
        };
        let (endpoint, _attachment) = attach_in(dir.path(), &spawn).expect("attached");
        assert_eq!(endpoint.server, "http://fresh");
        gone.join().expect("no panic");
    }

    #[test]
    fn an_instance_that_cannot_start_says_why() {
        let dir = tempfile::tempdir().expect("a directory");
        let spawn = |dir: &Path| {
            std::fs::write(log_path(dir), "starting\nerror: the disk is full\nhint: make room\n")?;
            child("exit 1")
        };
        let error = attach_in(dir.path(), &spawn).expect_err("it did not start");
        assert!(error.to_string().contains("the disk is full"), "{error}");
    }
}
