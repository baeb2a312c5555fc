//! The body of the hidden subcommand `compile`: compiles one module and ends.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::OwnedFd,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use gristmill_channel::{CompileReport, CompileSpec, Order, Report};
use gristmill_sandbox::EngineClass;

use crate::{
    child::{orders_of_stdin, take_assignment},
    confine,
};

/// Address space that a compilation needs beside its memory: the stacks and arenas of its threads.
const ADDRESS_SPACE_SLACK_BYTES: u64 = 1 << 30;
const ADDRESS_SPACE_PER_CORE_BYTES: u64 = 128 << 20;

/// The body of the hidden subcommand `compile`. Takes an assignment and one order from stdin, writes
/// compiled code to the file that came with the order, and one report to stdout. To be called from a
/// process that does nothing else, before it starts a thread. `uid` is the user to become.
pub fn compile_main(uid: Option<u32>) -> ExitCode {
    confine::give_way();
    let reached = confine::at_start(uid);
    match serve(reached) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the compiler ends: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(reached: gristmill_channel::Confinement) -> io::Result<()> {
    let mut orders = orders_of_stdin()?;
    if !take_assignment(&mut orders, reached, None)? {
        return Ok(());
    }
    let Some((Order::Compile(spec), files)) = orders.next()? else { return Ok(()) };
    let report = compile(&spec, files);
    let mut stdout = io::stdout().lock();
    stdout.write_all(&Report::Compiled(report).encode()?)?;
    stdout.flush()
}

fn compile(spec: &CompileSpec, files: Vec<OwnedFd>) -> CompileReport {
    let mut files = files.into_iter().map(File::from);
    let (Some(mut wasm), Some(mut output)) = (files.next(), files.next()) else {
        return CompileReport::Failed("the files are missing".to_owned());
    };
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    confine::limit_cpu(Duration::from_millis(spec.time_ms.saturating_mul(cores)));
    let slack = ADDRESS_SPACE_SLACK_BYTES + cores * ADDRESS_SPACE_PER_CORE_BYTES;
    let memory_bytes = spec.memory_bytes.saturating_add(slack);
    confine::limit_address_space(memory_bytes);
    // What is written was in memory before.
    confine::limit_output(memory_bytes);

    let started = Instant::now();
    let mut bytes = Vec::new();
    if let Err(error) = wasm.read_to_end(&mut bytes) {
        return CompileReport::Failed(format!("the module cannot be read: {error}"));
    }
    let class = EngineClass { metering: spec.metering, reproducible: spec.reproducible };
    let code = match gristmill_sandbox::compile(&bytes, spec.world, class) {
        Ok(code) => code,
        Err(message) => return CompileReport::Refused(message),
    };
    // Reported only when its bytes are on disk: loading a torn file is not safe.
    match output.write_all(&code).and_then(|()| output.sync_data()) {
        Ok(()) => CompileReport::Compiled(started.elapsed().as_micros() as u64),
        Err(error) => CompileReport::Failed(format!("the compiled code cannot be stored: {error}")),
    }
}
