//! `gantry top`: everything at a glance, live.

mod panels;
mod screen;
mod state;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use gantry_api::wire::Overview;
use gantry_core::clock::{Clock, SystemClock};
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event};
use ratatui::{DefaultTerminal, Terminal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use self::state::State;
use crate::client::Client;
use crate::error::Result;
use crate::output::Format;
use crate::watch::seconds;

/// How often the age of what is shown is told anew, whatever the interval.
const REDRAW: Duration = Duration::from_secs(1);
/// How long a key may be waited for before it is looked whether anybody still wants one.
const KEY: Duration = Duration::from_millis(250);

#[derive(Args)]
pub(crate) struct Top {
    /// Seconds between two looks
    #[arg(long, default_value = "1", value_name = "SECONDS", value_parser = seconds)]
    interval: Duration,
    /// Print one frame as plain text and leave; so it is, too, where stdout is no terminal
    #[arg(long)]
    once: bool,
    /// Columns of that frame
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u16).range(40..=1_000))]
    width: u16,
    /// Lines of that frame
    #[arg(long, default_value_t = 30, value_name = "N", value_parser = clap::value_parser!(u16).range(12..=1_000))]
    height: u16,
}

impl Top {
    pub(crate) async fn run(self, client: &Client, format: Format) -> Result<ExitCode> {
        let first = client.overview().await;
        if self.once || format == Format::Json || !io::stdout().is_terminal() {
            let overview = first?;
            format.print(&overview, |overview| frame(overview, self.width, self.height))?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut state = State::default();
        match first {
            Err(error) if !error.is_temporary() => return Err(error),
            answer => state.take(answer, SystemClock.now()),
        }
        // Restores the terminal also when the process panics.
        let mut terminal = ratatui::try_init()?;
        let ended = live(&mut terminal, client, self.interval, state).await;
        let restored = ratatui::try_restore();
        ended?;
        restored?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Draws until somebody leaves.
async fn live(terminal: &mut DefaultTerminal, client: &Client, pause: Duration, mut state: State) -> Result<()> {
    let mut keys = keys();
    let mut overviews = overviews(client.clone(), pause);
    let mut redraw = interval(REDRAW);
    let mut terminated = signal(SignalKind::terminate())?;
    loop {
        terminal.draw(|frame| screen::draw(frame, &state, SystemClock.now()))?;
        tokio::select! {
            event = keys.recv() => match event {
                Some(Ok(Event::Key(key))) => if state.press(key) { return Ok(()) },
                // The terminal has another size: it is drawn anew.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            },
            Some(answer) = overviews.recv() => state.take(answer, SystemClock.now()),
            _ = redraw.tick() => {}
            _ = terminated.recv() => return Ok(()),
        }
    }
}

/// The keys that are pressed, read on a thread of their own: there is no other way to read them.
fn keys() -> mpsc::Receiver<io::Result<Event>> {
    let (send, receive) = mpsc::channel(16);
    std::thread::spawn(move || {
        while !send.is_closed() {
            let event = match event::poll(KEY) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            let last = event.is_err();
            if send.blocking_send(event).is_err() || last {
                return;
            }
        }
    });
    receive
}

/// What there is to see, asked for beside the drawing: an API that hangs holds no key up.
fn overviews(client: Client, pause: Duration) -> mpsc::Receiver<Result<Overview>> {
    let (send, receive) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut ticks = interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first is there already.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            if send.send(client.overview().await).await.is_err() {
                return;
            }
        }
    });
    receive
}

/// One frame as text.
fn frame(overview: &Overview, width: u16, height: u16) -> String {
    let mut state = State::default();
    state.take(Ok(overview.clone()), overview.at);
    text(&state, overview.at, width, height)
}

fn text(state: &State, now: chrono::DateTime<chrono::Utc>, width: u16, height: u16) -> String {
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    let Ok(_) = terminal.draw(|frame| screen::draw(frame, state, now));
    let buffer = terminal.backend().buffer();
    let rows = buffer.content().chunks(usize::from(width)).map(|row| {
        let (mut line, mut covered) = (String::new(), 0);
        for cell in row {
            // A wide character covers the cell behind it.
            if covered == 0 {
                line.push_str(cell.symbol());
                covered = ratatui::text::Span::raw(cell.symbol()).width().max(1);
            }
            covered -= 1;
        }
        line.trim_end().to_owned()
    });
    rows.collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

#[cfg(test)]
mod tests;
