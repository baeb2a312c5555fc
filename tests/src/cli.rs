//! The command line as a person or script uses it, in a home of its own.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{gristmill, is_running, isolated, send_signal};

/// A home directory of its own; the private instance that lives in it is ended when dropped.
#[derive(Debug)]
pub struct Home {
    dir: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output, byte for byte.
    pub stdout: Vec<u8>,
    /// Standard error as text.
    pub stderr: String,
}

impl Ended {
    /// What a process that has ended left behind.
    pub fn from_output(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output as the one JSON document it has to be.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("{error} in {:?}\nstderr: {}", self.text(), self.stderr))
    }

    /// Insists on an exit code.
    ///
    /// # Panics
    /// When it is another one; the panic shows both streams.
    #[track_caller]
    #[expect(clippy::return_self_not_must_use, reason = "to insist is enough in many tests")]
    pub fn expect_code(self, code: i32) -> Self {
        assert!(
            self.code == code,
            "exit code {} instead of {code}\nstdout: {}\nstderr: {}",
            self.code,
            self.text(),
            self.stderr
        );
        self
    }
}

impl Default for Home {
    fn default() -> Self {
        let dir = tempfile::Builder::new().prefix("gristmill-home-").tempdir().expect("a temp dir");
        Self { dir }
    }
}

impl Home {
    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file into the home; answers its path.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, bytes).expect("the home is writable");
        path
    }

    /// The command, not yet started.
    pub fn command<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Command {
        let mut command = isolated(&gristmill(), self.path());
        command.args(args).current_dir(self.path()).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Ended {
        Ended::from_output(self.command(args).output().expect("the binary starts"))
    }

    /// The command as a person sees it: on a terminal of so many columns and 24 lines, whose whole
    /// output is stdout. Not yet started. The words must hold neither blanks nor quotes.
    pub fn terminal_command(&self, columns: u16, args: &[&str]) -> Command {
        let line = format!("stty cols {columns} rows 24; exec {} {}", gristmill().display(), args.join(" "));
        let mut command = isolated(Path::new("script"), self.path());
        command.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]);
        command.current_dir(self.path()).stdin(Stdio::null());
        command
    }

    /// Starts a command and leaves it running.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Started {
        Started::new(&mut self.command(args))
    }

    /// The processes that live in this home: the private instance and everything below it.
    pub fn processes(&self) -> Vec<u32> {
        let marker = format!("HOME={}", self.path().display());
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            if environment.split(|&byte| byte == 0).any(|text| text == marker.as_bytes()) && is_running(pid) {
                found.push(pid);
            }
        }
        found
    }

    /// Kills all of [`processes`](Self::processes) and waits until they are gone; false when they are not after 5 s.
    pub fn kill(&self) -> bool {
        let killed = self.processes();
        for &pid in &killed {
            send_signal(pid, Signal::KILL);
        }
        let give_up = Instant::now() + Duration::from_secs(5);
        while killed.iter().any(|&pid| is_running(pid)) {
            if Instant::now() > give_up {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            show_logs(self.path());
        }
    }
}

fn show_logs(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            show_logs(&path);
        } else if path.extension().is_some_and(|extension| extension == "log") {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- end of {}", path.display());
            lines.iter().skip(lines.len().saturating_sub(40)).for_each(|line| eprintln!("{line}"));
        }
    }
}

/// A command that still runs. Killed when dropped.
#[derive(Debug)]
pub struct Started {
    child: Child,
}

impl Started {
    /// Starts a command whose stdout and stderr are pipes.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn new(command: &mut Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { child: command.spawn().expect("the program starts") }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until stdout shows `text`; answers all of stdout up to then.
    ///
    /// # Panics
    /// When stdout ends before that.
    pub fn wait_for_stdout(&mut self, text: &str) -> String {
        use std::io::Read;
        let mut seen = Vec::new();
        let stdout = self.child.stdout.as_mut().expect("stdout is a pipe");
        let mut byte = [0];
        while !String::from_utf8_lossy(&seen).contains(text) {
            let count = stdout.read(&mut byte).expect("a pipe can be read");
            assert!(count == 1, "stdout ended before {text:?}: {:?}", String::from_utf8_lossy(&seen));
            seen.push(byte[0]);
        }
        String::from_utf8_lossy(&seen).into_owned()
    }

    /// What Ctrl-C sends.
    pub fn interrupt(&self) {
        send_signal(self.pid(), Signal::INT);
    }

    /// Waits for the end; what stdout said after the last wait is in the answer.
    ///
    /// # Panics
    /// When it still runs after `limit`.
    pub fn end(mut self, limit: Duration) -> Ended {
        use std::io::Read;
        let mut stdout_pipe = self.child.stdout.take().expect("stdout is a pipe");
        let mut stderr_pipe = self.child.stderr.take().expect("stderr is a pipe");
        let stdout = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stdout_pipe.read_to_end(&mut bytes);
            bytes
        });
        let stderr = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr_pipe.read_to_end(&mut bytes);
            bytes
        });
        let give_up = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("own children can be waited for") {
                break status;
            }
            assert!(Instant::now() < give_up, "the command still runs after {limit:?}");
            std::thread::sleep(Duration::from_millis(10));
        };
        let stdout = stdout.join().expect("the reader ends");
        let stderr = stderr.join().expect("the reader ends");
        Ended::from_output(Output { status, stdout, stderr })
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
