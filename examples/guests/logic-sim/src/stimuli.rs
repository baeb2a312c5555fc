//! The stimuli: a line a command, `#` begins a comment.
//!
//! ```text
//! clock clk 10            toggles clk every 5 units, low at first
//! set rst=1 data=0x31     drives inputs; 0x1f, 0b1x0, 42 or x
//! wait 20                 lets time pass
//! expect crc=0xcbf43926   fails when a signal is something else
//! repeat 8                does what follows, up to `end`, so many times
//! end
//! ```

use crate::{
    level::Level,
    netlist::{Net, Netlist},
};

/// A signal by its number, and a level for each of its bits.
pub type Value = (usize, Vec<Level>);

pub enum Command {
    Clock { net: Net, half: u64 },
    Set(Vec<Value>),
    Expect { line: usize, values: Vec<Value> },
    Wait(u64),
    Repeat(u64, Vec<Command>),
}

/// Reads stimuli for a netlist.
pub fn read(text: &str, netlist: &Netlist) -> Result<Vec<Command>, String> {
    // The innermost open `repeat` is last: its line, its count, and what it repeats.
    let mut open = vec![(0, 1, Vec::new())];
    for (line, text) in (1..).zip(text.lines()) {
        let words: Vec<&str> = text.split('#').next().unwrap_or_default().split_whitespace().collect();
        let about = |problem: String| format!("stimuli, line {line}: {problem}");
        let number = |text: &str| text.parse().map_err(|_| about(format!("{text:?} is no number")));
        let command = match words.as_slice() {
            [] => continue,
            ["clock", name, period] => {
                let net = match &signal(netlist, name, true).map_err(about)?.1[..] {
                    [net] => *net,
                    _ => return Err(about(format!("{name} has more than one bit"))),
                };
                match number(period)? {
                    period if period > 0 && period % 2 == 0 => Command::Clock { net, half: period / 2 },
                    _ => return Err(about("the period must be an even number above 0".into())),
                }
            }
            ["set", pairs @ ..] => Command::Set(values(netlist, pairs, true).map_err(about)?),
            ["expect", pairs @ ..] => {
                Command::Expect { line, values: values(netlist, pairs, false).map_err(about)? }
            }
            ["wait", time] => Command::Wait(number(time)?),
            ["repeat", count] => {
                open.push((line, number(count)?, Vec::new()));
                continue;
            }
            ["end"] if open.len() > 1 => {
                let (_, count, commands) = open.pop().unwrap_or_default();
                Command::Repeat(count, commands)
            }
            _ => return Err(about(format!("{:?} is no command", text.trim()))),
        };
        if let Some((_, _, commands)) = open.last_mut() {
            commands.push(command);
        }
    }
    match open.pop() {
        Some((line, _, _)) if !open.is_empty() => {
            Err(format!("stimuli, line {line}: `repeat` without `end`"))
        }
        bottom => Ok(bottom.map(|(_, _, commands)| commands).unwrap_or_default()),
    }
}

fn signal<'n>(netlist: &'n Netlist, name: &str, driven: bool) -> Result<(usize, &'n [Net]), String> {
    let index = netlist.signal(name).ok_or_else(|| format!("{} has no signal {name}", netlist.top))?;
    let signal = &netlist.signals[index];
    if driven && !signal.is_input {
        return Err(format!("{name} is no input of {}", netlist.top));
    }
    Ok((index, &signal.bits))
}

fn values(netlist: &Netlist, pairs: &[&str], driven: bool) -> Result<Vec<Value>, String> {
    let value = |pair: &&str| {
        let (name, text) = pair.split_once('=').ok_or_else(|| format!("{pair:?} is not NAME=VALUE"))?;
        let (index, bits) = signal(netlist, name, driven)?;
        let levels = levels(text, bits.len())
            .ok_or_else(|| format!("{text:?} is no value of {} bits for {name}", bits.len()))?;
        Ok((index, levels))
    };
    pairs.iter().map(value).collect()
}

/// The levels of a value, the least significant one first.
fn levels(text: &str, width: usize) -> Option<Vec<Level>> {
    let mut levels: Vec<Level> = if text == "x" {
        vec![Level::Unknown; width]
    } else if let Some(digits) = text.strip_prefix("0b") {
        let known = digits.chars().all(|digit| matches!(digit, '0' | '1' | 'x'));
        known.then(|| digits.chars().rev().map(Level::of).collect())?
    } else {
        let number = match text.strip_prefix("0x") {
            Some(digits) => u128::from_str_radix(digits, 16).ok()?,
            None => text.parse().ok()?,
        };
        let bits = (0..128 - number.leading_zeros()).map(|bit| (number >> bit) & 1 == 1);
        bits.map(|high| if high { Level::High } else { Level::Low }).collect()
    };
    if levels.len() > width {
        return None;
    }
    levels.resize(width, Level::Low);
    Some(levels)
}
