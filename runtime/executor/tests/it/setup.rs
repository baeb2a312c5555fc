//! A module compiled in a child and a request to run it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    os::unix::fs::chown,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use gristmill_executor::{
    Confiner, Executor, ExecutorConfig, compile,
    request::{CompileRequest, CompileSpec, MountSpec, RunRequest, RunSpec, StopReason},
};
use gristmill_protocol::{
    Isolation, Limits, LimitsSpec, Metering, Outcome, OuterLimit, limits::SlotSize, module::ModuleWorld,
};
use tempfile::TempDir;
use tokio::sync::watch;

pub(crate) fn config(way: &str) -> ExecutorConfig {
    let test = std::env::current_exe().expect("this test's own path");
    let exe = test.ancestors().nth(2).expect("the target directory").join("examples/executor_child");
    assert!(
        exe.exists(),
        "{} is not there: `cargo build --release --workspace --examples` makes it",
        exe.display()
    );
    ExecutorConfig { exe, prefix_args: vec![way.to_owned()] }
}

/// A watch that never asks for a stop. The sender is gone, which must not count as one.
pub(crate) fn no_stop() -> watch::Receiver<Option<StopReason>> {
    watch::channel(None).1
}

/// Says what this machine has and what it has not, also when tests are run without their output.
pub(crate) fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").expect("standard error takes a line");
}

/// As much confinement as the machine offers.
pub(crate) fn everything() -> Isolation {
    Isolation { outer_limit: OuterLimit::CgroupV2, own_uid: true, ..Isolation::default() }
}

/// The process id of a living child by the name of its workshop and its subcommand.
pub(crate) fn child(name: &str, subcommand: &str) -> Option<u32> {
    let words = format!("\0{name}\0{subcommand}\0");
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&words)
    })
}

/// Waits until there is such a child.
pub(crate) async fn living_child(name: &str, subcommand: &str) -> u32 {
    loop {
        if let Some(pid) = child(name, subcommand) {
            return pid;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) struct Workshop {
    pub(crate) dir: TempDir,
    pub(crate) confiner: Arc<Confiner>,
}

impl Workshop {
    pub(crate) async fn open() -> Self {
        Self::with("-").await
    }

    /// With children that misbehave in some way.
    pub(crate) async fn with(way: &str) -> Self {
        Self::confined(way, everything()).await
    }

    pub(crate) async fn confined(way: &str, most: Isolation) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let measured = Confiner::measure_up_to(most, config(way), dir.path().join("slots")).await;
        Self { dir, confiner: measured.expect("children can be confined") }
    }

    /// With children that have another word on their command line, by which [`child`] knows them.
    pub(crate) async fn named(way: &str, name: &str) -> Self {
        let mut config = config(way);
        config.prefix_args.push(name.to_owned());
        let dir = tempfile::tempdir().expect("a directory");
        let measured = Confiner::measure_up_to(everything(), config, dir.path().join("slots")).await;
        Self { dir, confiner: measured.expect("children can be confined") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) async fn executor(&self) -> Executor {
        Executor::spawn(&self.confiner, &[], Box::new(())).await.expect("starts")
    }

    pub(crate) fn compile_request(&self, wasm: &[u8]) -> CompileRequest {
        fs::write(self.path("wasm"), wasm).expect("a file");
        CompileRequest {
            spec: CompileSpec {
                world: ModuleWorld::WasiP1,
                metering: Metering::Fuel,
                reproducible: false,
                time_ms: 60_000,
                memory_bytes: 1 << 30,
            },
            cpus_milli: 2_000,
            wasm: File::open(self.path("wasm")).expect("the file"),
            output: self.path("compiled"),
            held: Box::new(()),
        }
    }

    /// Compiles a module in text form.
    pub(crate) async fn compile(&self, text: &str) -> Result<u64, Outcome> {
        let request = self.compile_request(&wat::parse_str(text).expect("well-formed text"));
        compile(&self.confiner, request, no_stop()).await.map_err(|failure| failure.outcome)
    }

    /// A run of what was compiled, in an empty directory of the executor's slot.
    pub(crate) fn request(&self, executor: &Executor, change: impl FnOnce(&mut LimitsSpec)) -> RunRequest {
        let slot = executor.slot();
        let root = slot.writable().join("root");
        fs::create_dir_all(&root).expect("a directory");
        chown(&root, slot.uid(), slot.uid()).expect("its owner");
        let code = File::open(self.path("compiled")).expect("compiled code");
        RunRequest {
            code: Arc::new(code),
            stdin: None,
            directories: vec![root],
            spec: RunSpec {
                label: "test".to_owned(),
                code_key: "code".to_owned(),
                world: ModuleWorld::WasiP1,
                program: "guest".to_owned(),
                args: Vec::new(),
                env: BTreeMap::new(),
                has_stdin: false,
                mounts: vec![MountSpec { guest_path: "/".to_owned(), writable: true }],
                limits: limits(change),
                success_exit_codes: Vec::new(),
                reproducible: false,
            },
        }
    }
}

pub(crate) fn limits(change: impl FnOnce(&mut LimitsSpec)) -> Limits {
    let mut spec = LimitsSpec { wall_time_ms: Some(20_000), ..LimitsSpec::default() };
    change(&mut spec);
    spec.resolve(SlotSize::default()).expect("limits in range")
}
