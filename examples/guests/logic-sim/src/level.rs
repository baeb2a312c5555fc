//! Levels of a wire (low, high, unknown) and the gates that Yosys calls simple.

/// What a wire carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Level {
    Low = 0,
    High = 1,
    Unknown = 2,
}

impl Level {
    /// All of them; each is its own index.
    pub const ALL: [Self; 3] = [Self::Low, Self::High, Self::Unknown];

    /// The level that a digit stands for.
    pub fn of(digit: char) -> Self {
        match digit {
            '0' => Self::Low,
            '1' => Self::High,
            _ => Self::Unknown,
        }
    }

    /// Its digit in a waveform.
    pub fn digit(self) -> char {
        ['0', '1', 'x'][self as usize]
    }

    /// The level itself if `keep`, else its inverse.
    pub fn inverted_unless(self, keep: bool) -> Self {
        match self {
            Self::Low if !keep => Self::High,
            Self::High if !keep => Self::Low,
            level => level,
        }
    }

    /// One of two levels, as this one selects; what both agree on when it is unknown.
    pub fn select(self, high: Self, low: Self) -> Self {
        match self {
            Self::High => high,
            Self::Low => low,
            Self::Unknown if high == low => high,
            Self::Unknown => Self::Unknown,
        }
    }
}

type Function = fn(bool, bool, bool) -> bool;

const GATES: [(&str, &[&str], Function); 14] = [
    ("$_BUF_", &["A"], |a, _, _| a),
    ("$_NOT_", &["A"], |a, _, _| !a),
    ("$_AND_", &["A", "B"], |a, b, _| a & b),
    ("$_NAND_", &["A", "B"], |a, b, _| !(a & b)),
    ("$_OR_", &["A", "B"], |a, b, _| a | b),
    ("$_NOR_", &["A", "B"], |a, b, _| !(a | b)),
    ("$_XOR_", &["A", "B"], |a, b, _| a ^ b),
    ("$_XNOR_", &["A", "B"], |a, b, _| !(a ^ b)),
    ("$_ANDNOT_", &["A", "B"], |a, b, _| a & !b),
    ("$_ORNOT_", &["A", "B"], |a, b, _| a | !b),
    ("$_MUX_", &["A", "B", "S"], |a, b, s| if s { b } else { a }),
    ("$_NMUX_", &["A", "B", "S"], |a, b, s| if s { !b } else { !a }),
    ("$_AOI3_", &["A", "B", "C"], |a, b, c| !((a & b) | c)),
    ("$_OAI3_", &["A", "B", "C"], |a, b, c| !((a | b) & c)),
];

/// The pins and the outputs of a kind of gate for all levels of three inputs, the first one counting
/// fastest. An output is known where it is the same whatever the unknown inputs are.
pub fn truth_table(kind: &str) -> Option<([Level; 27], &'static [&'static str])> {
    let (_, pins, function) = GATES.iter().find(|(name, _, _)| *name == kind)?;
    let can_be = |level: usize, value: bool| level != usize::from(!value);
    let mut table = [Level::Unknown; 27];
    for (index, output) in table.iter_mut().enumerate() {
        let (mut low, mut high) = (false, false);
        for number in 0..8 {
            let [a, b, c] = [1, 2, 4].map(|bit| number & bit != 0);
            if can_be(index % 3, a) && can_be(index / 3 % 3, b) && can_be(index / 9, c) {
                if function(a, b, c) { high = true } else { low = true }
            }
        }
        *output = match (low, high) {
            (true, false) => Level::Low,
            (false, true) => Level::High,
            _ => Level::Unknown,
        };
    }
    Some((table, pins))
}
