//! `logic-sim [NETLIST [STIMULI [WAVE]]]`: by default `/in/netlist.json`, `/in/stimuli.txt` and
//! `/out/wave.vcd`; `-` writes no waveform.
//!
//! An ordinary program: it links nothing of Gristmill. Built for wasm32-wasip1 it is a module.

use std::{env, fs, io::BufWriter, process::ExitCode};

fn run() -> Result<logic_sim::Report, String> {
    let mut args = env::args().skip(1);
    let mut next = |default: &str| args.next().unwrap_or_else(|| default.to_owned());
    let (netlist, stimuli, wave) = (next("/in/netlist.json"), next("/in/stimuli.txt"), next("/out/wave.vcd"));
    let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"));
    let create = || fs::File::create(&wave).map_err(|error| format!("cannot write {wave}: {error}"));
    let out = (wave != "-").then(create).transpose()?.map(BufWriter::new);
    logic_sim::simulate(&read(&netlist)?, &read(&stimuli)?, out)
}

fn main() -> ExitCode {
    match run() {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("logic-sim: {problem}");
            ExitCode::FAILURE
        }
    }
}
