//! Value change dumps (IEEE 1364), as gtkwave and other viewers read them.

use std::io::{self, Write};

use crate::{level::Level, netlist::Signal, simulator::Simulator};

/// A waveform as it is written.
pub struct Wave<'n, W> {
    out: W,
    signals: &'n [Signal],
    /// Signals that each net is part of.
    signals_of: Vec<Vec<usize>>,
    shown: Vec<Vec<Level>>,
}

impl<'n, W: Write> Wave<'n, W> {
    /// Writes the header.
    pub fn start(mut out: W, top: &str, signals: &'n [Signal], nets: usize) -> io::Result<Self> {
        writeln!(out, "$version logic-sim $end\n$timescale 1ns $end\n$scope module {top} $end")?;
        let mut signals_of = vec![Vec::new(); nets];
        for (index, signal) in signals.iter().enumerate() {
            signal.bits.iter().for_each(|net| signals_of[*net].push(index));
            let width = signal.bits.len();
            let range = if width > 1 { format!(" [{}:0]", width - 1) } else { String::new() };
            writeln!(out, "$var wire {width} {} {}{range} $end", code(index), signal.name)?;
        }
        writeln!(out, "$upscope $end\n$enddefinitions $end")?;
        Ok(Self { out, signals, signals_of, shown: vec![Vec::new(); signals.len()] })
    }

    /// Writes what has changed since the last call, all of it at `time`.
    pub fn show(&mut self, time: u64, simulator: &mut Simulator<'_>) -> io::Result<()> {
        let mut dirty: Vec<usize> = if self.shown.iter().all(Vec::is_empty) {
            (0..self.signals.len()).collect()
        } else {
            simulator.take_changed().iter().flat_map(|net| &self.signals_of[*net]).copied().collect()
        };
        dirty.sort_unstable();
        dirty.dedup();
        let mut told_time = false;
        for index in dirty {
            let levels: Vec<_> = self.signals[index].bits.iter().map(|net| simulator.level(*net)).collect();
            if levels == self.shown[index] {
                continue;
            }
            if !std::mem::replace(&mut told_time, true) {
                writeln!(self.out, "#{time}")?;
            }
            let digits: String = levels.iter().rev().map(|level| level.digit()).collect();
            let (prefix, space) = if levels.len() > 1 { ("b", " ") } else { ("", "") };
            writeln!(self.out, "{prefix}{digits}{space}{}", code(index))?;
            self.shown[index] = levels;
        }
        Ok(())
    }

    /// Writes the last time, so that a viewer shows the whole run.
    pub fn finish(mut self, time: u64) -> io::Result<()> {
        writeln!(self.out, "#{time}")?;
        self.out.flush()
    }
}

/// The short name of a signal: printable characters, the least significant first.
fn code(mut index: usize) -> String {
    let mut code = String::new();
    loop {
        code.push(char::from(b'!' + (index % 94) as u8));
        index /= 94;
        if index == 0 {
            return code;
        }
        index -= 1;
    }
}
