//! Who waits for whom to have a module compiled, and what a compiler takes.

use std::{fs, time::Duration};

use gristmill_executor::ExecutorConfig;
use gristmill_protocol::{LimitsSpec, Metering, limits::SlotSize};

use super::*;
use crate::room::Room;

const PATIENCE: Duration = Duration::from_secs(60);
/// Long enough for a compiler to be started that should not be.
const A_WHILE: Duration = Duration::from_millis(300);

/// A node's compiler, whose children never come to an end, and its room.
struct Bench {
    compiler: Compiler,
    room: Arc<Room>,
    name: &'static str,
    dir: tempfile::TempDir,
    /// Nobody asks for a stop; see [`gristmill_executor::compile`].
    never: watch::Receiver<Option<StopReason>>,
}

impl Bench {
    /// Its children have `name` on their command line.
    async fn open(name: &'static str) -> Self {
        let test = std::env::current_exe().expect("this test's own path");
        let exe = test.ancestors().nth(2).expect("the target directory").join("examples/executor_child");
        assert!(exe.exists(), "{}: `cargo build --release --workspace --examples` makes it", exe.display());
        let dir = tempfile::tempdir().expect("a directory");
        let config = ExecutorConfig { exe, prefix_args: vec!["idles".into(), name.into()] };
        let confiner = Confiner::measure(config, dir.path().join("slots")).await.expect("confined");
        let cache_dir = dir.path().join("cache");
        fs::create_dir(&cache_dir).expect("a directory");
        let cache = Cache::open(&cache_dir, 1 << 30).expect("a cache");
        let compiler = Compiler::open(cache, confiner, &dir.path().join("key")).expect("a key");
        fs::write(dir.path().join("wasm"), "").expect("a file");
        let room = Room::of(4_000, 16 << 30, 10);
        Self { compiler, room, name, dir, never: watch::channel(None).1 }
    }

    async fn compile(&self, tenant: &str, spec: CodeSpec, reserved: Option<Arc<Reserved>>) -> Outcome {
        let customer = Customer { tenant, reserved: reserved.as_ref() };
        let wasm = self.dir.path().join("wasm");
        let compiled = self.compiler.compile(customer, &spec, wasm, self.never.clone()).await;
        compiled.expect_err("no child comes to an end")
    }

    /// The process ids of the compilers at work.
    fn children(&self) -> Vec<u32> {
        let words = format!("\0{}\0compile\0", self.name);
        let processes = fs::read_dir("/proc").expect("processes").flatten();
        let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_one = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&words)
        };
        numbers.filter(is_one).collect()
    }

    async fn has_children(&self, count: usize) -> Vec<u32> {
        let waiting = async {
            loop {
                let children = self.children();
                if children.len() == count {
                    return children;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, waiting).await;
        found.unwrap_or_else(|_| panic!("{count} compilers, not {:?}", self.children()))
    }
}

fn limits(time_ms: u64) -> Limits {
    let spec = LimitsSpec {
        cpus_milli: Some(500),
        memory_bytes: Some(1 << 30),
        compile_time_ms: Some(time_ms),
        ..LimitsSpec::default()
    };
    spec.resolve(SlotSize::default()).expect("in range")
}

fn module(number: u8, time_ms: u64) -> CodeSpec {
    let mut limits = limits(time_ms);
    limits.metering = Metering::None;
    let module = Digest::from_bytes([number; 32]);
    CodeSpec { module, world: ModuleWorld::WasiP1, limits, reproducible: false }
}

#[tokio::test]
async fn a_compiler_is_gone_before_the_room_that_it_took_is_free() {
    let bench = Bench::open("takes-room").await;
    let reserved = bench.room.reserve(&limits(1)).expect("room");
    let mut compiling = Box::pin(bench.compile("mill", module(1, 600_000), Some(Arc::clone(&reserved))));
    let children = tokio::select! {
        outcome = &mut compiling => panic!("{outcome:?}"),
        children = bench.has_children(1) => children,
    };
    let taken = bench.room.free();
    assert_eq!((taken.cpus_milli, taken.memory_bytes), (2_000, 12 << 30), "what a compiler may use");
    // As when the attempt is stopped.
    drop((compiling, reserved));
    assert_eq!(bench.room.free(), taken, "nobody has seen the compiler's end yet");
    let freed = async {
        while !bench.room.is_idle() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, freed).await.expect("the room is given back");
    assert!(!Path::new(&format!("/proc/{}", children[0])).exists());
}

#[tokio::test]
async fn a_tenant_whose_modules_take_long_keeps_nobody_from_the_module_that_it_waits_for() {
    let bench = Bench::open("is-fair").await;
    let long = 600_000;
    let mut bomb = Box::pin(bench.compile("rival", module(1, long), None));
    tokio::select! {
        outcome = &mut bomb => panic!("{outcome:?}"),
        _ = bench.has_children(1) => {}
    }
    // It waits behind its own bomb for a module that others need too.
    let mut queued = Box::pin(bench.compile("rival", module(2, long), None));
    tokio::select! {
        outcome = &mut queued => panic!("{outcome:?}"),
        () = tokio::time::sleep(A_WHILE) => assert_eq!(bench.children().len(), 1, "one for each tenant"),
    }
    let mut honest = Box::pin(bench.compile("mill", module(2, long), None));
    tokio::select! {
        outcome = &mut honest => panic!("{outcome:?}"),
        _ = bench.has_children(2) => {}
    }
    // Another tenant that needs the same code does not have it compiled once more.
    let mut third = Box::pin(bench.compile("bakery", module(2, long), None));
    tokio::select! {
        outcome = &mut third => panic!("{outcome:?}"),
        () = tokio::time::sleep(A_WHILE) => assert_eq!(bench.children().len(), 2, "one for each module"),
    }
    drop((bomb, queued, honest, third));
    bench.has_children(0).await;
}

#[tokio::test]
async fn a_compiler_that_got_no_cpu_time_says_nothing_about_its_module() {
    let bench = Bench::open("is-starved").await;
    for _ in 0..2 {
        let outcome = bench.compile("mill", module(1, 200), None).await;
        assert_eq!(outcome.reason, Some(Reason::CompileTimeout), "{outcome:?}");
        assert!(outcome.usage.compile_us.is_some(), "it was tried, and not remembered: {outcome:?}");
    }
}

#[test]
fn a_failure_of_the_node_has_its_cause_but_no_path_in_the_message() {
    let full = std::io::Error::from(rustix::io::Errno::NOSPC);
    let outcome = node_failed_by("store an input", &full);
    assert_eq!(outcome.reason, Some(Reason::ExecutorCrashed));
    let text = outcome.message.expect("a message");
    assert!(text.starts_with("the node failed to store an input: No space left"), "{text}");
    let named = std::io::Error::new(std::io::ErrorKind::NotFound, "/host/path is gone");
    let text = node_failed_by("lay out the inputs", &named).message.expect("a message");
    assert_eq!(text, "the node failed to lay out the inputs: entity not found");
}
