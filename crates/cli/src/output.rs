//! What commands print: tables for people, one JSON document for programs; errors in the same form on stderr.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::json;

use crate::error::{Error, Result};

/// The form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON document.
    Json,
}

impl Format {
    /// Prints `value`, or for people what `human` makes of it. Nothing is printed for people if that is empty.
    pub(crate) fn print<T: Serialize>(self, value: &T, human: impl FnOnce(&T) -> String) -> Result<()> {
        let mut text = match self {
            Self::Json => serde_json::to_string_pretty(value).map_err(io::Error::from)?,
            Self::Table => human(value),
        };
        if !text.is_empty() {
            text.push('\n');
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        Ok(())
    }

    /// What an unparsable command line asks for, as far as one can tell.
    pub(crate) fn asked_for_by(arguments: impl Iterator<Item = String>) -> Self {
        let arguments: Vec<String> = arguments.take_while(|argument| argument != "--").collect();
        let joined = |argument: &String| ["-ojson", "-o=json", "--output=json"].contains(&argument.as_str());
        let apart = |pair: &[String]| ["-o", "--output"].contains(&pair[0].as_str()) && pair[1] == "json";
        if arguments.iter().any(joined) || arguments.windows(2).any(apart) { Self::Json } else { Self::Table }
    }
}

/// Prints `value` as one line of JSON, for documents that follow each other.
pub(crate) fn print_line<T: Serialize>(value: &T) -> Result<()> {
    let mut text = serde_json::to_string(value).map_err(io::Error::from)?;
    text.push('\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// Tells why a command failed, on stderr, and what to exit with.
pub(crate) fn failure(format: Format, error: &Error) -> ExitCode {
    // The reader of stdout wanted no more: nothing is wrong.
    if !error.is_broken_pipe() {
        let text = match (format, error) {
            (Format::Json, Error::Refused(problem)) => json!(problem).to_string(),
            (Format::Json, error) => json!({ "code": error.code(), "detail": error.to_string() }).to_string(),
            (Format::Table, error) => format!("error[{}]: {}", error.code(), plain_lines(&error.to_string())),
        };
        note(&text);
    }
    ExitCode::from(error.exit_code())
}

/// A line on stderr. If nobody can read it there is nobody to be told.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Rows under a header, aligned; columns named in `numbers` (from 0) to the right.
pub(crate) fn table<const N: usize>(header: [&str; N], numbers: &[usize], rows: Vec<[String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table.add_rows(rows.into_iter().map(|row| row.map(|cell| plain(&cell))));
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index + 1 == N { 0 } else { 2 }));
        if numbers.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// Names and their values, aligned; those without a value left out.
pub(crate) fn fields(rows: &[(&str, Option<String>)]) -> String {
    let width = rows.iter().filter(|(_, value)| value.is_some()).map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines =
        rows.iter().filter_map(|(name, value)| value.as_ref().map(|value| format!("{name:width$}  {}", plain(value))));
    lines.collect::<Vec<_>>().join("\n")
}

/// Text on one line that cannot steer the terminal: others than the reader may have written it.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn plain_lines(text: &str) -> String {
    text.lines().map(plain).collect::<Vec<_>>().join("\n")
}

/// At most `max` characters of `text`, with a mark where it was cut.
pub(crate) fn short(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some(_) => text.chars().take(max.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// An amount of money: with six places if it has them, and with two at least.
pub(crate) fn money(amount: Decimal) -> String {
    let mut amount = amount.normalize();
    if amount.scale() < 2 {
        amount.rescale(2);
    }
    amount.to_string()
}

/// A time as people say it, such as `5m ago`.
pub(crate) fn ago(now: DateTime<Utc>, time: DateTime<Utc>) -> String {
    match (now - time).to_std() {
        Ok(past) => format!("{} ago", rough(past)),
        Err(_) => format!("in {}", rough((time - now).to_std().unwrap_or_default())),
    }
}

/// A duration to about two digits, such as `1.2s` or `3h`.
pub(crate) fn rough(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..=9 => format!("{:.1}s", duration.as_secs_f64()),
        10..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_relative_to_now() {
        let now = DateTime::from_timestamp(1_000_000, 0).expect("a time");
        let before = |millis| ago(now, now - Duration::from_millis(millis));
        assert_eq!(before(20), "20ms ago");
        assert_eq!(before(1_260), "1.3s ago");
        assert_eq!(before(59_000), "59s ago");
        assert_eq!(before(300_000), "5m ago");
        assert_eq!(before(3 * 3_600_000), "3h ago");
        assert_eq!(before(50 * 3_600_000), "2d ago");
        assert_eq!(ago(now, now + Duration::from_secs(30)), "in 30s");
    }

    #[test]
    fn a_table_is_aligned_and_cannot_steer_the_terminal() {
        let rows = vec![["a".into(), "1".into()], ["\u{1b}[31mlong".into(), "100".into()]];
        assert_eq!(table(["NAME", "N"], &[1], rows), "NAME         N\na            1\n [31mlong  100");
        let rows = [("id", Some("x".to_owned())), ("nothing", None), ("name", Some("two\nlines".to_owned()))];
        assert_eq!(fields(&rows), "id    x\nname  two lines");
        assert_eq!((short("abc", 3), short("abcd", 3)), ("abc".into(), "ab…".into()));
    }

    #[test]
    fn the_form_is_known_even_of_a_wrong_command_line() {
        let asked = |line: &str| Format::asked_for_by(line.split(' ').map(str::to_owned));
        for line in ["gantry -o json x", "gantry x --output json", "gantry x --output=json", "gantry x -ojson"] {
            assert_eq!(asked(line), Format::Json, "{line}");
        }
        for line in ["gantry x", "gantry -o table json", "gantry x -- -o json", "gantry x -o"] {
            assert_eq!(asked(line), Format::Table, "{line}");
        }
    }
}
