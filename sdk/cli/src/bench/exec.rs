//! `gristmill bench exec`: what the sandbox costs a program that only computes.
//!
//! The simulator of the examples runs the same stimuli in this process and as a guest in an executor,
//! with and without fuel, in turn. CPU time is compared: it is what a busy machine disturbs least.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::Context as _;
use clap::Args;
use gristmill_executor::request::RunEvent;
use gristmill_node::{LocalInput, LocalRun, run_local};
use gristmill_protocol::{
    Digest, Limits, LimitsSpec, Metering, Usage,
    attempt::LogStream,
    job::{InputKind, InputMode},
    module::ModuleWorld,
    reason::OutcomeState,
    units::format_duration_us,
};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, watch};

use crate::{
    args::Global,
    embedded::{executor_config, machine_offer},
    environment,
    failure::{Exit, Failure},
    printer::{Printer, grouped},
    progress::Progress,
    saved::private_dir,
    table::table,
};

const SIMULATOR: &[u8] = include_bytes!("../../../../examples/logic-sim.wasm");
const NETLIST: &str = include_str!("../../../../examples/logic/crc32.netlist.json");
/// Compiled code of two metering classes.
const CACHE_BYTES_MAX: u64 = 64 << 20;

/// Guest speed against the same program as machine code
#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Clock cycles that are simulated in each run
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    cycles: u64,
    /// Runs of each kind; the fastest counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Exit with 1 if a guest with fuel takes more than this many times as long as machine code
    #[arg(long, value_name = "TIMES")]
    check: Option<f64>,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Measured {
    cycles: u64,
    runs: u32,
    native_cpu_us: u64,
    guest_cpu_us: u64,
    guest_with_fuel_cpu_us: u64,
    /// The same on every machine.
    fuel: u64,
    fuel_per_second: f64,
    ratios: BTreeMap<&'static str, f64>,
}

/// Runs the command.
pub(crate) async fn run(args: ExecArgs, global: &Global) -> anyhow::Result<Exit> {
    let parent = environment::data_dir()?;
    private_dir(&parent)?;
    let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(&parent)?;
    let progress = Progress::start();
    let measured = measure(&args, dir.path(), &progress).await;
    progress.finish();
    let measured = measured?;
    Printer::new(global.json()).show(&measured, text)?;
    let ratio = measured.guest_with_fuel_cpu_us as f64 / measured.native_cpu_us as f64;
    match args.check {
        Some(most) if ratio > most => {
            Err(Failure::local(format!("a guest took {ratio:.2} times as long, more than {most}")).into())
        }
        _ => Ok(Exit::Ok),
    }
}

/// Feeds the CRC unit four bytes again and again.
fn stimuli(cycles: u64) -> String {
    let bytes = [0x31, 0xc6, 0x07, 0x9e].map(|byte| format!("set data={byte}\nwait 10\n")).concat();
    let start = "clock clk 10\nset clear=1 valid=0 data=0\nwait 10\nset clear=0 valid=1\n";
    format!("{start}repeat {}\n{bytes}end\n", cycles / 4)
}

async fn measure(args: &ExecArgs, dir: &Path, progress: &Progress) -> anyhow::Result<Measured> {
    let files = [("logic-sim.wasm", SIMULATOR), ("netlist.json", NETLIST.as_bytes())];
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes)?;
    }
    let stimuli = stimuli(args.cycles);
    std::fs::write(dir.join("stimuli.txt"), &stimuli)?;
    progress.phase("compiling");
    for metering in [Metering::None, Metering::Fuel] {
        guest(dir, metering).await?;
    }
    progress.phase("running");
    let (mut native_us, mut guest_us, mut fuelled_us, mut fuel) = (u64::MAX, u64::MAX, u64::MAX, 0);
    for _ in 0..args.runs {
        let text = stimuli.clone();
        let (report, cpu_us) = tokio::task::spawn_blocking(move || native(&text)).await??;
        native_us = native_us.min(cpu_us);
        for (metering, least) in [(Metering::None, &mut guest_us), (Metering::Fuel, &mut fuelled_us)] {
            let (printed, usage) = guest(dir, metering).await?;
            anyhow::ensure!(printed.trim() == report, "the guest says {printed:?}, machine code {report:?}");
            *least = (*least).min(usage.cpu_us.context("the CPU time of a guest is not known")?);
            fuel = usage.fuel.unwrap_or(fuel);
        }
    }
    let ratio = |us: u64| us as f64 / native_us as f64;
    Ok(Measured {
        cycles: args.cycles,
        runs: args.runs,
        native_cpu_us: native_us,
        guest_cpu_us: guest_us,
        guest_with_fuel_cpu_us: fuelled_us,
        fuel,
        fuel_per_second: fuel as f64 / Duration::from_micros(fuelled_us).as_secs_f64(),
        ratios: [("guest / native", ratio(guest_us)), ("guest with fuel / native", ratio(fuelled_us))].into(),
    })
}

/// Simulates in this process: the report, and the CPU time of this thread in microseconds. Blocks.
fn native(stimuli: &str) -> anyhow::Result<(String, u64)> {
    let cpu = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
    };
    let before = cpu();
    let report = logic_sim::simulate(NETLIST, stimuli, None::<std::io::Sink>).map_err(anyhow::Error::msg)?;
    Ok((report.to_string(), cpu().saturating_sub(before).as_micros().max(1) as u64))
}

/// Simulates in an executor: what the guest printed, and what it used.
async fn guest(dir: &Path, metering: Metering) -> anyhow::Result<(String, Usage)> {
    let input = |name: &str| LocalInput {
        guest_path: format!("/in/{name}"),
        path: dir.join(name),
        kind: InputKind::File,
        mode: InputMode::Ro,
    };
    let run = LocalRun {
        executor: executor_config()?,
        cache_dir: dir.join("cache"),
        cache_bytes_max: CACHE_BYTES_MAX,
        module: dir.join("logic-sim.wasm"),
        digest: Digest::from_bytes(Sha256::digest(SIMULATOR).into()),
        world: ModuleWorld::WasiP1,
        program: "logic-sim".into(),
        args: ["/in/netlist.json", "/in/stimuli.txt", "-"].map(str::to_owned).to_vec(),
        env: BTreeMap::new(),
        stdin: None,
        inputs: ["netlist.json", "stimuli.txt"].map(input).into(),
        limits: limits(metering)?,
        success_exit_codes: Vec::new(),
        reproducible: false,
    };
    let (events, mut happened) = mpsc::channel(64);
    let (_stop, stopped) = watch::channel(None);
    let read = async {
        let mut stdout = Vec::new();
        while let Some(event) = happened.recv().await {
            if let RunEvent::Log { stream: LogStream::Stdout, bytes, .. } = event {
                stdout.extend_from_slice(&bytes);
            }
        }
        stdout
    };
    let (end, stdout) = tokio::join!(run_local(run, events, stopped), read);
    let outcome = end?.outcome;
    let state = outcome.state;
    anyhow::ensure!(state == OutcomeState::Succeeded, "the guest ended as {state}: {:?}", outcome.message);
    Ok((String::from_utf8_lossy(&stdout).into_owned(), outcome.usage))
}

fn limits(metering: Metering) -> anyhow::Result<Limits> {
    let spec =
        LimitsSpec { metering: Some(metering), memory_bytes: Some(256 << 20), ..LimitsSpec::default() };
    let slot = machine_offer(None).0.slot;
    spec.resolve(slot).map_err(|_| anyhow::anyhow!("this machine offers less than 256 MiB"))
}

fn text(measured: &Measured) -> String {
    let row = |what: &str, value: String| vec![what.to_owned(), value];
    let mut rows = vec![
        row("simulated clock cycles", grouped(measured.cycles)),
        row("machine code, CPU time", format_duration_us(measured.native_cpu_us)),
        row("guest, CPU time", format_duration_us(measured.guest_cpu_us)),
        row("guest with fuel, CPU time", format_duration_us(measured.guest_with_fuel_cpu_us)),
        row("fuel, the same everywhere", grouped(measured.fuel)),
        row("fuel a CPU second", grouped(measured.fuel_per_second.round() as u64)),
    ];
    rows.extend(
        measured.ratios.iter().map(|(name, ratio)| row(&format!("ratio: {name}"), format!("{ratio:.2}"))),
    );
    table(&["what", "measured"], rows)
}
