//! `--watch`: a list that is shown again and again, until somebody ends it with Ctrl-C.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use ratatui::crossterm::cursor::MoveTo;
use ratatui::crossterm::queue;
use ratatui::crossterm::style::Print;
use ratatui::crossterm::terminal::{self, Clear, ClearType};
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use crate::error::Result;
use crate::output::{Format, note, plain, print_line};

/// The option.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Watch {
    /// Show it again and again, every 2 seconds or as given, until Ctrl-C; with `-o json` a document a line
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2", value_parser = seconds)]
    watch: Option<Duration>,
}

/// Seconds between two looks: at least a tenth.
pub(crate) fn seconds(text: &str) -> std::result::Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let fits = |pause: &Duration| (Duration::from_millis(100)..=Duration::from_secs(86_400)).contains(pause);
    seconds.filter(fits).ok_or_else(|| "it is a number of seconds, from 0.1 to 86400".to_owned())
}

impl Watch {
    /// Prints what `get` gets, once or again and again. An API that does not answer for a while is told, and waited for.
    pub(crate) async fn print<T: Serialize>(
        self,
        format: Format,
        get: impl AsyncFn() -> Result<T>,
        human: impl Fn(&T) -> String,
    ) -> Result<()> {
        let Some(pause) = self.watch else { return format.print(&get().await?, human) };
        let mut ticks = interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut shown = String::new();
        loop {
            ticks.tick().await;
            let trouble = match (get().await, format) {
                (Ok(value), Format::Json) => {
                    print_line(&value)?;
                    continue;
                }
                (Ok(value), Format::Table) => {
                    shown = human(&value);
                    None
                }
                (Err(error), _) if !error.is_temporary() => return Err(error),
                (Err(error), Format::Json) => {
                    note(&format!("gantry: {}", plain(&error.to_string())));
                    continue;
                }
                (Err(error), Format::Table) => Some(format!("(not now: {})", plain(&error.to_string()))),
            };
            let lines: Vec<&str> = trouble.iter().map(String::as_str).chain(shown.lines()).collect();
            redraw(&lines)?;
        }
    }
}

/// In the place of what was there; where stdout is no terminal, behind it and apart by an empty line.
fn redraw(lines: &[&str]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    if stdout.is_terminal() {
        let (width, height) = terminal::size()?;
        queue!(stdout, MoveTo(0, 0), Clear(ClearType::All))?;
        // What does not fit would scroll the head of the list away.
        for (row, line) in (0..height).zip(lines) {
            let line: String = line.chars().take(width.into()).collect();
            queue!(stdout, MoveTo(0, row), Print(line))?;
        }
        queue!(stdout, MoveTo(0, u16::try_from(lines.len()).unwrap_or(height).min(height.saturating_sub(1))))?;
    } else {
        for line in lines {
            writeln!(stdout, "{line}")?;
        }
        writeln!(stdout)?;
    }
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        watch: Watch,
        file: Option<String>,
    }

    #[test]
    fn the_pause_may_be_left_out() {
        let line = |line: &str| Line::try_parse_from(line.split(' ')).map_err(|error| error.to_string());
        let watch = |text: &str| line(text).expect("parsed").watch.watch;
        assert_eq!(watch("x"), None);
        assert_eq!(watch("x --watch"), Some(Duration::from_secs(2)));
        assert_eq!(watch("x --watch=0.5"), Some(Duration::from_millis(500)));
        // What follows is never taken for the pause.
        assert_eq!(line("x --watch 7").expect("parsed").file.as_deref(), Some("7"));
        for wrong in ["0", "0.01", "-1", "NaN", "inf", "2s"] {
            assert!(line(&format!("x --watch={wrong}")).is_err(), "{wrong}");
        }
    }
}
