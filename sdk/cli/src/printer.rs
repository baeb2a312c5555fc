//! Results on standard output: tables for people, or exactly one JSON document.

use std::io::{ErrorKind, IsTerminal as _, Write as _};

use gristmill_protocol::{Timestamp, units::format_bytes};
use serde::Serialize;

use crate::harmless::harmless;

/// Prints one result.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    json: bool,
}

impl Printer {
    /// A printer of JSON or of text.
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints `value` as the one document, or what `text` makes of it.
    pub(crate) fn show<T: Serialize + ?Sized>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        let mut out = if self.json { serde_json::to_string_pretty(value)? } else { text(value) };
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        write_stdout(out.as_bytes())
    }
}

/// Writes to standard output. A reader that went away (`… | head`) is no error.
pub(crate) fn write_stdout(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A line on standard error for the person at the keyboard; nothing is printed for scripts.
pub(crate) fn note(text: &str) {
    if std::io::stderr().is_terminal() {
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

/// Name and value, one pair a line; pairs without a value are left out.
pub(crate) fn pairs(pairs: &[(&str, Option<String>)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
    let lines = pairs.iter().filter_map(|(name, value)| {
        value.as_ref().map(|value| format!("{name:width$}{}\n", harmless(value)))
    });
    lines.collect()
}

/// A time as people read it: UTC, to the second.
pub(crate) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// Thousandths of a core as a number of cores.
pub(crate) fn cpus(milli: u32) -> String {
    if milli.is_multiple_of(1_000) {
        (milli / 1_000).to_string()
    } else {
        format!("{:.3}", f64::from(milli) / 1_000.0).trim_end_matches('0').to_owned()
    }
}

/// A slot as `2 cpus, 8.0 GiB`.
pub(crate) fn slot(cpus_milli: u32, memory_bytes: u64) -> String {
    format!("{} cpus, {}", cpus(cpus_milli), format_bytes(memory_bytes))
}

/// A whole number with its thousands apart.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Labels as `key=value` joined by commas.
pub(crate) fn labels(labels: &std::collections::BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(999), "999");
        assert_eq!((cpus(2_000), cpus(500), cpus(1_250)), ("2".into(), "0.5".into(), "1.25".into()));
    }
}
