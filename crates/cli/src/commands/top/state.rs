//! What is shown, and what keys do to it.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use gantry_api::wire::Overview;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::error::{Error, Result};
use crate::output::plain;

/// Samples of the small curve.
const HISTORY: usize = 60;

/// A part of the screen that can be scrolled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Panel {
    #[default]
    Backlog,
    Hosts,
    Recent,
}

impl Panel {
    pub(super) const ALL: [Self; 3] = [Self::Backlog, Self::Hosts, Self::Recent];

    fn next(self, steps: usize) -> Self {
        Self::ALL[(self as usize + steps) % Self::ALL.len()]
    }
}

/// What there is to draw.
#[derive(Debug, Default)]
pub(super) struct State {
    /// What the API said last, and when it did.
    pub(super) seen: Option<(Overview, DateTime<Utc>)>,
    /// Why it says nothing since.
    pub(super) trouble: Option<String>,
    /// Ends per second over the last minute, at each look.
    pub(super) history: VecDeque<f64>,
    /// Whether what is shown is held.
    pub(super) paused: bool,
    /// The part that the arrows scroll.
    pub(super) panel: Panel,
    scroll: [usize; 3],
}

impl State {
    /// Takes what the API said, or why it said nothing: then what it said before stays.
    pub(super) fn take(&mut self, answer: Result<Overview, Error>, now: DateTime<Utc>) {
        if self.paused {
            return;
        }
        match answer {
            Ok(overview) => {
                let minute = overview.rates.minute;
                let ends = minute.completed_per_second + minute.failed_per_second + minute.cancelled_per_second;
                if self.history.len() == HISTORY {
                    self.history.pop_front();
                }
                self.history.push_back(ends);
                self.trouble = None;
                self.seen = Some((overview, now));
            }
            Err(error) => self.trouble = Some(plain(&error.to_string())),
        }
    }

    /// What a key does; true to leave.
    pub(super) fn press(&mut self, key: KeyEvent) -> bool {
        if key.kind == KeyEventKind::Release {
            return false;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
            KeyCode::Char('p') => self.paused = !self.paused,
            KeyCode::Tab | KeyCode::Right => self.panel = self.panel.next(1),
            KeyCode::BackTab | KeyCode::Left => self.panel = self.panel.next(Panel::ALL.len() - 1),
            KeyCode::Down => self.scroll_to(self.scroll(self.panel) + 1),
            KeyCode::Up => self.scroll_to(self.scroll(self.panel).saturating_sub(1)),
            KeyCode::Home => self.scroll_to(0),
            _ => {}
        }
        false
    }

    /// How many rows of a panel are above what is shown of it: never all.
    pub(super) fn scroll(&self, panel: Panel) -> usize {
        self.scroll[panel as usize].min(self.rows(panel).saturating_sub(1))
    }

    fn scroll_to(&mut self, row: usize) {
        self.scroll[self.panel as usize] = row.min(self.rows(self.panel).saturating_sub(1));
    }

    fn rows(&self, panel: Panel) -> usize {
        let Some((overview, _)) = &self.seen else { return 0 };
        match panel {
            Panel::Backlog => overview.backlog.len(),
            Panel::Hosts => overview.hosts.len(),
            Panel::Recent => overview.recent.len(),
        }
    }
}
