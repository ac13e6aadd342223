//! Tables of text.

use console::{measure_text_width, truncate_str};

/// The longest name in a table, in columns of the terminal.
pub const MAX_NAME: usize = 48;

/// Names are not shortened below this, even if the terminal is too narrow.
const MIN_NAME: usize = 8;

/// Between two columns.
pub const GAP: &str = "  ";

#[derive(Clone, Copy)]
enum Align {
    Left,
    Right,
}

/// A column's title and alignment.
#[derive(Clone, Copy)]
pub struct Column {
    title: &'static str,
    align: Align,
}

impl Column {
    pub const fn text(title: &'static str) -> Self {
        let align = Align::Left;
        Self { title, align }
    }

    pub const fn number(title: &'static str) -> Self {
        let align = Align::Right;
        Self { title, align }
    }

    fn pad(self, cell: &str, width: usize) -> String {
        let space = " ".repeat(width - measure_text_width(cell));
        match self.align {
            Align::Left => cell.to_owned() + &space,
            Align::Right => space + cell,
        }
    }
}

/// The lines of a table. If it would be wider than `width`, the names in the first column are shortened.
pub fn table(columns: &[Column], rows: &[Vec<String>], width: usize) -> Vec<String> {
    let titles = columns.iter().map(|column| column.title.to_owned());
    let mut all: Vec<Vec<String>> = std::iter::once(titles.collect())
        .chain(rows.iter().cloned())
        .map(|row: Vec<String>| row.iter().map(|cell| shown(cell)).collect())
        .collect();
    let widths = fit(&mut all, columns.len(), width);
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).zip(columns);
        let padded = cells.map(|((cell, width), column)| column.pad(cell, *width));
        padded.collect::<Vec<String>>().join(GAP)
    };
    all.iter().map(line).collect()
}

/// Shortens names where the table is too wide, and returns the columns' widths.
fn fit(rows: &mut [Vec<String>], columns: usize, width: usize) -> Vec<usize> {
    let widest = |rows: &[Vec<String>], column: usize| {
        let widths = rows.iter().map(|row| measure_text_width(&row[column]));
        widths.max().unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..columns).map(|column| widest(rows, column)).collect();
    let whole = widths.iter().sum::<usize>() + GAP.len() * (columns - 1);
    if whole > width {
        let name = widths[0].saturating_sub(whole - width).max(MIN_NAME);
        for row in rows.iter_mut() {
            row[0] = truncate_str(&row[0], name, "…").into_owned();
        }
        widths[0] = widest(rows, 0);
    }
    widths
}

fn shown(cell: &str) -> String {
    truncate_str(&plain(cell), MAX_NAME, "…").into_owned()
}

/// Replaces control characters: error texts come from outside and must not move the cursor.
pub fn plain(text: &str) -> String {
    let printed = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(printed).collect()
}

/// A cell without a value.
pub fn nothing() -> String {
    "-".to_owned()
}
