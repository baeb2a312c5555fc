//! A simulator of netlists at the level of gates, with levels low, high and unknown and without delays:
//! a netlist and stimuli in, a waveform out.

mod level;
mod netlist;
mod simulator;
mod stimuli;
mod vcd;

use std::{fmt, io::Write};

use level::Level;
use netlist::{Net, Netlist};
use simulator::Simulator;
use stimuli::Command;
use vcd::Wave;

/// What a simulation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub top: String,
    pub gates: usize,
    pub flip_flops: usize,
    pub time: u64,
    pub evaluations: u64,
    pub expectations: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { top, gates, flip_flops, time, evaluations, expectations } = self;
        write!(
            f,
            "{top}: {gates} gates, {flip_flops} flip-flops, {time} ns, {evaluations} evaluations, \
             {expectations} expectations held"
        )
    }
}

/// Simulates a netlist of Yosys under stimuli; writes the waveform if `wave` is given.
///
/// # Errors
/// What is wrong with the netlist or the stimuli, or the first expectation that did not hold.
pub fn simulate<W: Write>(netlist: &str, stimuli: &str, wave: Option<W>) -> Result<Report, String> {
    let netlist = Netlist::read(netlist)?;
    let commands = stimuli::read(stimuli, &netlist)?;
    let start = |out| Wave::start(out, &netlist.top, &netlist.signals, netlist.initial.len());
    let wave = wave.map(start).transpose().map_err(unwritable)?;
    let mut run = Run {
        netlist: &netlist,
        simulator: Simulator::new(&netlist),
        wave,
        clocks: Vec::new(),
        time: 0,
        expectations: 0,
    };
    run.all(&commands)?;
    run.show()?;
    let (time, evaluations, expectations) = (run.time, run.simulator.evaluations, run.expectations);
    run.wave.map(|wave| wave.finish(time)).transpose().map_err(unwritable)?;
    let (gates, flip_flops) = (netlist.gates.len(), netlist.flip_flops.len());
    Ok(Report { top: netlist.top, gates, flip_flops, time, evaluations, expectations })
}

fn unwritable(error: std::io::Error) -> String {
    format!("cannot write the waveform: {error}")
}

struct Clock {
    net: Net,
    half: u64,
    next: u64,
    level: Level,
}

struct Run<'n, W> {
    netlist: &'n Netlist,
    simulator: Simulator<'n>,
    wave: Option<Wave<'n, W>>,
    clocks: Vec<Clock>,
    time: u64,
    expectations: u64,
}

impl<W: Write> Run<'_, W> {
    fn all(&mut self, commands: &[Command]) -> Result<(), String> {
        for command in commands {
            match command {
                Command::Clock { net, half } => {
                    let (next, level) = (self.time + half, Level::Low);
                    self.clocks.push(Clock { net: *net, half: *half, next, level });
                    self.drive(&[(*net, level)])?;
                }
                Command::Set(values) => {
                    let signals = &self.netlist.signals;
                    let bits = |(index, levels): &stimuli::Value| {
                        signals[*index].bits.iter().copied().zip(levels.clone()).collect::<Vec<_>>()
                    };
                    self.drive(&values.iter().flat_map(bits).collect::<Vec<_>>())?;
                }
                Command::Expect { line, values } => self.expect(*line, values)?,
                Command::Wait(time) => self.wait(self.time + time)?,
                Command::Repeat(count, commands) => {
                    for _ in 0..*count {
                        self.all(commands)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn drive(&mut self, levels: &[(Net, Level)]) -> Result<(), String> {
        self.simulator.drive(levels).map_err(|problem| format!("at {} ns: {problem}", self.time))
    }

    /// Lets clocks toggle up to a time, that time included.
    fn wait(&mut self, until: u64) -> Result<(), String> {
        while let Some(next) = self.clocks.iter().map(|clock| clock.next).min().filter(|next| *next <= until)
        {
            self.advance(next)?;
            let mut levels = Vec::new();
            for clock in self.clocks.iter_mut().filter(|clock| clock.next == next) {
                clock.next += clock.half;
                clock.level = clock.level.inverted_unless(false);
                levels.push((clock.net, clock.level));
            }
            self.drive(&levels)?;
        }
        self.advance(until)
    }

    fn advance(&mut self, time: u64) -> Result<(), String> {
        if time > self.time {
            self.show()?;
            self.time = time;
        }
        Ok(())
    }

    fn show(&mut self) -> Result<(), String> {
        match &mut self.wave {
            Some(wave) => wave.show(self.time, &mut self.simulator).map_err(unwritable),
            None => {
                self.simulator.take_changed();
                Ok(())
            }
        }
    }

    fn expect(&mut self, line: usize, values: &[stimuli::Value]) -> Result<(), String> {
        for (index, expected) in values {
            let signal = &self.netlist.signals[*index];
            let found: Vec<_> = signal.bits.iter().map(|net| self.simulator.level(*net)).collect();
            if found != *expected {
                let digits = |levels: &[Level]| levels.iter().rev().map(|l| l.digit()).collect::<String>();
                let (found, expected) = (digits(&found), digits(expected));
                let (time, name) = (self.time, &signal.name);
                return Err(format!(
                    "stimuli, line {line}: at {time} ns {name} is 0b{found}, expected 0b{expected}"
                ));
            }
            self.expectations += 1;
        }
        Ok(())
    }
}
