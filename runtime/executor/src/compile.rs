//! Compiles a module in a child under time and memory limits.

use std::{
    fs::{self, File},
    os::fd::AsFd as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use gristmill_channel::{CompileReport, CompileSpec, Order, Report};
use gristmill_protocol::{
    Outcome, Reason,
    units::{format_bytes, format_duration_us},
};
use gristmill_sandbox::stop_outcome;
use tokio::{sync::watch, time::sleep};

use crate::{
    confiner::{Confined, Confiner},
    descriptors,
    handle::{receive, stop_requested},
    outer::{OVERHEAD_BYTES, Watchdog, cpu_time},
    process::Death,
    request::{CompileRequest, StopReason},
};

const MESSAGE_BYTES_MAX: usize = 1_024;

/// A compiler that had less of a core than this part of the time, in hundredths, was starved: in the same
/// time it could have come to its end on a machine that is less busy.
const FAIR_SHARE_PERCENT: u32 = 75;

/// Why there is no compiled code.
#[derive(Debug)]
pub struct CompileFailure {
    /// How the attempt ends.
    pub outcome: Outcome,
    /// Whether the machine was so busy with other things that the time taken says nothing about the
    /// module.
    pub was_starved: bool,
}

impl From<Outcome> for CompileFailure {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, was_starved: false }
    }
}

/// Compiles a module in a child that is killed when it exceeds its time or memory, when `stop` asks for
/// it, or when the future is dropped. The answer is the time taken in microseconds; compiled code
/// then lies whole at `request.output`. What the request holds is dropped when the child is gone,
/// which is before the answer unless the future is dropped.
///
/// # Errors
/// With an outcome: `compile_timeout`, `compile_memory`, `compile_crash`, `link_error` for a module that
/// the engine refuses, the stop's own reason, or `executor_crashed` if this machine is at fault
/// (the child cannot be started, a file cannot be read or written).
pub async fn compile(
    confiner: &Confiner,
    request: CompileRequest,
    mut stop: watch::Receiver<Option<StopReason>>,
) -> Result<u64, CompileFailure> {
    let started = Instant::now();
    let spec = &request.spec;
    let output = File::create_new(&request.output).map_err(|error| host_fault(&error))?;
    let unfinished = RemoveOnDrop(Some(request.output.clone()));
    let mut child = confiner.start_compiler(request.held).await.map_err(|error| host_fault(&error))?;
    let bounded = spec.memory_bytes.saturating_add(OVERHEAD_BYTES);
    child.bounds.limit(request.cpus_milli, bounded).map_err(|error| host_fault(&error))?;
    let mut watchdog = Watchdog::over(child.process.pid(), spec.memory_bytes, child.bounds.throttle());
    let Confined { orders, reports, .. } = &mut child;
    let report = async {
        let files = [request.wasm.as_fd(), output.as_fd()];
        // A child that dies early is noticed by its silence.
        _ = descriptors::send(orders, &Order::Compile(spec.clone()), &files).await;
        receive(reports, &mut BytesMut::new()).await
    };
    let verdict = tokio::select! {
        biased;
        reason = stop_requested(&mut stop) => Err(stop_outcome(reason).into()),
        report = report => Ok(report),
        _ = watchdog.exceeded() => Err(too_much_memory(spec).into()),
        () = sleep(Duration::from_millis(spec.time_ms)) => Err(too_slow(spec, child.process.pid())),
    };
    watchdog.let_go();
    let result = match verdict {
        Ok(Ok(Report::Compiled(CompileReport::Compiled(us)))) => {
            unfinished.keep();
            Ok(us)
        }
        Ok(Ok(Report::Compiled(CompileReport::Refused(message)))) => {
            let end = message.floor_char_boundary(MESSAGE_BYTES_MAX);
            Err(Outcome::failed(Reason::LinkError, &message[..end]).into())
        }
        Ok(Ok(Report::Compiled(CompileReport::Failed(message)))) => Err(host_fault(&message).into()),
        Ok(_) => {
            // It closed its pipe or babbles: either way this is its end.
            child.process.kill_unless_ending().await;
            let death = child.process.wait().await;
            Err(obituary(&death, &child, spec).into())
        }
        Err(failure) => Err(failure),
    };
    child.process.kill();
    child.bounds.kill();
    child.process.wait().await;
    result.map_err(|mut failure: CompileFailure| {
        failure.outcome.usage.compile_us = Some(started.elapsed().as_micros() as u64);
        failure
    })
}

/// A child that died without a report.
fn obituary(death: &Death, child: &Confined, spec: &CompileSpec) -> Outcome {
    use std::os::unix::process::ExitStatusExt as _;
    if child.bounds.ran_out_of_memory() || death.out_of_memory() {
        return too_much_memory(spec);
    }
    match death.status.and_then(|status| status.signal()) {
        Some(libc::SIGXCPU) => return too_long(spec),
        // A module cannot bring these about: somebody else ended the compiler, perhaps the kernel when the
        // machine ran out of memory.
        Some(libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGHUP) => {
            return host_fault(&format_args!("the compiler was killed: {}", death.describe()));
        }
        _ => {}
    }
    Outcome::failed(Reason::CompileCrash, format!("the compiler died on this module: {}", death.describe()))
}

fn too_long(spec: &CompileSpec) -> Outcome {
    let limit = format_duration_us(spec.time_ms.saturating_mul(1_000));
    Outcome::failed(Reason::CompileTimeout, format!("compiling the module takes longer than {limit}"))
}

/// A child that did not come to its end in time.
fn too_slow(spec: &CompileSpec, pid: Option<u32>) -> CompileFailure {
    let had = pid.and_then(cpu_time).unwrap_or_default();
    let was_starved = had < Duration::from_millis(spec.time_ms) * FAIR_SHARE_PERCENT / 100;
    CompileFailure { outcome: too_long(spec), was_starved }
}

fn too_much_memory(spec: &CompileSpec) -> Outcome {
    let limit = format_bytes(spec.memory_bytes);
    Outcome::failed(Reason::CompileMemory, format!("compiling the module takes more memory than {limit}"))
}

fn host_fault(error: &dyn std::fmt::Display) -> Outcome {
    Outcome::failed(Reason::ExecutorCrashed, format!("the module could not be compiled here: {error}"))
}

/// The file of a compilation that did not succeed.
struct RemoveOnDrop(Option<PathBuf>);

impl RemoveOnDrop {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            _ = fs::remove_file(path);
        }
    }
}
