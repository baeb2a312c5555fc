//! Reads a CSV file and writes a summary of every column: a table to stdout and the same figures
//! to `/out/summary.csv`. The file is the first argument, else `/in/data.csv`.
//!
//! An ordinary program: it links nothing of Gristmill. Built for wasm32-wasip1 it is a module.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::{env, fs};

/// Fields of one record: separated by commas, quoted where they contain one (RFC 4180).
fn parse_line(line: &str) -> Vec<String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                field.push('"');
                letters.next();
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            _ => field.push(letter),
        }
    }
    fields.push(field);
    fields
}

/// What a column's values have in common.
struct Summary {
    kind: &'static str,
    empty: usize,
    least: String,
    middle: String,
    greatest: String,
    mean: String,
}

fn summarise(values: &[&str]) -> Summary {
    let present: Vec<&str> = values.iter().copied().filter(|value| !value.is_empty()).collect();
    let empty = values.len() - present.len();
    let numbers: Option<Vec<f64>> = present.iter().map(|value| value.parse().ok()).collect();
    match numbers {
        Some(mut numbers) if !numbers.is_empty() => {
            numbers.sort_by(f64::total_cmp);
            let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
            let at = |index: usize| numbers[index].to_string();
            Summary {
                kind: "number",
                empty,
                least: at(0),
                middle: at(numbers.len() / 2),
                greatest: at(numbers.len() - 1),
                mean: format!("{mean:.2}"),
            }
        }
        _ => {
            let mut counts = BTreeMap::<&str, usize>::new();
            for value in present {
                *counts.entry(value).or_default() += 1;
            }
            let commonest = counts.iter().max_by_key(|&(name, count)| (*count, std::cmp::Reverse(*name)));
            Summary {
                kind: "text",
                empty,
                least: counts.keys().next().copied().unwrap_or_default().to_owned(),
                middle: commonest.map(|(name, count)| format!("{name} ({count}x)")).unwrap_or_default(),
                greatest: counts.keys().next_back().copied().unwrap_or_default().to_owned(),
                mean: String::new(),
            }
        }
    }
}

fn quote(field: &str) -> String {
    if field.contains([',', '"']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field.to_owned() }
}

fn run() -> Result<(), String> {
    let path = env::args().nth(1).unwrap_or_else(|| "/in/data.csv".to_owned());
    let text = fs::read_to_string(&path).map_err(|error| format!("cannot read {path}: {error}"))?;
    let mut lines = text.lines().filter(|line| !line.is_empty());
    let header = parse_line(lines.next().ok_or_else(|| format!("{path} is empty"))?);
    let mut rows = Vec::new();
    for (index, line) in lines.enumerate() {
        let row = parse_line(line);
        if row.len() != header.len() {
            let found = row.len();
            return Err(format!("{path}: record {} has {found} fields, not {}", index + 1, header.len()));
        }
        rows.push(row);
    }
    eprintln!("read {} records of {} columns from {path}", rows.len(), header.len());

    let mut table = format!("{} records\n\n", rows.len());
    let mut csv = String::from("column,kind,empty,least,middle,greatest,mean\n");
    let cells = ["column", "kind", "empty", "least", "median or commonest", "greatest", "mean"];
    let mut print = |cells: [&str; 7]| {
        let [column, kind, empty, least, middle, greatest, mean] = cells;
        let line =
            format!("{column:<16} {kind:<7} {empty:>5}  {least:<20} {middle:<26} {greatest:<20} {mean:>10}");
        let _ = writeln!(table, "{}", line.trim_end());
    };
    print(cells);
    for (index, column) in header.iter().enumerate() {
        let values: Vec<&str> = rows.iter().map(|row| row[index].as_str()).collect();
        let Summary { kind, empty, least, middle, greatest, mean } = summarise(&values);
        let empty = empty.to_string();
        let cells = [column.as_str(), kind, &empty, &least, &middle, &greatest, &mean];
        print(cells);
        let _ = writeln!(csv, "{}", cells.map(quote).join(","));
    }
    print!("{table}");
    fs::write("/out/summary.csv", csv).map_err(|error| format!("cannot write /out/summary.csv: {error}"))
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("csv-summary: {message}");
            ExitCode::FAILURE
        }
    }
}
