//! Real processes: started, killed, and looked at through `/proc`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// The `gristmill` binary under test: `GRISTMILL_BIN`, else the one beside the test executable.
///
/// # Panics
/// When there is none, with what to do.
pub fn gristmill() -> PathBuf {
    if let Some(named) = std::env::var_os("GRISTMILL_BIN") {
        return PathBuf::from(named);
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile_dir = test.ancestors().nth(2).expect("test executables lie in target/PROFILE/deps");
    let binary = profile_dir.join("gristmill");
    assert!(
        binary.is_file(),
        "{} does not exist; build it first with `cargo build --release`, or run tests/run",
        binary.display()
    );
    binary
}

/// A running `gristmill` process. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts the binary under test with an environment of its own: a home in `dir`, and stderr
    /// appended to `dir/NAME.log`.
    ///
    /// # Panics
    /// When the process cannot be started.
    pub fn start(dir: &Path, name: &str, args: &[&str]) -> Self {
        Self::start_with(dir, name, args, &[])
    }

    /// As [`Process::start`], with further variables in the environment.
    ///
    /// # Panics
    /// When the process cannot be started.
    pub fn start_with(dir: &Path, name: &str, args: &[&str], variables: &[(String, String)]) -> Self {
        let log = dir.join(format!("{name}.log"));
        let stderr = fs::OpenOptions::new().create(true).append(true).open(&log).expect("the log opens");
        let child = isolated(&gristmill(), dir)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("the binary starts");
        Self { child, name: name.to_owned(), log }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the process has written to stderr so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill_9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        send_signal(self.pid(), signal);
    }

    /// Waits for the process to end by itself.
    ///
    /// # Panics
    /// When it still runs after `limit`; the panic shows its log.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let give_up = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("own children can be waited for") {
                return status;
            }
            assert!(Instant::now() < give_up, "{} still runs after {limit:?}:\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Largest resident memory so far, in bytes.
    pub fn memory_peak_bytes(&self) -> u64 {
        memory_peak_bytes(self.pid()).unwrap_or(0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_9();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- end of the log of {} (pid {})", self.name, self.child.id());
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// A command that inherits nothing but `PATH`, with its home and XDG directories below `home`.
pub fn isolated(program: &Path, home: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("XDG_DATA_HOME", home.join("data"))
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env("XDG_CACHE_HOME", home.join("cache"))
        .env("XDG_STATE_HOME", home.join("state"))
        .env("XDG_RUNTIME_DIR", home.join("runtime"));
    command
}

/// Sends a signal to any process; a process that is gone is no error.
pub fn send_signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// `VmHWM` of a process, in bytes.
pub fn memory_peak_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Memory that could be had right now without swapping, in bytes.
///
/// # Panics
/// When the system does not say so.
pub fn memory_available_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("Linux says it");
    let line = text.lines().find(|line| line.starts_with("MemAvailable:")).expect("a line");
    let kib = line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
    kib.expect("a number") * 1024
}

/// CPU time of a process so far, in hundredths of a second; `None` when it is gone.
pub fn cpu_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut after_name = stat.rsplit(')').next()?.split_whitespace().skip(11);
    let mut next = || after_name.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// All living processes below `pid`, children first, with their command lines.
pub fn descendants(pid: u32) -> Vec<(u32, String)> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // "pid (name, which may hold anything) state parent …"
        let mut after_name = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let (state, parent) =
            (after_name.next(), after_name.next().and_then(|text| text.parse::<u32>().ok()));
        if let (Some(state), Some(parent)) = (state, parent)
            && state != "Z"
        {
            parents.push((id, parent));
        }
    }
    let mut found = vec![pid];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(parents.iter().filter(|&&(_, of)| of == parent).map(|&(id, _)| id));
        next += 1;
    }
    found.into_iter().skip(1).map(|id| (id, command_line(id))).collect()
}

/// The descendants of `pid` that run the given subcommand of the binary.
pub fn children_running(pid: u32, subcommand: &str) -> Vec<u32> {
    let runs = |line: &str| line.split(' ').skip(1).any(|part| part == subcommand);
    descendants(pid).into_iter().filter(|(_, line)| runs(line)).map(|(id, _)| id).collect()
}

/// The arguments of a process, separated by blanks; empty when it is gone.
pub fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').replace('\0', " ")
}

/// Whether the process exists, with at least one thread that is no zombie.
pub fn is_running(pid: u32) -> bool {
    // A process that was killed is a zombie by its first thread while others still hold its files and locks.
    let has_threads = || fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| threads.count() > 1);
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z') || has_threads()
    })
}
