//! Children of the node: how they are started, watched, killed and reaped.
//!
//! All children are started from one thread that lives as long as the process, because the signal
//! that ends a child with its parent is bound to the thread that started it.

use std::{
    io::{self, Read as _},
    os::{
        fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
        unix::net::UnixStream as StdUnixStream,
    },
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::Duration,
};

use rustix::{
    io::{FdFlags, fcntl_getfd, fcntl_setfd},
    process::{Pid, Signal, kill_process_group},
};
use tokio::{
    net::UnixStream,
    process::{Child, ChildStdout, Command},
    runtime::Handle,
    sync::oneshot,
};

/// Bytes of a child's stderr that are kept for its obituary.
const TAIL_BYTES: usize = 4 << 10;
/// Bytes of a child's stderr that go to the node's log.
const LOGGED_BYTES_MAX: usize = 64 << 10;

/// How long a child that closed its pipe may take to end.
const ENDING_TIME: Duration = Duration::from_secs(1);

/// How children are started.
#[derive(Debug, Clone)]
pub struct ExecutorConfig {
    /// The `gristmill` binary; started as `exe executor` and `exe compile`.
    pub exe: PathBuf,
    /// Arguments before the subcommand; normally empty.
    pub prefix_args: Vec<String>,
}

/// A child process. Who drops it before its end was seen leaves it to die unseen: see
/// [`ChildProcess::take`].
pub(crate) struct ChildProcess {
    /// `None` once it was reaped.
    child: Option<Child>,
    status: Option<ExitStatus>,
    /// Until it has arrived.
    stderr_tail: Option<oneshot::Receiver<Vec<u8>>>,
    stderr: String,
}

/// How a child died.
pub(crate) struct Death {
    pub(crate) status: Option<ExitStatus>,
    /// The end of what it wrote to stderr.
    pub(crate) stderr: String,
}

impl ChildProcess {
    /// Starts `exe [prefix…] subcommand` with a socket for orders as stdin and a pipe for reports as
    /// stdout; stderr goes to the log. The child gets no environment, no other descriptor, and a process
    /// group of its own; it takes the user id `uid` itself. After an error there is no child. Not
    /// cancel-safe: a child may then live on for a moment.
    pub(crate) async fn spawn(
        config: &ExecutorConfig,
        subcommand: &str,
        uid: Option<u32>,
    ) -> io::Result<(Self, UnixStream, ChildStdout)> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let ours = UnixStream::from_std(ours)?;
        let mut command = Command::new(absolute(config.exe.clone()));
        command
            .args(&config.prefix_args)
            .arg(subcommand)
            .args(uid.map(|uid| format!("--uid={uid}")))
            .env_clear()
            .current_dir("/")
            .process_group(0)
            .kill_on_drop(true)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped());
        let (stderr, of_child) = io::pipe()?;
        command.stderr(of_child);
        let (reply, answer) = oneshot::channel();
        spawner()?
            .send(SpawnOrder { command, runtime: Handle::current(), reply })
            .map_err(|_| io::Error::other("the spawning thread is gone"))?;
        let mut child = answer.await.map_err(|_| io::Error::other("the spawning thread is gone"))??;
        let attached = (|| {
            let stdout = child.stdout.take().ok_or_else(|| io::Error::other("a child without stdout"))?;
            let tail = log_stderr(stderr, child.id().unwrap_or_default(), subcommand.to_owned())?;
            Ok((stdout, tail))
        })();
        let (stdout, tail) = match attached {
            Ok(attached) => attached,
            Err(error) => {
                _ = child.kill().await;
                return Err(error);
            }
        };
        let this = Self { child: Some(child), status: None, stderr_tail: Some(tail), stderr: String::new() };
        Ok((this, ours, stdout))
    }

    /// The process id, unless it was reaped.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref()?.id()
    }

    /// Kills the child with everything below it. Does not wait.
    pub(crate) fn kill(&mut self) {
        let Some(child) = &mut self.child else { return };
        if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            _ = kill_process_group(pid, Signal::KILL);
        }
        // Also in case that the child did not get as far as its own group.
        _ = child.start_kill();
    }

    /// What has still to be waited for; `None` if the child was reaped.
    pub(crate) fn take(&mut self) -> Option<Child> {
        self.child.take()
    }

    /// Waits for the child's end. Cancel-safe.
    async fn reap(&mut self) {
        if let Some(child) = &mut self.child {
            self.status = child.wait().await.ok();
            self.child = None;
        }
    }

    /// Gives a child that broke off a moment to end by itself, so that its status says why; then kills
    /// it.
    pub(crate) async fn kill_unless_ending(&mut self) {
        if tokio::time::timeout(ENDING_TIME, self.reap()).await.is_err() {
            self.kill();
        }
    }

    /// Waits for the child's end and reaps it. Cancel-safe; may be called again.
    pub(crate) async fn wait(&mut self) -> Death {
        self.reap().await;
        if let Some(tail) = &mut self.stderr_tail {
            let tail = tail.await.unwrap_or_default();
            self.stderr = String::from_utf8_lossy(&tail).into_owned();
            self.stderr_tail = None;
        }
        Death { status: self.status, stderr: self.stderr.clone() }
    }
}

impl Death {
    /// Such as `it was ended by signal 9 (SIGKILL)`.
    pub(crate) fn describe(&self) -> String {
        use std::os::unix::process::ExitStatusExt as _;
        let Some(status) = self.status else { return "its end could not be observed".to_owned() };
        match (status.code(), status.signal()) {
            (_, Some(signal)) => match Signal::from_named_raw(signal) {
                Some(name) => format!("it was ended by signal {signal} ({name:?})"),
                None => format!("it was ended by signal {signal}"),
            },
            (Some(code), None) => format!("it ended with code {code}"),
            (None, None) => "it ended for an unknown reason".to_owned(),
        }
    }

    /// Whether it ended because it could not get memory.
    pub(crate) fn out_of_memory(&self) -> bool {
        ["memory allocation of ", "Cannot allocate memory"].iter().any(|text| self.stderr.contains(text))
    }
}

/// A path as a child understands it, whose working directory is another. A path that cannot be made
/// absolute stays, and the child reports that it is not there.
pub(crate) fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

struct SpawnOrder {
    command: Command,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// The thread from which every child is started.
fn spawner() -> io::Result<&'static mpsc::Sender<SpawnOrder>> {
    static SPAWNER: OnceLock<mpsc::Sender<SpawnOrder>> = OnceLock::new();
    if let Some(found) = SPAWNER.get() {
        return Ok(found);
    }
    let (orders, received) = mpsc::channel::<SpawnOrder>();
    thread::Builder::new().name("gristmill-spawn".to_owned()).spawn(move || {
        for SpawnOrder { mut command, runtime, reply } in received {
            let _entered = runtime.enter();
            close_on_exec_all();
            // A caller that is gone drops the child, which kills it.
            _ = reply.send(command.spawn());
        }
    })?;
    // Of two threads started at once the second ends when its channel is dropped here.
    Ok(SPAWNER.get_or_init(|| orders))
}

/// Descriptors that this process inherited must not reach its children; those that it opened itself
/// are closed on exec anyway.
fn close_on_exec_all() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers: Vec<RawFd> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > io::stderr().as_raw_fd()) {
        set_close_on_exec(number);
    }
}

#[expect(unsafe_code, reason = "a descriptor found by number can only be borrowed this way")]
fn set_close_on_exec(number: RawFd) {
    // SAFETY: only a flag is read and set; if the descriptor is gone the calls fail with EBADF.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    if let Ok(flags) = fcntl_getfd(fd) {
        _ = fcntl_setfd(fd, flags | FdFlags::CLOEXEC);
    }
}

/// Passes a child's stderr on to the log, up to a bound; the answer is its tail, at the child's end.
fn log_stderr(
    mut stderr: io::PipeReader,
    pid: u32,
    subcommand: String,
) -> io::Result<oneshot::Receiver<Vec<u8>>> {
    let (reply, tail) = oneshot::channel();
    thread::Builder::new().name("gristmill-stderr".to_owned()).spawn(move || {
        let mut kept = Vec::new();
        let mut logged = 0;
        let mut chunk = [0; 4 << 10];
        while let Ok(count) = stderr.read(&mut chunk)
            && count > 0
        {
            if logged < LOGGED_BYTES_MAX {
                let text = String::from_utf8_lossy(&chunk[..count]);
                tracing::warn!(pid, subcommand, "child: {}", text.trim_end());
                logged += count;
            }
            kept.extend_from_slice(&chunk[..count]);
            let surplus = kept.len().saturating_sub(TAIL_BYTES);
            kept.drain(..surplus);
        }
        // Nobody may be interested any more.
        _ = reply.send(kept);
    })?;
    Ok(tail)
}
