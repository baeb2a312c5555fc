//! The body of the hidden subcommand `executor`: serves runs one after the other.
//!
//! Three threads beside the ticker of the sandbox: the main thread reads orders, so that a stop
//! arrives whatever the guest does; one runs guests; one writes reports. The process ends when its
//! input ends, which is when the node goes away.

use std::{
    fs::File,
    io::{self, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc},
    thread,
    time::Duration,
};

use gristmill_channel::{Confinement, Order, Report, RunEnd, RunSpec};
use gristmill_sandbox::{RunControl, RunFiles, Sandbox};
use rustix::process::{Signal, getpid, kill_process};
use tokio::sync::mpsc;

use crate::{confine, descriptors::Orders, lifeline::Lifeline};

/// Reports that wait for the node; a guest whose log fills them waits too.
const REPORTS_WAITING: usize = 8;
/// How long the end of a stuck guest may take to reach the pipe.
const LAST_REPORT: Duration = Duration::from_millis(300);
/// Room above the disk limit for the file-size fence, so that the exact limit speaks first.
const FILE_SIZE_SLACK_BYTES: u64 = 1 << 20;

/// Descriptors that a process may hold more than before its first run: those of the modules that it
/// keeps ready, and a few. One that holds more lost some, and is not used again.
const DESCRIPTORS_GROWN_MAX: i32 = 16;

type Work = (Box<RunSpec>, RunFiles, Arc<RunControl>);

/// The body of the hidden subcommand `executor`. Takes orders from stdin, writes reports to stdout
/// and returns when stdin ends. To be called from a process that does nothing else, before it starts a
/// thread. `uid` is the user to become.
pub fn executor_main(uid: Option<u32>) -> ExitCode {
    let reached = confine::at_start(uid);
    let served = orders_of_stdin().and_then(|mut orders| {
        if take_assignment(&mut orders, reached, uid)? { serve(&mut orders) } else { Ok(()) }
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the executor ends: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The orders that come over stdin.
pub(crate) fn orders_of_stdin() -> io::Result<Orders> {
    Ok(Orders::from(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?)))
}

/// Confines this process to the tenant of its first order. False if it was only to be tried out, or
/// the node is gone.
pub(crate) fn take_assignment(
    orders: &mut Orders,
    reached: Confinement,
    uid: Option<u32>,
) -> io::Result<bool> {
    match orders.next()? {
        Some((Order::Assign(spec), directories)) => {
            let reached = confine::at_assignment(reached, &spec, directories);
            if !reached.covers(spec.expected) {
                let text = format!("confined by {reached:?}, which is less than {:?}", spec.expected);
                return Err(io::Error::other(text));
            }
            Ok(true)
        }
        Some((Order::Probe(spec), directories)) => {
            let reached = confine::at_assignment(reached, &spec, directories);
            let found = confine::try_out(reached, uid);
            let mut stdout = io::stdout().lock();
            stdout.write_all(&Report::Probed(found).encode()?)?;
            stdout.flush()?;
            Ok(false)
        }
        Some(_) => Err(io::Error::other("the first order is no assignment")),
        None => Ok(false),
    }
}

fn serve(orders: &mut Orders) -> io::Result<()> {
    let (reports, to_write) = mpsc::channel(REPORTS_WAITING);
    let (work, to_run) = std_mpsc::channel::<Work>();
    let lifeline = Arc::new(Lifeline::start(end_process)?);
    let sandbox = Sandbox::start()?;
    thread::Builder::new().name("gristmill-write".to_owned()).spawn(move || write_reports(to_write))?;
    let (reports_of_runner, lifeline_of_runner) = (reports.clone(), Arc::clone(&lifeline));
    thread::Builder::new()
        .name("gristmill-guest".to_owned())
        .spawn(move || run_guests(&sandbox, &to_run, &reports_of_runner, &lifeline_of_runner))?;

    let current: Mutex<Option<Arc<RunControl>>> = Mutex::new(None);
    while let Some((order, descriptors)) = orders.next()? {
        let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
        match order {
            Order::Run(spec) => {
                let files = run_files(&spec, descriptors)?;
                let of_stuck = reports.clone();
                let control = RunControl::new(move |outcome| {
                    let end = RunEnd { outcome, reusable: false };
                    give_up(&of_stuck, end);
                });
                *current = Some(Arc::clone(&control));
                lifeline.set_busy(true);
                work.send((spec, files, control))
                    .map_err(|_| io::Error::other("the guest thread is gone"))?;
            }
            Order::Stop(reason) => {
                if let Some(control) = &*current {
                    control.stop(reason);
                }
            }
            Order::KeepUntil(until) => lifeline.keep_until(until),
            _ => return Err(io::Error::other("an order that an assigned executor does not take")),
        }
    }
    if lifeline.is_busy() {
        // The node is gone in the middle of a run; nothing of it will be reported.
        end_process();
    }
    Ok(())
}

/// The descriptors of a run, by what they are for.
fn run_files(spec: &RunSpec, descriptors: Vec<OwnedFd>) -> io::Result<RunFiles> {
    let mut descriptors = descriptors.into_iter();
    let code = descriptors.next().map(File::from).ok_or_else(|| io::Error::other("a run without code"))?;
    let stdin = if spec.has_stdin { descriptors.next().map(File::from) } else { None };
    Ok(RunFiles { code, stdin, directories: descriptors.collect() })
}

/// The lowest number that a new descriptor would get: it rises when some are lost.
fn lowest_free_descriptor() -> i32 {
    use std::os::fd::AsRawFd as _;
    io::stderr().as_fd().try_clone_to_owned().map_or(i32::MAX, |copy| copy.as_raw_fd())
}

fn run_guests(
    sandbox: &Sandbox,
    work: &std_mpsc::Receiver<Work>,
    reports: &mpsc::Sender<Report>,
    lifeline: &Lifeline,
) {
    let body = std::panic::AssertUnwindSafe(|| -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let descriptors_at_start = lowest_free_descriptor();
        while let Ok((spec, files, control)) = work.recv() {
            confine::limit_file_size(spec.limits.disk_bytes.saturating_add(FILE_SIZE_SLACK_BYTES));
            let finished = runtime.block_on(sandbox.run(&spec, files, &control, reports.clone()));
            // From here on the end of input no longer cuts a run short.
            lifeline.set_busy(false);
            if finished.first && reports.blocking_send(Report::End(Box::new(finished.end.clone()))).is_err() {
                return Ok(());
            }
            finished.free();
            let grown = lowest_free_descriptor().saturating_sub(descriptors_at_start);
            if reports.blocking_send(Report::Rested(grown <= DESCRIPTORS_GROWN_MAX)).is_err() {
                return Ok(());
            }
        }
        Ok(())
    });
    match std::panic::catch_unwind(body) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            eprintln!("the guest thread cannot run: {error}");
            std::process::abort();
        }
        // The panic was already shown. A host in an unknown state serves nobody.
        Err(_) => std::process::abort(),
    }
}

fn write_reports(mut reports: mpsc::Receiver<Report>) {
    let mut stdout = io::stdout().lock();
    while let Some(report) = reports.blocking_recv() {
        let written = report.encode().and_then(|bytes| {
            stdout.write_all(&bytes)?;
            stdout.flush()
        });
        let last = matches!(&report, Report::End(end) if !end.reusable);
        if written.is_err() || last {
            // Nobody listens any more, or a guest is stuck in a thread that cannot be ended.
            end_process();
        }
    }
}

/// Reports the end of a guest that cannot be stopped; the writer then ends the process.
fn give_up(reports: &mpsc::Sender<Report>, end: RunEnd) {
    let mut message = Report::End(Box::new(end));
    let step = Duration::from_millis(5);
    for _ in 0..(LAST_REPORT.as_millis() / step.as_millis()) {
        match reports.try_send(message) {
            Ok(()) => {
                thread::sleep(LAST_REPORT);
                break;
            }
            Err(mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back)) => {
                message = back;
                thread::sleep(step);
            }
        }
    }
    end_process();
}

/// Ends at once, whatever the other threads are in the middle of.
fn end_process() {
    _ = kill_process(getpid(), Signal::KILL);
    std::process::abort();
}
