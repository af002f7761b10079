//! The screen: a pure function of the state and the time. Fits 80 columns and 24 lines.

use std::time::Duration;

use chrono::{DateTime, Utc};
use gantry_api::wire::Overview;
use gantry_core::capacity::Condition;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Wrap};

use super::panels;
use super::state::{Panel, State};
use crate::output::{rough, short};

/// What is older is called so: several looks were missed.
const STALE: Duration = Duration::from_secs(10);
/// The heights of the small curve.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Its width.
const CURVE: usize = 20;

pub(super) fn draw(frame: &mut Frame<'_>, state: &State, now: DateTime<Utc>) {
    let [title, totals, rates, body, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Line::from(vec![" gantry top ".bold().reversed(), " ".into(), standing(state, now)]), title);
    frame.render_widget(Line::from(" q quit  tab next panel  ↑↓ scroll  p pause").dim(), keys);
    let Some((overview, _)) = &state.seen else {
        let text = state.trouble.as_deref().unwrap_or("asking");
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), body);
        return;
    };
    frame.render_widget(totals_line(overview), totals);
    frame.render_widget(rates_line(overview, state), rates);
    // The chosen panel gets the room.
    let share = |panel| Constraint::Fill(if panel == state.panel { 4 } else { 3 });
    let areas: [Rect; 3] = Layout::vertical(Panel::ALL.map(share)).areas(body);
    for (panel, area) in Panel::ALL.into_iter().zip(areas) {
        panels::draw(frame, area, panel, overview, state, now);
    }
}

/// When it was so, and whether it still is.
fn standing(state: &State, now: DateTime<Utc>) -> Span<'static> {
    let Some((overview, heard)) = &state.seen else { return "unreachable: tried again".red() };
    let at = overview.at.format("%Y-%m-%d %H:%M:%S UTC");
    let age = (now - *heard).to_std().unwrap_or_default();
    match &state.trouble {
        _ if state.paused => format!("{at}  paused, p goes on").yellow(),
        Some(trouble) => format!("{at}  STALE by {}: {}", rough(age), short(trouble, 200)).red(),
        None if age > STALE => format!("{at}  STALE by {}: no answer", rough(age)).red(),
        None => at.to_string().into(),
    }
}

fn totals_line(overview: &Overview) -> Line<'static> {
    let waiting: i64 = overview.backlog.iter().map(|group| group.jobs).sum();
    let more = if overview.backlog.iter().any(|group| group.more) { "+" } else { "" };
    let running: i64 = overview.running.iter().map(|group| group.jobs).sum();
    let starting: i64 = overview.running.iter().map(|group| group.starting).sum();
    let takes = |condition| matches!(condition, Condition::Ready | Condition::Full);
    let good = overview.hosts.iter().filter(|host| takes(host.condition)).count();
    // Of every host that takes jobs: what runs on others frees no slot that matters.
    let slots = overview.hosts.iter().filter(|host| takes(host.condition));
    let (held, all) = slots.fold((0, 0), |(held, all), host| {
        (held + i64::from(host.current_job_count), all + i64::from(host.max_concurrent_jobs))
    });
    let starting = if starting > 0 { format!(" ({starting} starting)") } else { String::new() };
    Line::from(format!(
        " waiting {waiting}{more}   running {running}{starting}   slots {held}/{all}   hosts {good}/{} in service",
        overview.hosts.len()
    ))
}

fn rates_line(overview: &Overview, state: &State) -> Line<'static> {
    let (minute, five) = (overview.rates.minute, overview.rates.five_minutes);
    let pair = |name: &str, minute: f64, five: f64| format!("{name} {minute:.1} {five:.1}  ");
    let failed = pair("failed", minute.failed_per_second, five.failed_per_second);
    Line::from(vec![
        " per second, 1m 5m: ".dim(),
        pair("started", minute.started_per_second, five.started_per_second).into(),
        pair("completed", minute.completed_per_second, five.completed_per_second).into(),
        if minute.failed_per_second > 0.0 { failed.red() } else { failed.into() },
        Span::styled(curve(state), Style::new().fg(Color::Cyan)),
    ])
}

/// Ends per second at the last looks, the highest of them as high as a line is.
fn curve(state: &State) -> String {
    let shown: Vec<f64> = state.history.iter().rev().take(CURVE).rev().copied().collect();
    let highest = shown.iter().copied().fold(0.0, f64::max);
    if highest <= 0.0 {
        return String::new();
    }
    let bar = |ends: &f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 7")]
        let height = (ends / highest * 7.0).round() as usize;
        BARS[height.min(7)]
    };
    shown.iter().map(bar).collect()
}
