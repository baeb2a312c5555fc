//! The logic simulator and the C module of the examples.

use std::{collections::BTreeMap, fs, path::Path};

use gristmill_tests::{cli::Home, repository};

use super::{rebuilt, text};

/// A waveform: for each signal its width, and its value after each change by time.
type Wave = BTreeMap<String, (usize, BTreeMap<u64, String>)>;

/// Reads a value change dump as a viewer does; panics where it breaks the format.
pub(super) fn read_wave(path: &Path) -> Wave {
    let text = fs::read_to_string(path).expect("the waveform was written");
    let (header, changes) = text.split_once("$enddefinitions $end\n").expect("the header ends");
    assert!(header.contains("$timescale 1ns $end"), "{header}");
    let (mut wave, mut names) = (Wave::new(), BTreeMap::new());
    for line in header.lines().filter(|line| line.starts_with("$var ")) {
        let words: Vec<_> = line.split(' ').collect();
        let width = words[2].parse().expect("a width");
        assert!(names.insert(words[3], words[4]).is_none(), "two signals share the code {}", words[3]);
        wave.insert(words[4].to_owned(), (width, BTreeMap::new()));
    }
    let mut now = None;
    for line in changes.lines() {
        if let Some(time) = line.strip_prefix('#') {
            let time = time.parse::<u64>().expect("a time");
            assert!(now <= Some(time), "time runs backwards at {time}");
            now = Some(time);
            continue;
        }
        let (digits, code) = match line.strip_prefix('b') {
            Some(vector) => vector.split_once(' ').expect("a vector has a code"),
            None => line.split_at(1),
        };
        let (width, values) = wave.get_mut(names[code]).expect("the code was declared");
        assert!(digits.len() == *width && digits.chars().all(|digit| "01x".contains(digit)), "{line}");
        values.insert(now.expect("a time comes first"), digits.to_owned());
    }
    wave
}

/// Checks the waveform of the CRC unit: thirteen clocks, and the sum that every description gives.
pub(super) fn expect_crc(wave: &Wave) {
    let rises = wave["clk"].1.values().filter(|value| *value == "1").count();
    assert_eq!(rises, 13);
    let (width, crc) = &wave["crc"];
    assert_eq!(*width, 32);
    assert_eq!(crc[&0], "x".repeat(32), "a register holds nothing before its reset");
    let (last, sum) = crc.last_key_value().expect("it changed");
    assert_eq!((*last, sum.as_str()), (95, format!("{:032b}", 0xcbf4_3926_u32).as_str()));
}

fn simulate(home: &Home, module: &str, stimuli: &str, out: &str) -> gristmill_tests::cli::Ended {
    let netlist = format!("netlist.json={}", text(&repository().join("examples/logic/crc32.netlist.json")));
    let stimuli = format!("stimuli.txt={stimuli}");
    home.run(["run", module, "--in", &netlist, "--in", &stimuli, "--memory", "64MiB", "--out", out])
}

#[test]
fn the_simulator_draws_the_waveform_of_a_known_sum_and_fails_when_an_expectation_does() {
    let home = Home::default();
    let module = text(&repository().join("examples/logic-sim.wasm"));
    let stimuli = repository().join("examples/logic/crc32.stimuli.txt");
    let ended = simulate(&home, &module, &text(&stimuli), "wave").expect_code(0);
    assert!(ended.text().starts_with("crc32: 260 gates, 32 flip-flops, 130 ns, "), "{}", ended.text());
    expect_crc(&read_wave(&home.path().join("wave/wave.vcd")));

    let wrong = fs::read_to_string(&stimuli).expect("the stimuli").replace("data=0x39", "data=0x38");
    let wrong = home.file("wrong.txt", wrong);
    let ended = simulate(&home, &module, &text(&wrong), "wrong").expect_code(3);
    assert!(ended.stderr.contains("stimuli, line 23: at 100 ns crc is 0b"), "{}", ended.stderr);
    let unknown = home.file("unknown.txt", "set reset=1\n");
    let ended = simulate(&home, &module, &text(&unknown), "unknown").expect_code(3);
    assert!(ended.stderr.contains("stimuli, line 1: crc32 has no signal reset"), "{}", ended.stderr);

    let Some(rebuilt) = rebuilt("logic-sim", "REBUILD") else { return };
    simulate(&home, &text(&rebuilt), &text(&stimuli), "rebuilt").expect_code(0);
    let wave = |dir: &str| fs::read(home.path().join(dir).join("wave.vcd")).expect("a waveform");
    assert!(wave("wave") == wave("rebuilt"), "the committed module is not that of the source");
}

#[test]
fn the_benchmark_of_the_sandbox_compares_guests_with_machine_code() {
    let home = Home::default();
    let ended = home.run(["bench", "exec", "--cycles", "4000", "--runs", "1", "--output", "json"]);
    let measured = ended.expect_code(0).json();
    let field = |name: &str| measured[name].as_u64().unwrap_or_else(|| panic!("no {name}: {measured:#}"));
    assert!(field("guest_cpu_us") > 0 && field("native_cpu_us") > 0);
    // A guest evaluates about 240 gates a cycle, and no gate costs less than one instruction.
    assert!(field("fuel") > 240 * 4_000, "{measured:#}");
    home.run(["bench", "exec", "--cycles", "4000", "--runs", "1", "--check", "0.001"]).expect_code(1);
}

#[test]
fn the_module_in_c_knows_the_sums_and_the_histogram_of_a_binary_file() {
    let home = Home::default();
    let bytes: Vec<u8> = (0..200_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let input = format!("data={}", text(&home.file("data.bin", &bytes)));
    let run = |module: &str, out: &str| {
        let ended = home.run(["run", module, "--in", &input, "--memory", "16MiB", "--out", out]);
        let facts = ended.expect_code(0).json();
        (facts, fs::read_to_string(home.path().join(out).join("histogram.csv")).expect("an output"))
    };
    let committed = run(&text(&repository().join("examples/file-facts.wasm")), "committed");
    let (low, high) = bytes.iter().fold((1u32, 0u32), |(low, high), byte| {
        let low = (low + u32::from(*byte)) % 65_521;
        (low, (high + low) % 65_521)
    });
    let (facts, histogram) = &committed;
    assert_eq!(facts["size"], bytes.len());
    assert_eq!(facts["crc32"], format!("{:08x}", super::crc32(&bytes)));
    assert_eq!(facts["adler32"], format!("{high:04x}{low:04x}"));
    assert!(facts["entropy"].as_f64().is_some_and(|bits| bits > 7.9 && bits <= 8.0), "{facts}");
    let mut counts = [0u32; 256];
    for byte in &bytes {
        counts[usize::from(*byte)] += 1;
    }
    let lines: Vec<_> = counts.iter().enumerate().map(|(byte, count)| format!("{byte},{count}")).collect();
    assert_eq!(histogram.lines().skip(1).collect::<Vec<_>>(), lines);
    let Some(rebuilt) = rebuilt("file-facts", "REBUILD_C") else { return };
    assert_eq!(run(&text(&rebuilt), "rebuilt"), committed);
}
