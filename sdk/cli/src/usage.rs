//! What an attempt used, as people read it.

use gristmill_protocol::{
    AttemptView, Usage,
    units::{format_bytes, format_duration_us},
};

use crate::{
    phase,
    printer::{grouped, time},
    table::table,
};

/// Compiling, and whether the node had the compiled code already.
fn compiling(usage: &Usage) -> Option<String> {
    let took = usage.compile_us.map(format_duration_us)?;
    Some(match usage.compile_cache_hit {
        Some(true) => format!("{took} (cached)"),
        Some(false) => format!("{took} (not cached)"),
        None => took,
    })
}

/// Name and value of each figure, in the order of reading; what was not measured has no value.
pub(crate) fn figures(usage: &Usage) -> [(&'static str, Option<String>); 11] {
    [
        ("fuel", usage.fuel.map(grouped)),
        ("cpu", usage.cpu_us.map(format_duration_us)),
        ("wall", usage.wall_us.map(format_duration_us)),
        ("staging", usage.stage_us.map(format_duration_us)),
        ("compiling", compiling(usage)),
        ("collecting", usage.collect_us.map(format_duration_us)),
        ("peak memory", usage.memory_peak_bytes.map(format_bytes)),
        ("peak disk", usage.disk_peak_bytes.map(format_bytes)),
        ("input", usage.input_bytes.map(format_bytes)),
        ("read", usage.read_bytes.map(format_bytes)),
        ("written", usage.written_bytes.map(format_bytes)),
    ]
}

/// The figures on one line, such as `fuel 1,234`.
pub(crate) fn parts(usage: &Usage) -> impl Iterator<Item = String> {
    figures(usage).into_iter().filter_map(|(name, value)| value.map(|value| format!("{name} {value}")))
}

/// A job's attempts with what each used.
pub(crate) fn attempts_table(attempts: &[AttemptView]) -> String {
    let rows = attempts.iter().map(|attempt| {
        let usage = attempt.usage.clone().unwrap_or_default();
        let mut row = vec![
            attempt.number.to_string(),
            attempt.state.to_string(),
            phase::text(attempt.phase, attempt.phase_since).unwrap_or_default(),
            attempt.reason.map(|reason| reason.to_string()).unwrap_or_default(),
            attempt.node.to_string(),
            time(attempt.leased_at),
        ];
        row.extend(figures(&usage).into_iter().map(|(_, value)| value.unwrap_or_default()));
        row
    });
    let mut header = vec!["number", "state", "phase", "reason", "node", "leased"];
    header.extend(figures(&Usage::default()).map(|(name, _)| name));
    table(&header, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_left_out_and_the_rest_is_in_order() {
        let usage = Usage {
            compile_us: Some(2_000),
            compile_cache_hit: Some(true),
            read_bytes: Some(1 << 20),
            fuel: Some(1_000),
            ..Usage::default()
        };
        let line: Vec<_> = parts(&usage).collect();
        assert_eq!(line, ["fuel 1,000", "compiling 2.0 ms (cached)", "read 1.0 MiB"]);
    }
}
