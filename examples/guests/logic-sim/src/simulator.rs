//! The event-driven core: a change of a wire wakes the gates that read it, each at most once for its
//! depth, and edges of clocks move flip-flops.

use crate::{
    level::Level,
    netlist::{Control, FlipFlop, Net, Netlist},
};

/// Rounds of flip-flops that clock each other before a circuit counts as one that never settles.
const ROUNDS_MAX: u32 = 10_000;

pub struct Simulator<'n> {
    netlist: &'n Netlist,
    levels: Vec<Level>,
    /// What each net was when the current round began: flip-flops take their data from there.
    before: Vec<Level>,
    /// Gates that read each net, and flip-flops that it clocks or resets.
    gates_of: Vec<Vec<u32>>,
    flip_flops_of: Vec<Vec<u32>>,
    /// Gates to be evaluated, by depth.
    waiting: Vec<Vec<u32>>,
    is_waiting: Vec<bool>,
    /// Nets that changed in this round, and since [`Self::take_changed`].
    moved: Vec<Net>,
    changed: Vec<Net>,
    /// Gates evaluated so far.
    pub evaluations: u64,
}

impl<'n> Simulator<'n> {
    /// Settles the netlist with every input unknown.
    pub fn new(netlist: &'n Netlist) -> Self {
        let nets = netlist.initial.len();
        let (mut gates_of, mut flip_flops_of) = (vec![Vec::new(); nets], vec![Vec::new(); nets]);
        for (index, gate) in (0u32..).zip(&netlist.gates) {
            gate.inputs.iter().for_each(|input| gates_of[*input].push(index));
        }
        for (index, flip_flop) in (0u32..).zip(&netlist.flip_flops) {
            flip_flops_of[flip_flop.clock.net].push(index);
            if let Some(reset) = flip_flop.reset.filter(|reset| reset.asynchronous) {
                flip_flops_of[reset.control.net].push(index);
            }
        }
        let mut waiting = vec![Vec::new(); netlist.gates.last().map_or(0, |gate| gate.depth + 1)];
        for (index, gate) in (0u32..).zip(&netlist.gates) {
            waiting[gate.depth].push(index);
        }
        let mut simulator = Self {
            netlist,
            levels: netlist.initial.clone(),
            before: netlist.initial.clone(),
            gates_of,
            flip_flops_of,
            waiting,
            is_waiting: vec![true; netlist.gates.len()],
            moved: Vec::new(),
            changed: Vec::new(),
            evaluations: 0,
        };
        simulator.propagate();
        simulator.before.clone_from(&simulator.levels);
        simulator.moved.clear();
        simulator
    }

    pub fn level(&self, net: Net) -> Level {
        self.levels[net]
    }

    /// The nets that changed since the last call; some may have changed back.
    pub fn take_changed(&mut self) -> Vec<Net> {
        std::mem::take(&mut self.changed)
    }

    /// Sets nets and lets everything settle. Flip-flops whose clock rises with them take the data from
    /// before.
    pub fn drive(&mut self, levels: &[(Net, Level)]) -> Result<(), String> {
        let mut pending = levels.to_vec();
        for _ in 0..ROUNDS_MAX {
            for (net, level) in pending.drain(..) {
                self.set(net, level);
            }
            self.propagate();
            for at in 0..self.moved.len() {
                for &index in &self.flip_flops_of[self.moved[at]] {
                    let flip_flop = &self.netlist.flip_flops[index as usize];
                    pending.extend(self.next(flip_flop).map(|level| (flip_flop.output, level)));
                }
            }
            for net in self.moved.drain(..) {
                self.before[net] = self.levels[net];
            }
            if pending.is_empty() {
                return Ok(());
            }
        }
        Err("the circuit does not settle: flip-flops clock or reset each other without end".into())
    }

    fn set(&mut self, net: Net, level: Level) {
        if self.levels[net] == level {
            return;
        }
        self.levels[net] = level;
        self.moved.push(net);
        self.changed.push(net);
        for &gate in &self.gates_of[net] {
            if !std::mem::replace(&mut self.is_waiting[gate as usize], true) {
                self.waiting[self.netlist.gates[gate as usize].depth].push(gate);
            }
        }
    }

    fn propagate(&mut self) {
        for depth in 0..self.waiting.len() {
            // A gate wakes only deeper ones.
            let mut gates = std::mem::take(&mut self.waiting[depth]);
            for index in gates.drain(..) {
                let gate = &self.netlist.gates[index as usize];
                let [a, b, c] = gate.inputs.map(|net| self.levels[net] as usize);
                self.is_waiting[index as usize] = false;
                self.evaluations += 1;
                self.set(gate.output, gate.table[a + 3 * b + 9 * c]);
            }
            self.waiting[depth] = gates;
        }
    }

    /// What a flip-flop takes on after the nets that moved in this round, if anything.
    fn next(&self, flip_flop: &FlipFlop) -> Option<Level> {
        let of = |levels: &[Level], control: Control| levels[control.net].inverted_unless(control.high);
        let held = self.levels[flip_flop.output];
        if let Some(reset) = flip_flop.reset.filter(|reset| reset.asynchronous) {
            let resets = of(&self.levels, reset.control);
            if resets != Level::Low {
                return Some(resets.select(reset.value, held));
            }
        }
        let clock = |levels| of(levels, flip_flop.clock);
        if clock(&self.before) != Level::Low || clock(&self.levels) != Level::High {
            return None;
        }
        let enabled =
            |taken| flip_flop.enable.map_or(taken, |enable| of(&self.before, enable).select(taken, held));
        let data = self.before[flip_flop.data];
        Some(match flip_flop.reset.filter(|reset| !reset.asynchronous) {
            Some(reset) if reset.gated => enabled(of(&self.before, reset.control).select(reset.value, data)),
            Some(reset) => of(&self.before, reset.control).select(reset.value, enabled(data)),
            None => enabled(data),
        })
    }
}
