//! How commands print for people: tables, times, numbers.

use std::io::{ErrorKind, Write as _};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use time::OffsetDateTime;

use super::shown;

/// Prints to standard output what steers no terminal. Nobody reading any more is no failure.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    write(&shown::lines(text))
}

fn write(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => Ok(()),
    }
}

/// Prints a value as JSON.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let json = serde_json::to_string_pretty(value)?;
    // A script takes the texts as they are; control characters are escaped by JSON's own rules.
    write(&(json + "\n"))
}

/// Prints a value as JSON, in a line of its own.
pub(crate) fn print_line(value: &impl Serialize) -> anyhow::Result<()> {
    write(&(serde_json::to_string(value)? + "\n"))
}

/// Takes a terminal's cursor home and clears what is below.
pub(crate) fn clear_terminal() -> anyhow::Result<()> {
    write("\x1b[H\x1b[J")
}

/// A progress bar on standard error; nothing where that is no terminal or scripts read.
pub(crate) fn progress(total: Option<u64>, json: bool) -> ProgressBar {
    // On anything but a terminal it draws nothing.
    let target = if json { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(total, target);
    set_total(&bar, total);
    bar
}

/// Tells a bar how far it goes.
pub(crate) fn set_total(bar: &ProgressBar, total: Option<u64>) {
    let template = match total {
        Some(total) => {
            bar.set_length(total);
            "{bar:40} {human_pos}/{human_len}  {per_sec}  {eta} left"
        }
        None => "{spinner} {human_pos}  {per_sec}  {elapsed}",
    };
    bar.set_style(ProgressStyle::with_template(template).expect("the templates above are right"));
}

/// Lets a bar say what is waited for, instead of how far it is.
pub(crate) fn set_waiting(bar: &ProgressBar, what: String) {
    bar.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("the template is right"));
    bar.set_message(what);
}

/// Rows of cells, each column as wide as its widest cell; two spaces between, nothing behind the last.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<usize>,
}

impl Table {
    /// A table whose columns of these numbers are aligned to the right.
    pub(crate) fn new(right: &[usize]) -> Self {
        Self { rows: Vec::new(), right: right.to_vec() }
    }

    pub(crate) fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(|cell| shown::word(&cell.into()).into_owned()).collect());
    }

    /// How wide its lines are.
    pub(crate) fn width(&self) -> usize {
        let widths = self.widths();
        widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1)
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let cells = |column| self.rows.iter().filter_map(move |row: &Vec<String>| row.get(column));
        (0..columns).map(|column| cells(column).map(|cell| width(cell)).max().unwrap_or_default()).collect()
    }

    /// Adds a last column.
    pub(crate) fn with_column(mut self, cells: impl IntoIterator<Item = String>) -> Self {
        self.rows.iter_mut().zip(cells).for_each(|(row, cell)| row.push(cell));
        self
    }

    /// The lines, each begun with `indent` spaces.
    pub(crate) fn lines(&self, indent: usize) -> String {
        let widths = self.widths();
        let mut lines = String::new();
        for row in &self.rows {
            let mut line = " ".repeat(indent);
            for (column, cell) in row.iter().enumerate() {
                let filling = " ".repeat(widths[column] - width(cell));
                let (before, after) =
                    if self.right.contains(&column) { (filling, String::new()) } else { (String::new(), filling) };
                line.push_str(&format!("{}{before}{cell}{after}", if column > 0 { "  " } else { "" }));
            }
            lines.push_str(line.trim_end());
            lines.push('\n');
        }
        lines
    }
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

/// A text in one line of `width_max` characters at the most.
pub(crate) fn shortened(text: &str, width_max: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if width(&line) <= width_max {
        return line;
    }
    line.chars().take(width_max.saturating_sub(1)).chain(['…']).collect()
}

/// A length of time in its largest unit: `12 s`, `5 min`, `3 h`, `2 d`.
pub(crate) fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// How long ago a time was: `12 s ago`.
pub(crate) fn ago(now_ms: u64, then_ms: u64) -> String {
    format!("{} ago", span(now_ms.saturating_sub(then_ms)))
}

/// A time in UTC: `2025-11-21 13:24:47Z`.
pub(crate) fn utc(ms: u64) -> String {
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    match OffsetDateTime::from_unix_timestamp(seconds) {
        Ok(time) => format!("{} {:02}:{:02}:{:02}Z", time.date(), time.hour(), time.minute(), time.second()),
        Err(_) => format!("{ms} ms"),
    }
}

/// A number with its thousands apart: `12,345`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 id`, `2 ids`.
pub(crate) fn counted(number: u64, one: &str) -> String {
    format!("{} {one}{}", thousands(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_numbers() {
        assert_eq!(
            [0, 119_999, 120_000, 7_199_999, 7_200_000, 172_800_000].map(span),
            ["0 s", "119 s", "2 min", "119 min", "2 h", "2 d"]
        );
        assert_eq!(ago(1000, 2000), "0 s ago");
        assert_eq!(utc(1_763_731_487_123), "2025-11-21 13:24:47Z");
        assert_eq!([0, 999, 1000, 12_345, 1_234_567].map(thousands), ["0", "999", "1,000", "12,345", "1,234,567"]);
        assert_eq!(shortened("a\n b  cdef", 6), "a b c…");
    }

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&[1]);
        table.row(["job", "ready"]);
        table.row(["örders", "7"]);
        assert_eq!(table.lines(2), "  job     ready\n  örders      7\n");
    }
}
