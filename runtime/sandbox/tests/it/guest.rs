//! A guest in three lines: WAT text, limits, run.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::PathBuf,
    sync::Arc,
};

use gristmill_channel::{MountSpec, Report, RunEvent, RunSpec};
use gristmill_protocol::{
    Limits, LimitsSpec, Outcome, Reason, TrapKind, attempt::LogStream, limits::SlotSize, module::ModuleWorld,
};
use gristmill_sandbox::{EngineClass, RunControl, RunFiles, Sandbox, compile};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// A run, with paths where the sandbox gets open files.
pub(crate) struct RunRequest {
    pub(crate) compiled: PathBuf,
    pub(crate) world: ModuleWorld,
    pub(crate) program: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) stdin: Option<PathBuf>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) limits: Limits,
    pub(crate) success_exit_codes: Vec<i32>,
    pub(crate) reproducible: bool,
}

/// A directory that the guest sees.
pub(crate) struct Mount {
    pub(crate) guest_path: String,
    pub(crate) host_dir: PathBuf,
    pub(crate) writable: bool,
}

impl RunRequest {
    pub(crate) fn spec(&self) -> RunSpec {
        let mount =
            |mount: &Mount| MountSpec { guest_path: mount.guest_path.clone(), writable: mount.writable };
        RunSpec {
            label: "test".to_owned(),
            code_key: "code".to_owned(),
            world: self.world,
            program: self.program.clone(),
            args: self.args.clone(),
            env: self.env.clone(),
            has_stdin: self.stdin.is_some(),
            mounts: self.mounts.iter().map(mount).collect(),
            limits: self.limits.clone(),
            success_exit_codes: self.success_exit_codes.clone(),
            reproducible: self.reproducible,
        }
    }

    pub(crate) fn files(&self) -> RunFiles {
        let open = |path: &PathBuf| File::open(path).expect("a file");
        RunFiles {
            code: open(&self.compiled),
            stdin: self.stdin.as_ref().map(open_at_once),
            directories: self.mounts.iter().map(|mount| open(&mount.host_dir).into()).collect(),
        }
    }
}

/// A guest with its own scratch directory, not yet run.
pub(crate) struct Guest {
    pub(crate) request: RunRequest,
    pub(crate) root: PathBuf,
    pub(crate) dir: TempDir,
    wasm: Vec<u8>,
}

/// What came of it.
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// Pieces in which both came.
    pub(crate) events: usize,
    pub(crate) truncated: usize,
    /// Outcomes given to `on_stuck`.
    pub(crate) stuck: Vec<Outcome>,
}

pub(crate) fn limits(change: impl FnOnce(&mut LimitsSpec)) -> Limits {
    let mut spec = LimitsSpec { wall_time_ms: Some(20_000), ..LimitsSpec::default() };
    change(&mut spec);
    spec.resolve(SlotSize::default()).expect("limits in range")
}

impl Guest {
    /// A core module in text form.
    pub(crate) fn new(text: &str) -> Self {
        Self::of(wat::parse_str(text).expect("well-formed text"), ModuleWorld::WasiP1)
    }

    pub(crate) fn of(wasm: Vec<u8>, world: ModuleWorld) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("root");
        fs::create_dir(&root).expect("a directory");
        let request = RunRequest {
            compiled: dir.path().join("compiled"),
            world,
            program: "guest".to_owned(),
            args: Vec::new(),
            env: BTreeMap::new(),
            stdin: None,
            mounts: vec![Mount { guest_path: "/".to_owned(), host_dir: root.clone(), writable: true }],
            limits: limits(|_| {}),
            success_exit_codes: Vec::new(),
            reproducible: false,
        };
        Self { request, root, dir, wasm }
    }

    pub(crate) fn limits(mut self, change: impl FnOnce(&mut LimitsSpec)) -> Self {
        self.request.limits = limits(change);
        self
    }

    /// Adds a read-only directory with files.
    pub(crate) fn read_only(mut self, guest_path: &str, files: &[(&str, &str)]) -> Self {
        let host_dir = self.dir.path().join(format!("ro{}", self.request.mounts.len()));
        fs::create_dir(&host_dir).expect("a directory");
        for (name, text) in files {
            fs::write(host_dir.join(name), text).expect("a file");
        }
        self.request.mounts.push(Mount { guest_path: guest_path.to_owned(), host_dir, writable: false });
        self
    }

    pub(crate) fn run(&mut self) -> Ended {
        self.run_with(|_| {})
    }

    /// Runs and calls `meanwhile` with the control once the guest has started.
    pub(crate) fn run_with(&mut self, meanwhile: impl FnOnce(Arc<RunControl>) + Send) -> Ended {
        self.run_in(&Sandbox::start().expect("starts"), meanwhile)
    }

    /// The same in a sandbox that other guests were in before.
    pub(crate) fn run_in(
        &mut self,
        sandbox: &Sandbox,
        meanwhile: impl FnOnce(Arc<RunControl>) + Send,
    ) -> Ended {
        let class =
            EngineClass { metering: self.request.limits.metering, reproducible: self.request.reproducible };
        let code = compile(&self.wasm, self.request.world, class).expect("compiles");
        fs::write(&self.request.compiled, code).expect("a file");
        let stuck = Arc::new(std::sync::Mutex::new(Vec::new()));
        let of_control = Arc::clone(&stuck);
        let control = RunControl::new(move |outcome| of_control.lock().expect("unpoisoned").push(outcome));
        let (sender, mut receiver) = mpsc::channel(4);
        let mut ended = Ended {
            outcome: Outcome::failed(Reason::Trap, ""),
            stdout: vec![],
            stderr: vec![],
            events: 0,
            truncated: 0,
            stuck: vec![],
        };
        std::thread::scope(|scope| {
            let (spec, files, of_guest) = (self.request.spec(), self.request.files(), &control);
            let running = scope.spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("starts");
                let finished = runtime.block_on(sandbox.run(&spec, files, of_guest, sender.clone()));
                let end = finished.end.clone();
                sender.blocking_send(Report::End(Box::new(end.clone()))).expect("the test listens");
                finished.free();
                end
            });
            let mut meanwhile = Some(meanwhile);
            while let Some(Report::Event(event)) = receiver.blocking_recv() {
                ended.events += usize::from(matches!(event, RunEvent::Log { .. }));
                match event {
                    RunEvent::Started => {
                        let control = Arc::clone(&control);
                        let meanwhile = meanwhile.take().expect("starts once");
                        scope.spawn(move || meanwhile(control));
                    }
                    RunEvent::Log { stream: LogStream::Stdout, bytes, .. } => ended.stdout.extend(bytes),
                    RunEvent::Log { bytes, .. } => ended.stderr.extend(bytes),
                    RunEvent::LogTruncated => ended.truncated += 1,
                }
            }
            ended.outcome = running.join().expect("never panics").outcome;
        });
        ended.stuck = std::mem::take(&mut *stuck.lock().expect("unpoisoned"));
        ended
    }
}

impl Ended {
    #[track_caller]
    pub(crate) fn assert_reason(&self, reason: Reason) {
        assert_eq!(self.outcome.reason, Some(reason), "{:?}", self.outcome);
    }

    #[track_caller]
    pub(crate) fn assert_trap(&self, kind: TrapKind) {
        assert_eq!(self.outcome.trap_kind, Some(kind), "{:?}", self.outcome);
        self.assert_reason(Reason::Trap);
    }

    #[track_caller]
    pub(crate) fn assert_success(&self) {
        assert_eq!(self.outcome.exit_code, Some(0), "{:?}", self.outcome);
        assert_eq!(self.outcome.reason, None, "{:?}", self.outcome);
    }
}

/// A module around a body of `_start`, with the imports that tests use and 20 pages of memory. The
/// data: a path at each name's offset.
pub(crate) fn program(body: &str) -> String {
    program_with(20, "", body)
}

/// The same with so many pages of memory, and further items such as data.
pub(crate) fn program_with(pages: u32, items: &str, body: &str) -> String {
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_pwrite" (func $fd_pwrite (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_filestat_set_size" (func $set_size (param i32 i64) (result i32)))
  (import "wasi_snapshot_preview1" "fd_filestat_get" (func $fd_stat (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_readdir" (func $readdir (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_renumber" (func $renumber (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_remove_directory" (func $rmdir (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_symlink" (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_link" (func $link (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_rename" (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_allocate" (func $allocate (param i32 i64 i64) (result i32)))
  (import "wasi_snapshot_preview1" "fd_seek" (func $seek (param i32 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_filestat_get" (func $path_stat (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_readlink" (func $readlink (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_accept" (func $sock_accept (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_send" (func $sock_send (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (memory (export "memory") {pages})
  {items}
  (data (i32.const 1000) "a") (data (i32.const 1010) "b")
  (data (i32.const 1020) "../x") (data (i32.const 1040) "/etc/passwd") (data (i32.const 1060) "l/passwd")
  (data (i32.const 1080) "/etc") (data (i32.const 1090) "l") (data (i32.const 1100) "f") (data (i32.const 1110) ".")
  ;; open(dir, path, len, oflags, rights) -> errno; the descriptor is at 16
  (func $open (param $dir i32) (param $path i32) (param $len i32) (param $oflags i32) (param $rights i64) (result i32)
    (call $path_open (local.get $dir) (i32.const 1) (local.get $path) (local.get $len) (local.get $oflags)
      (local.get $rights) (local.get $rights) (i32.const 0) (i32.const 16)))
  ;; write(fd, len) -> errno; the count is at 8
  (func $write (param $fd i32) (param $len i32) (result i32)
    (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (local.get $len))
    (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))
  ;; exits with the number unless it is 0
  (func $check (param $errno i32)
    (if (local.get $errno) (then (call $exit (local.get $errno)))))
  (func (export "_start") {body}))"#
    )
}

/// `CREAT` of preview 1's open flags, and the right to read and write.
pub(crate) const CREAT: u32 = 1;
pub(crate) const TRUNC: u32 = 8;
pub(crate) const RW: u64 = 0x42;

/// Opens what may be a pipe without waiting for its other end.
fn open_at_once(path: &PathBuf) -> File {
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    File::options().read(true).custom_flags(flags).open(path).expect("a file")
}
