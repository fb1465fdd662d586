//! A table of figures with their spread, in Markdown that reads well on a terminal too.

use std::fmt;

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

/// Rows of figures.
#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Default for Table {
    /// For the lowest, median and highest value of several runs, and the goal.
    fn default() -> Self {
        Self::new(&["figure", "lowest", "median", "highest", "goal"])
    }
}

impl Table {
    /// A table with these columns, the first of them text.
    pub(crate) fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    /// Adds a figure with its value in each run.
    pub(crate) fn row(&mut self, figure: &str, values: &[f64], goal: Option<Goal>) {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(lowest), Some(highest)) = (sorted.first(), sorted.last()) else { return };
        let median = median(&sorted);
        let goal = goal.map(|goal| goal.judge(median)).unwrap_or_default();
        self.rows.push(vec![figure.to_owned(), number(*lowest), number(median), number(*highest), goal]);
    }

    /// Adds a line of figures, one a column.
    pub(crate) fn line(&mut self, what: &str, figures: &[f64]) {
        self.rows.push(std::iter::once(what.to_owned()).chain(figures.iter().copied().map(number)).collect());
    }
}

impl Goal {
    /// The goal, and whether this reaches it.
    pub(crate) fn judge(self, median: f64) -> String {
        let (sign, bound, met) = match self {
            Self::AtLeast(bound) => ("≥", bound, median >= bound),
            Self::AtMost(bound) => ("≤", bound, median <= bound),
        };
        format!("{sign} {}: {}", number(bound), if met { "met" } else { "missed" })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head: Vec<String> = self.head.iter().map(|name| (*name).to_owned()).collect();
        let widths: Vec<usize> = (0..head.len())
            .map(|column| {
                std::iter::once(&head).chain(&self.rows).map(|row| row[column].chars().count()).max().unwrap_or(0)
            })
            .collect();
        // The others are numbers.
        let is_text = |column: usize| column == 0 || self.head[column] == "goal";
        let line = |f: &mut fmt::Formatter<'_>, row: &[String]| {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if is_text(column) { write!(f, "| {cell:<width$} ")? } else { write!(f, "| {cell:>width$} ")? }
            }
            writeln!(f, "|")
        };
        line(f, &head)?;
        for (column, width) in widths.iter().enumerate() {
            // A colon at the end aligns the column to the right.
            let end = if is_text(column) { "" } else { ":" };
            let width = width - end.len();
            write!(f, "| {:-<width$}{end} ", "")?;
        }
        writeln!(f, "|")?;
        self.rows.iter().try_for_each(|row| line(f, row))
    }
}

/// The median of some values.
pub(crate) fn median_of(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    median(&values)
}

/// Of sorted values.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// Three significant digits or all whole ones, thousands apart.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    let digits = text.trim_start_matches('-');
    if decimals > 0 || !value.is_finite() {
        return text;
    }
    let mut grouped = text[..text.len() - digits.len()].to_owned();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_or_all_whole_ones() {
        let check = |value: f64, expected: &str| assert_eq!(number(value), expected);
        check(0.474, "0.47");
        check(9.5, "9.50");
        check(12.34, "12.3");
        check(123.4, "123");
        check(1234.5, "1,234");
        check(1_234_567.0, "1,234,567");
        check(-4321.0, "-4,321");
        check(f64::INFINITY, "inf");
    }

    #[test]
    fn a_table_has_the_spread_and_judges_the_median() {
        let mut table = Table::default();
        table.row("speed", &[3000.0, 1000.0, 2000.0], Some(Goal::AtLeast(2000.0)));
        table.row("µs", &[5.0, 8.0], Some(Goal::AtMost(6.0)));
        let expected = "\
            | figure | lowest | median | highest | goal           |\n\
            | ------ | -----: | -----: | ------: | -------------- |\n\
            | speed  |  1,000 |  2,000 |   3,000 | ≥ 2,000: met   |\n\
            | µs     |   5.00 |   6.50 |    8.00 | ≤ 6.00: missed |\n";
        assert_eq!(table.to_string(), expected);
    }
}
