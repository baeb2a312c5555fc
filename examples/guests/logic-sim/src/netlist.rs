//! Reads the JSON netlist of `write_json` and orders its gates so that each comes after what drives it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Deserialize;

use crate::level::{Level, truth_table};

/// A wire, as an index; the first three are the constants of [`Level`].
pub type Net = usize;

/// A gate of up to three inputs.
pub struct Gate {
    pub table: [Level; 27],
    pub inputs: [Net; 3],
    pub output: Net,
    /// One more than the greatest depth of the gates that drive it.
    pub depth: usize,
}

/// A net and whether it acts when high.
#[derive(Clone, Copy)]
pub struct Control {
    pub net: Net,
    pub high: bool,
}

/// A reset and what it sets the flip-flop to.
#[derive(Clone, Copy)]
pub struct Reset {
    pub control: Control,
    pub value: Level,
    pub asynchronous: bool,
    /// The enable comes before a synchronous reset.
    pub gated: bool,
}

pub struct FlipFlop {
    pub clock: Control,
    pub data: Net,
    pub enable: Option<Control>,
    pub reset: Option<Reset>,
    pub output: Net,
}

/// A port or a wire that has a name in the source; the least significant bit comes first.
pub struct Signal {
    pub name: String,
    pub bits: Vec<Net>,
    pub is_input: bool,
}

pub struct Netlist {
    pub top: String,
    /// Sorted by name.
    pub signals: Vec<Signal>,
    pub gates: Vec<Gate>,
    pub flip_flops: Vec<FlipFlop>,
    /// What each net is before the first stimulus.
    pub initial: Vec<Level>,
}

#[derive(Deserialize)]
struct Document {
    modules: BTreeMap<String, Module>,
}

#[derive(Deserialize)]
struct Module {
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    #[serde(default)]
    ports: BTreeMap<String, Port>,
    #[serde(default)]
    cells: BTreeMap<String, Cell>,
    #[serde(default)]
    netnames: BTreeMap<String, NetName>,
}

#[derive(Deserialize)]
struct Port {
    direction: String,
    bits: Vec<Bit>,
}

#[derive(Deserialize)]
struct Cell {
    #[serde(rename = "type")]
    kind: String,
    connections: BTreeMap<String, Vec<Bit>>,
}

#[derive(Deserialize)]
struct NetName {
    hide_name: u8,
    bits: Vec<Bit>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

/// The number of a wire, or a constant `"0"`, `"1"`, `"x"` or `"z"`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Bit {
    Wire(u32),
    Constant(String),
}

/// Numbers wires in the order in which they are met.
#[derive(Default)]
struct Nets {
    known: HashMap<u32, Net>,
}

impl Nets {
    fn net(&mut self, bit: &Bit) -> Net {
        match bit {
            Bit::Wire(number) => {
                let next = Level::ALL.len() + self.known.len();
                *self.known.entry(*number).or_insert(next)
            }
            Bit::Constant(text) => Level::of(text.chars().next().unwrap_or('x')) as Net,
        }
    }

    fn all(&mut self, bits: &[Bit]) -> Vec<Net> {
        bits.iter().map(|bit| self.net(bit)).collect()
    }
}

impl Netlist {
    /// Reads the one module of a netlist, or the one that is marked as its top.
    pub fn read(text: &str) -> Result<Self, String> {
        let document: Document =
            serde_json::from_str(text).map_err(|error| format!("this is no netlist of Yosys: {error}"))?;
        let is_top = |module: &Module| module.attributes.contains_key("top");
        let mut modules: Vec<_> = document.modules.into_iter().collect();
        if modules.len() > 1 {
            modules.retain(|(_, module)| is_top(module));
        }
        let [(top, module)] = <[_; 1]>::try_from(modules)
            .map_err(|_| "the netlist has no top module; synthesise it with `synth -flatten -top NAME`")?;
        let mut nets = Nets::default();
        let (gates, flip_flops) = cells(&module.cells, &mut nets)?;
        let mut signals = BTreeMap::new();
        for (name, wire) in module.netnames.iter().filter(|(_, wire)| wire.hide_name == 0) {
            signals.insert(name.clone(), (nets.all(&wire.bits), false));
        }
        for (name, port) in &module.ports {
            signals.insert(name.clone(), (nets.all(&port.bits), port.direction == "input"));
        }
        let mut initial = Level::ALL.to_vec();
        initial.resize(Level::ALL.len() + nets.known.len(), Level::Unknown);
        for wire in module.netnames.values() {
            let Some(values) = wire.attributes.get("init") else { continue };
            for (bit, value) in wire.bits.iter().zip(values.chars().rev()) {
                initial[nets.net(bit)] = Level::of(value);
            }
        }
        let signals = signals.into_iter().map(|(name, (bits, is_input))| Signal { name, bits, is_input });
        let gates = ordered(gates, initial.len())?;
        Ok(Self { top, signals: signals.collect(), gates, flip_flops, initial })
    }

    /// The signal of a name.
    pub fn signal(&self, name: &str) -> Option<usize> {
        self.signals.binary_search_by(|signal| signal.name.as_str().cmp(name)).ok()
    }
}

fn cells(cells: &BTreeMap<String, Cell>, nets: &mut Nets) -> Result<(Vec<Gate>, Vec<FlipFlop>), String> {
    let (mut gates, mut flip_flops, mut foreign) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (name, cell) in cells {
        let mut pin = |pin: &str| match cell.connections.get(pin).map(Vec::as_slice) {
            Some([bit]) => Ok(nets.net(bit)),
            _ => Err(format!("the cell {name} ({}) has no pin {pin} of one bit", cell.kind)),
        };
        if let Some((table, pins)) = truth_table(&cell.kind) {
            let mut inputs = [Level::Low as Net; 3];
            for (input, name) in inputs.iter_mut().zip(pins) {
                *input = pin(name)?;
            }
            gates.push(Gate { table, inputs, output: pin("Y")?, depth: 0 });
        } else if let Some(flip_flop) = flip_flop(&cell.kind, &mut pin) {
            flip_flops.push(flip_flop?);
        } else if cell.kind != "$scopeinfo" {
            foreign.insert(cell.kind.as_str());
        }
    }
    if foreign.is_empty() {
        return Ok((gates, flip_flops));
    }
    let foreign: Vec<_> = foreign.into_iter().collect();
    Err(format!(
        "cells of these kinds are not simulated: {}; map the design to simple gates with \
         `synth -flatten; dfflegalize -cell $_DFF_P_ x; abc -g simple`",
        foreign.join(", ")
    ))
}

/// A flip-flop by the name of its kind, such as `$_SDFFE_PP0P_`: the letters are the edge of the clock,
/// then the level and the value of the reset, then the level of the enable.
fn flip_flop(
    kind: &str,
    pin: &mut impl FnMut(&str) -> Result<Net, String>,
) -> Option<Result<FlipFlop, String>> {
    let (family, letters) = kind.strip_prefix("$_")?.strip_suffix('_')?.split_once('_')?;
    let letters: Vec<char> = letters.chars().collect();
    let (clock, reset, enable) = match (family, letters.as_slice()) {
        ("DFF", [clock]) => (clock, None, None),
        ("DFFE", [clock, enable]) => (clock, None, Some(enable)),
        ("DFF" | "SDFF", [clock, level, value]) => (clock, Some((level, value)), None),
        ("DFFE" | "SDFFE" | "SDFFCE", [clock, level, value, enable]) => {
            (clock, Some((level, value)), Some(enable))
        }
        _ => return None,
    };
    let mut connect = || {
        let mut control = |name: &str, letter: &char| -> Result<Control, String> {
            Ok(Control { net: pin(name)?, high: *letter == 'P' })
        };
        let reset = match reset {
            Some((level, value)) => Some(Reset {
                control: control("R", level)?,
                value: Level::of(*value),
                asynchronous: !family.starts_with('S'),
                gated: family == "SDFFCE",
            }),
            None => None,
        };
        let enable = enable.map(|level| control("E", level)).transpose()?;
        Ok(FlipFlop { clock: control("C", clock)?, data: pin("D")?, enable, reset, output: pin("Q")? })
    };
    Some(connect())
}

/// Gives every gate its depth and sorts by it. A loop of gates has no order.
fn ordered(mut gates: Vec<Gate>, nets: usize) -> Result<Vec<Gate>, String> {
    let mut readers = vec![Vec::new(); nets];
    let mut waiting = vec![0; gates.len()];
    let mut driver = vec![None; nets];
    for (index, gate) in gates.iter().enumerate() {
        if driver[gate.output].replace(index).is_some() {
            return Err("two gates drive the same net".into());
        }
    }
    for (index, gate) in gates.iter().enumerate() {
        for input in gate.inputs.iter().filter(|input| driver[**input].is_some()) {
            readers[*input].push(index);
            waiting[index] += 1;
        }
    }
    let mut ready: Vec<_> = (0..gates.len()).filter(|index| waiting[*index] == 0).collect();
    let mut done = 0;
    while let Some(index) = ready.pop() {
        done += 1;
        let (output, depth) = (gates[index].output, gates[index].depth + 1);
        for &reader in &readers[output] {
            gates[reader].depth = gates[reader].depth.max(depth);
            waiting[reader] -= 1;
            if waiting[reader] == 0 {
                ready.push(reader);
            }
        }
    }
    if done < gates.len() {
        return Err(format!("{} gates form loops without a flip-flop", gates.len() - done));
    }
    gates.sort_by_key(|gate| gate.depth);
    Ok(gates)
}
