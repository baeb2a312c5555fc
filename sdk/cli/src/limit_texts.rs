//! Limits out of range, as whoever typed the options reads them.

use gristmill_protocol::{limits::LimitOutOfRange, units::format_bytes};

use crate::printer::cpus;

/// One sentence for each limit, with the option in place of the field.
pub(crate) fn range_texts(problems: &[LimitOutOfRange]) -> String {
    let texts: Vec<_> = problems.iter().map(range_text).collect();
    texts.join("; ")
}

fn range_text(problem: &LimitOutOfRange) -> String {
    let shown: fn(u64) -> String = match problem.field {
        "cpus_milli" => |milli| cpus(u32::try_from(milli).unwrap_or(u32::MAX)),
        field if field.ends_with("_bytes") => format_bytes,
        field if field.ends_with("_ms") => time,
        _ => |number| number.to_string(),
    };
    let (min, max, found) = (shown(problem.min), shown(problem.max), shown(problem.found));
    let rule = format!("{} must be from {min} to {max}, not {found}", option(problem.field));
    match problem.hint() {
        Some(hint) => format!("{rule} ({hint})"),
        None => rule,
    }
}

/// The option of a limit; limits without one cannot be out of range here.
fn option(field: &'static str) -> &'static str {
    match field {
        "cpus_milli" => "--cpus",
        "memory_bytes" => "--memory",
        "wall_time_ms" => "--wall-time",
        "fuel" => "--fuel",
        "disk_bytes" => "--disk",
        "output_bytes" => "--output-max",
        "output_files" => "--output-files-max",
        "log_bytes" => "--log-max",
        other => other,
    }
}

fn time(ms: u64) -> String {
    const DAY_MS: u64 = 86_400_000;
    match ms {
        ms if ms >= DAY_MS && ms.is_multiple_of(DAY_MS) => format!("{} days", ms / DAY_MS),
        ms if ms >= 1_000 => format!("{} s", ms / 1_000),
        ms => format!("{ms} ms"),
    }
}
