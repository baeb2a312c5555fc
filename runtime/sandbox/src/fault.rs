//! How a guest's end becomes an outcome.

use std::time::Duration;

use gristmill_channel::{RunSpec, StopReason};
use gristmill_protocol::{Outcome, Reason, TrapKind, Usage, reason::OutcomeState, units::format_duration_us};
use wasmtime::{ThrownException, Trap, WasmBacktrace};
use wasmtime_wasi::{I32Exit, ResourceTableError};

use crate::{control::Verdict, memory::RefusedMemory};

const MESSAGE_BYTES_MAX: usize = 1_024;
/// Longest function name shown in a message.
const NAME_CHARS_MAX: usize = 80;

/// An end that the host brings about; travels through the engine as an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Halt {
    #[error("the guest exited with code {0}")]
    Exit(i32),
    #[error("the guest wrote more bytes than its disk limit")]
    DiskBytes,
    #[error("the guest made more files and directories than its disk limit")]
    DiskFiles,
    #[error("the guest held more open handles than its limit")]
    Handles,
    #[error("the guest had to stop")]
    Stopped(Verdict),
}

/// Where the guest was when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Instantiation,
    Running,
}

/// The outcome of a guest that was stopped because the node asked for it; no usage yet.
pub fn stop_outcome(reason: StopReason) -> Outcome {
    match reason {
        StopReason::Cancelled => {
            Outcome::failed(Reason::CancelledByUser, "the job was cancelled while it ran")
        }
        StopReason::Deadline => {
            let mut outcome =
                Outcome::failed(Reason::DeadlineExceeded, "the job's deadline passed while it ran");
            outcome.state = OutcomeState::TimedOut;
            outcome
        }
        StopReason::LeaseLost => {
            Outcome::failed(Reason::LeaseExpired, "the guest was stopped because its lease was lost")
        }
    }
}

/// The outcome of a guest that ran longer than its limit; no usage yet.
pub fn wall_time_outcome(limit: Duration) -> Outcome {
    let limit = format_duration_us(limit.as_micros() as u64);
    Outcome::failed(Reason::WallTimeExceeded, format!("the guest ran longer than {limit}"))
}

pub(crate) fn verdict_outcome(verdict: Verdict, wall_time: Duration) -> Outcome {
    match verdict {
        Verdict::Stop(reason) => stop_outcome(reason),
        Verdict::WallTime => wall_time_outcome(wall_time),
    }
}

/// A failure of the host that the guest did not cause; the message names no path.
pub(crate) fn host_fault(message: impl Into<String>) -> Outcome {
    Outcome::failed(Reason::ExecutorCrashed, message)
}

/// A module that cannot be linked or instantiated; the message names the import or type.
pub(crate) fn link_fault(error: &wasmtime::Error) -> Outcome {
    failed(Reason::LinkError, &format!("{error:#}"))
}

/// The outcome of a guest that returned or failed. `memory_refused`: what memory it was refused
/// before.
pub(crate) fn outcome(
    result: Result<(), wasmtime::Error>,
    phase: Phase,
    memory_refused: Option<RefusedMemory>,
    request: &RunSpec,
) -> Outcome {
    let error = match result {
        Ok(()) => return exit_outcome(0, memory_refused, request),
        Err(error) => error,
    };
    if let Some(halt) = find::<Halt>(&error) {
        return halt_outcome(*halt, memory_refused, request);
    }
    if let Some(I32Exit(code)) = find::<I32Exit>(&error) {
        return exit_outcome(*code, memory_refused, request);
    }
    let trap = find::<Trap>(&error).copied();
    if trap == Some(Trap::OutOfFuel) {
        let fuel = request.limits.fuel.unwrap_or_default();
        return failed(Reason::FuelExhausted, &format!("the guest used up its {fuel} units of fuel"));
    }
    if matches!(find::<ResourceTableError>(&error), Some(ResourceTableError::Full)) {
        return halt_outcome(Halt::Handles, memory_refused, request);
    }
    if let Some(refused) = memory_refused {
        return failed(Reason::MemoryExceeded, &memory_text(refused, request));
    }
    if is_too_many_parts(&error) {
        return failed(Reason::MemoryExceeded, "the component has too many instances, memories or tables");
    }
    let exception = find::<ThrownException>(&error).is_some();
    if phase == Phase::Instantiation && trap.is_none() && !exception {
        return link_fault(&error);
    }
    let (kind, text) = if exception {
        (TrapKind::UncaughtException, "the guest threw an exception that nothing caught".to_owned())
    } else if find::<wiggle::GuestError>(&error).is_some() {
        (TrapKind::OutOfBounds, "the guest passed an invalid pointer to its host".to_owned())
    } else {
        trap.map_or_else(|| (TrapKind::Other, format!("{:#}", error.root_cause())), trap_text)
    };
    let mut outcome = failed(Reason::Trap, &(text + &frames(&error)));
    outcome.trap_kind = Some(kind);
    outcome
}

/// The engine knows no type for a count of parts that is above what the limiter allows.
fn is_too_many_parts(error: &wasmtime::Error) -> bool {
    error.chain().any(|cause| cause.to_string().starts_with("resource limit exceeded: "))
}

fn trap_text(trap: Trap) -> (TrapKind, String) {
    let kind = match trap {
        Trap::UnreachableCodeReached => TrapKind::Unreachable,
        Trap::StackOverflow => TrapKind::StackOverflow,
        Trap::MemoryOutOfBounds | Trap::TableOutOfBounds | Trap::HeapMisaligned | Trap::ArrayOutOfBounds => {
            TrapKind::OutOfBounds
        }
        Trap::IntegerDivisionByZero | Trap::IntegerOverflow | Trap::BadConversionToInteger => {
            TrapKind::DivisionByZero
        }
        Trap::IndirectCallToNull | Trap::BadSignature => TrapKind::IndirectCall,
        Trap::CastFailure | Trap::NullReference => TrapKind::Cast,
        _ => TrapKind::Other,
    };
    let text = trap.to_string();
    (kind, text.strip_prefix("wasm trap: ").unwrap_or(&text).to_owned())
}

fn halt_outcome(halt: Halt, memory_refused: Option<RefusedMemory>, request: &RunSpec) -> Outcome {
    let limits = &request.limits;
    match halt {
        Halt::Exit(code) => exit_outcome(code, memory_refused, request),
        Halt::DiskBytes => failed(
            Reason::DiskExceeded,
            &format!("the guest wrote more than its disk limit of {} bytes", limits.disk_bytes),
        ),
        Halt::DiskFiles => failed(
            Reason::DiskExceeded,
            &format!("the guest held more than its limit of {} files and directories", limits.disk_files),
        ),
        Halt::Handles => failed(
            Reason::HandlesExceeded,
            &format!("the guest held more than its limit of {} open handles", limits.handles),
        ),
        Halt::Stopped(verdict) => verdict_outcome(verdict, Duration::from_millis(limits.wall_time_ms)),
    }
}

fn exit_outcome(code: i32, memory_refused: Option<RefusedMemory>, request: &RunSpec) -> Outcome {
    let mut outcome = if code == 0 || request.success_exit_codes.contains(&code) {
        Outcome {
            state: OutcomeState::Succeeded,
            reason: None,
            trap_kind: None,
            exit_code: None,
            message: None,
            usage: Usage::default(),
        }
    } else if code == 75 {
        failed(Reason::RetryRequested, "the guest exited with 75 and asks for a retry")
    } else if let Some(refused) = memory_refused {
        failed(Reason::MemoryExceeded, &memory_text(refused, request))
    } else {
        failed(Reason::ExitCode, &format!("the guest exited with {code}"))
    };
    outcome.exit_code = Some(code);
    outcome
}

fn memory_text(refused: RefusedMemory, request: &RunSpec) -> String {
    format!(
        "the guest failed after it was refused memory: it held {} bytes and asked for {} more, and may have {}, \
         and 4 GiB in one 32-bit memory",
        refused.held_bytes, refused.asked_bytes, request.limits.memory_bytes
    )
}

fn failed(reason: Reason, message: &str) -> Outcome {
    Outcome::failed(reason, clip(message, MESSAGE_BYTES_MAX))
}

/// The innermost functions by name, which is all that a program without debug information has.
fn frames(error: &wasmtime::Error) -> String {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return String::new() };
    let names: Vec<String> = backtrace
        .frames()
        .iter()
        .take(5)
        .map(|frame| match frame.func_name() {
            Some(name) => clip(name, NAME_CHARS_MAX).to_owned(),
            None => format!("function {}", frame.func_index()),
        })
        .collect();
    if names.is_empty() { String::new() } else { format!(" in {}", names.join(" < ")) }
}

/// Cuts a text at a character boundary.
fn clip(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// Finds an error of a type anywhere in the chain.
fn find<E: std::error::Error + Send + Sync + 'static>(error: &wasmtime::Error) -> Option<&E> {
    error.downcast_ref::<E>().or_else(|| error.chain().find_map(|cause| cause.downcast_ref::<E>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_between_characters() {
        assert_eq!(clip("aé", 2), "a");
        assert_eq!(clip("aé", 3), "aé");
        let outcome = failed(Reason::LinkError, &"é".repeat(1_000));
        assert_eq!(outcome.message.expect("a message").len(), 1_024);
    }

    #[test]
    fn an_error_is_found_under_its_context() {
        let error = wasmtime::Error::from(Halt::Handles).context("outer");
        assert_eq!(find::<Halt>(&error), Some(&Halt::Handles));
    }
}
