//! The engine, the isolation that a node reaches here, and how fast guests run.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context as _;
use gristmill_executor::Confiner;
use gristmill_node::{LocalRun, run_local};
use gristmill_protocol::{
    Digest, Isolation, LimitsSpec, OuterLimit, Usage, limits::SlotSize, module::ModuleWorld,
    reason::OutcomeState, units::format_duration_us,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, watch};

use super::Check;
use crate::embedded::executor_config;

/// A program that multiplies, adds and stores for some 10^9 units of fuel; its text lies beside it.
const SPIN: &[u8] = include_bytes!("spin.wasm");
/// Fuel of one core-second by definition.
const FUEL_PER_CORE_SECOND: f64 = 1e10;
/// Core-seconds for that much fuel above which a job's default limits no longer fit together.
const RATE_SLOW: f64 = 2.0;

/// All three. A machine that cannot start executors fails the first and has no others.
pub(super) async fn checks() -> Vec<Check> {
    match measure().await {
        Ok((isolation, usage)) => vec![engine(&usage), judge_isolation(isolation), rate(&usage)],
        Err(error) => vec![Check::failed(
            "engine",
            format!("{error:#}"),
            "check memory and free space in the directory for temporary files; see --log-level debug",
        )],
    }
}

async fn measure() -> anyhow::Result<(Isolation, Usage)> {
    let dir =
        tempfile::Builder::new().prefix("gristmill-doctor-").tempdir().context("no temporary directory")?;
    let confiner = Confiner::measure(executor_config()?, dir.path().join("slots"))
        .await
        .context("no executor can be started")?;
    let isolation = confiner.isolation();
    drop(confiner);
    let (events, mut happened) = mpsc::channel(8);
    let (_stop, stopped) = watch::channel(None);
    let ending = run_local(local_run(dir.path())?, events, stopped);
    let (end, ()) = tokio::join!(ending, async { while happened.recv().await.is_some() {} });
    let outcome = end.context("a guest cannot be run")?.outcome;
    anyhow::ensure!(
        outcome.state == OutcomeState::Succeeded,
        "a guest that should succeed ended as {}{}",
        outcome.state,
        outcome.message.map(|text| format!(": {text}")).unwrap_or_default()
    );
    Ok((isolation, outcome.usage))
}

fn local_run(dir: &Path) -> anyhow::Result<LocalRun> {
    let module = dir.join("spin.wasm");
    std::fs::write(&module, SPIN).context("cannot write a module")?;
    let limits = LimitsSpec {
        cpus_milli: Some(1_000),
        memory_bytes: Some(64 << 20),
        wall_time_ms: Some(300_000),
        ..LimitsSpec::default()
    };
    let limits = limits.resolve(SlotSize::default()).map_err(|_| anyhow::anyhow!("limits out of range"))?;
    Ok(LocalRun {
        executor: executor_config()?,
        cache_dir: dir.join("cache"),
        cache_bytes_max: 64 << 20,
        module,
        digest: Digest::from_bytes(Sha256::digest(SPIN).into()),
        world: ModuleWorld::WasiP1,
        program: "spin".into(),
        args: Vec::new(),
        env: BTreeMap::new(),
        stdin: None,
        inputs: Vec::new(),
        limits,
        success_exit_codes: Vec::new(),
        reproducible: false,
    })
}

fn engine(usage: &Usage) -> Check {
    let shown = |us: Option<u64>| us.map_or_else(|| "an unknown time".to_owned(), format_duration_us);
    let detail = format!(
        "{}; a module compiled in {} and ran for {}",
        gristmill_executor::engine_version(),
        shown(usage.compile_us),
        shown(usage.wall_us)
    );
    Check::ok("engine", detail)
}

fn judge_isolation(isolation: Isolation) -> Check {
    const NAME: &str = "isolation";
    let reached = format!("a node reaches: {}", isolation.summary());
    if !isolation.seccomp || isolation.landlock_abi == 0 {
        let advice = "use a kernel (5.13 or newer) and a container that allow seccomp filters and Landlock";
        return Check::warning(NAME, reached, advice);
    }
    if isolation.outer_limit == OuterLimit::Process {
        let advice = "let the node write a control group (systemd: Delegate=yes), so that the kernel bounds CPU and memory";
        return Check::warning(NAME, reached, advice);
    }
    Check::ok(NAME, reached)
}

fn rate(usage: &Usage) -> Check {
    const NAME: &str = "fuel rate";
    let (Some(fuel), Some(cpu_us)) = (usage.fuel, usage.cpu_us) else {
        return Check::failed(NAME, "the guest's fuel or CPU time is unknown", "please report this");
    };
    let core_seconds = cpu_us as f64 / 1e6 / (fuel as f64 / FUEL_PER_CORE_SECOND);
    let detail =
        format!("10^10 fuel, one core-second by definition, took {core_seconds:.2} core-seconds here");
    if core_seconds > RATE_SLOW {
        let advice = "raise --wall-time with --fuel: here a job reaches its wall time long before its fuel";
        return Check::warning(NAME, detail, advice);
    }
    Check::ok(NAME, detail)
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    #[test]
    fn the_module_is_built_from_the_text_beside_it() {
        let built = wat::parse_str(include_str!("spin.wat")).expect("a module");
        if std::env::var_os("GRISTMILL_WRITE_EXAMPLES").is_some() {
            std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doctor/spin.wasm"), &built)
                .expect("written");
        }
        assert_eq!(built, SPIN, "run this test with GRISTMILL_WRITE_EXAMPLES=1");
    }

    #[test]
    fn a_weak_isolation_and_a_slow_machine_are_warned_of() {
        let full =
            Isolation { outer_limit: OuterLimit::CgroupV2, seccomp: true, landlock_abi: 4, own_uid: true };
        assert_eq!(judge_isolation(full).verdict, Verdict::Ok);
        assert_eq!(judge_isolation(Isolation { seccomp: false, ..full }).verdict, Verdict::Warning);
        let unbounded = Isolation { outer_limit: OuterLimit::Process, ..full };
        assert_eq!(judge_isolation(unbounded).verdict, Verdict::Warning);
        let used = |cpu_us| Usage { fuel: Some(1_000_000_000), cpu_us: Some(cpu_us), ..Usage::default() };
        assert_eq!(rate(&used(100_000)).verdict, Verdict::Ok);
        assert!(rate(&used(100_000)).detail.contains("took 1.00 core-seconds"));
        assert_eq!(rate(&used(300_000)).verdict, Verdict::Warning);
        assert_eq!(rate(&Usage::default()).verdict, Verdict::Failed);
    }
}
