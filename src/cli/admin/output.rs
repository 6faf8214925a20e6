//! Prints results: aligned tables and units for people, JSON for scripts.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use serde_json::Value;

use super::failure::Failure;
use crate::telemetry::escape::{Escaping, Form};

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Its title.
    pub title: &'static str,
    /// Whether its cells are numbers, which are aligned at their end.
    pub is_number: bool,
}

/// Returns the exit code of a command, and prints its failure to standard error.
pub fn finish(command: &str, result: Result<(), Failure>) -> ExitCode {
    let Err(failure) = result else { return ExitCode::SUCCESS };
    eprintln!("tollgate {command}: {}", escape(&failure.message));
    ExitCode::from(failure.code)
}

/// Prints text.
///
/// # Errors
/// If standard output cannot be written.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Failure::new(format!("cannot write the output: {error}")))
}

/// Prints a JSON value on one line.
///
/// # Errors
/// If standard output cannot be written.
pub fn print_json(value: &Value) -> Result<(), Failure> {
    print(&format!("{}\n", escaped(&value.to_string(), Form::Json)))
}

/// Returns a text in which no character controls the terminal, except for line feeds.
pub fn escape(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| escaped(line, Form::Text)).collect();
    lines.join("\n")
}

fn escaped(line: &str, form: Form) -> String {
    let mut text = String::new();
    // A string accepts everything.
    let _ = Escaping::new(&mut text, form).write_str(line);
    text
}

/// Formats a table. Cells are escaped.
pub fn table(columns: &[Column], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| escaped(cell, Form::Text)).collect()).collect();
    let titles = columns.iter().map(|column| column.title.to_owned()).collect();
    let lines: Vec<&Vec<String>> = std::iter::once(&titles).chain(&rows).collect();
    let width = |index: usize| lines.iter().filter_map(|line| line.get(index)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns.len()).map(|index| width(index).unwrap_or_default()).collect();
    let mut text = String::new();
    for line in &lines {
        let mut row = String::new();
        for ((cell, column), width) in line.iter().zip(columns).zip(&widths) {
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            let _ = if column.is_number { write!(row, "{padding}{cell}  ") } else { write!(row, "{cell}{padding}  ") };
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

/// Returns a field as text; `-` if it is absent or null.
pub fn text(value: &Value, name: &str) -> String {
    match value.get(name) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Returns a field as number; 0 if it is not one.
pub fn number(value: &Value, name: &str) -> f64 {
    value.get(name).and_then(Value::as_f64).unwrap_or_default()
}

/// Formats a number of bytes in the largest unit below it.
pub fn bytes(count: f64) -> String {
    const UNITS: [(&str, f64); 3] = [("GiB", 1_073_741_824.0), ("MiB", 1_048_576.0), ("KiB", 1024.0)];
    match UNITS.iter().find(|(_, size)| count >= *size) {
        Some((unit, size)) => format!("{:.1} {unit}", count / size),
        None => format!("{count:.0} B"),
    }
}

/// Formats a span of seconds by its two largest units.
pub fn span(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
    let whole = seconds as u64;
    match (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60) {
        (0, 0, 0, _) if seconds < 10.0 => format!("{seconds:.1}s"),
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (0, hours, minutes, _) => format!("{hours}h{minutes:02}m"),
        (days, hours, _, _) => format!("{days}d{hours:02}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_cells_are_escaped() {
        let columns = [Column { title: "NAME", is_number: false }, Column { title: "N", is_number: true }];
        let rows = [vec!["é".to_owned(), "10".to_owned()], vec!["a\u{1b}[2J\n".to_owned(), "9".to_owned()]];
        let got = table(&columns, &rows);
        assert!(!got.contains('\u{1b}'), "{got:?}");
        assert_eq!(got.lines().count(), 3, "{got}");
        let ends: Vec<usize> = got.lines().map(|line| line.chars().count()).collect();
        assert!(ends.iter().all(|end| *end == ends[0]), "{got}");
    }

    #[test]
    fn units() {
        for (count, expected) in [(0.0, "0 B"), (1023.0, "1023 B"), (1536.0, "1.5 KiB"), (5_242_880.0, "5.0 MiB")] {
            assert_eq!(bytes(count), expected);
        }
        for (seconds, expected) in
            [(0.04, "0.0s"), (9.94, "9.9s"), (59.9, "59s"), (60.0, "1m00s"), (3_720.0, "1h02m"), (90_000.0, "1d01h")]
        {
            assert_eq!(span(seconds), expected);
        }
    }

    #[test]
    fn a_message_keeps_its_lines() {
        assert_eq!(escape("a\n  b\u{1b}"), "a\n  b\\u{1b}");
    }
}
