//! Tables for people: as wide as the terminal, one line for each row, on pipes with every column whole.

use comfy_table::{Cell, Color, ColumnConstraint, ContentArrangement, Row, Table, Width, presets};

use crate::{
    harmless::harmless,
    terminal::{BAD, GOOD, colors_stdout, style_of},
};

/// Blanks between two columns.
const GAP: u16 = 2;
/// A column is cut to no less than this; rather it is left out.
const WIDTH_LEAST: u16 = 10;
/// Columns that are never left out: what it is, and how it is.
const KEPT: usize = 2;

/// A table without borders, one line for each row. Where the terminal is too narrow, long cells are cut,
/// then the last columns are left out; the first column stays whole. Cells are made harmless here.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = filled(header, rows, Some(1));
    if let Some(width) = terminal_width(&table) {
        let widths = fit(&table.column_max_content_widths(), width);
        for (column, width) in table.column_iter_mut().zip(widths) {
            column.set_constraint(match width {
                Some(width) => ColumnConstraint::Absolute(Width::Fixed(width + GAP)),
                None => ColumnConstraint::Hidden,
            });
        }
    }
    lines(&table)
}

/// The same for texts that have to be read in full: long cells go on over several lines.
pub(crate) fn wrapped(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    lines(&filled(header, rows, None))
}

fn filled(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>, height: Option<usize>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let is_colored = colors_stdout();
    if is_colored {
        table.enforce_styling();
    }
    table.set_header(header.iter().map(|name| name.to_uppercase()));
    for texts in rows {
        let mut row = Row::from(texts.iter().map(|text| cell(text, is_colored)).collect::<Vec<_>>());
        if let Some(height) = height {
            row.max_height(height);
        }
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    // A pipe has no width: every cell is whole there.
    let arrangement = match terminal_width(&table) {
        Some(_) => ContentArrangement::Dynamic,
        None => ContentArrangement::Disabled,
    };
    table.set_content_arrangement(arrangement);
    table
}

fn terminal_width(table: &Table) -> Option<u16> {
    if table.is_tty() { table.width() } else { None }
}

fn lines(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// A cell; a word that says how something is gets its colour.
fn cell(text: &str, is_colored: bool) -> Cell {
    let cell = Cell::new(harmless(text));
    match style_of(text).filter(|_| is_colored) {
        None => cell,
        Some(style) if style == GOOD => cell.fg(Color::Green),
        Some(style) if style == BAD => cell.fg(Color::Red),
        Some(_) => cell.fg(Color::Yellow),
    }
}

/// The width of each column on a line of `available`, or that it is left out.
fn fit(natural: &[u16], available: u16) -> Vec<Option<u16>> {
    let mut shown = natural.len();
    loop {
        let widths = squeezed(&natural[..shown], available);
        if shown <= KEPT || total(&widths) <= u32::from(available) {
            let hidden = natural.len() - shown;
            return widths.into_iter().map(Some).chain(std::iter::repeat_n(None, hidden)).collect();
        }
        shown -= 1;
    }
}

/// The widest columns but the first are cut, one step at a time, until the line fits or none can be
/// cut any more.
fn squeezed(natural: &[u16], available: u16) -> Vec<u16> {
    let mut widths = natural.to_vec();
    while total(&widths) > u32::from(available) {
        let widest = widths.iter_mut().skip(1).filter(|width| **width > WIDTH_LEAST).max();
        let Some(widest) = widest else { break };
        *widest -= 1;
    }
    widths
}

fn total(widths: &[u16]) -> u32 {
    // The gap after the last column is trimmed, but counts for the terminal.
    widths.iter().map(|width| u32::from(width + GAP)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_what_guests_named_harmlessly() {
        let shown = table(&["id", "name"], [vec!["1".into(), "a\u{1b}[2Jb".into()]]);
        assert!(shown.contains("a\\x1b[2Jb") && shown.contains("ID"), "{shown}");
        assert!(shown.lines().all(|line| line == line.trim_end()));
    }

    #[test]
    fn a_narrow_terminal_cuts_long_columns_then_leaves_out_the_last_and_never_cuts_the_first() {
        let natural = [30, 9, 40, 7, 20];
        assert_eq!(fit(&natural, 200), natural.map(Some));
        assert_eq!(fit(&natural, 90), [Some(30), Some(9), Some(17), Some(7), Some(17)]);
        assert_eq!(fit(&natural, 60), [Some(30), Some(9), Some(15), None, None]);
        assert_eq!(fit(&natural, 20), [Some(30), Some(9), None, None, None]);
    }
}
