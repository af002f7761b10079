//! The parts of the screen under its head: each a table that can be scrolled.

use std::time::Duration;

use chrono::{DateTime, Utc};
use gantry_api::wire::{BacklogGroup, Host, Overview, RecentEnd};
use gantry_core::capacity::Condition;
use gantry_core::{ExecutorType, Status};
use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Row, Table};

use super::state::{Panel, State};
use crate::commands::host::trouble;
use crate::output::{ago, plain, rough};

/// Cells of a bar of slots.
const BAR: usize = 10;

pub(super) fn draw(
    frame: &mut Frame<'_>,
    area: Rect,
    panel: Panel,
    overview: &Overview,
    state: &State,
    now: DateTime<Utc>,
) {
    let skip = state.scroll(panel);
    // By the clock of the API while what is shown is held or old.
    let now = now.min(overview.at);
    let (title, empty, widths, header, rows): (_, _, Vec<Constraint>, Vec<&str>, Vec<Row<'_>>) = match panel {
        Panel::Backlog => (
            format!(" Backlog{} ", running(overview)),
            "nothing waits",
            vec![Constraint::Length(10), Constraint::Length(18), Constraint::Fill(1)],
            vec!["EXECUTOR", "WAITS FOR", "JOBS"],
            overview.backlog.iter().skip(skip).map(group).collect(),
        ),
        Panel::Hosts => (
            format!(" Hosts ({}) ", overview.hosts.len()),
            "there is no host: `gantry host add` adds one",
            vec![
                Constraint::Length(16),
                Constraint::Length(9),
                Constraint::Length(BAR as u16),
                Constraint::Length(9),
                Constraint::Length(7),
                Constraint::Fill(1),
            ],
            vec!["NAME", "EXECUTOR", "SLOTS", "", "STARTS", "CONDITION"],
            overview.hosts.iter().skip(skip).map(host).collect(),
        ),
        Panel::Recent => (
            " Last ends ".to_owned(),
            "nothing has ended",
            vec![
                Constraint::Length(8),
                Constraint::Length(36),
                Constraint::Length(16),
                Constraint::Length(7),
                Constraint::Fill(1),
            ],
            vec!["WHEN", "JOB", "HOW", "AFTER", "NAME"],
            overview.recent.iter().skip(skip).map(|end| recent(end, now)).collect(),
        ),
    };
    let style = if panel == state.panel { Style::new().fg(Color::Cyan).bold() } else { Style::new() };
    let block = Block::new().borders(Borders::TOP).title(title).border_style(style);
    if rows.is_empty() {
        frame.render_widget(Line::from(format!(" {empty}")).dim(), block.inner(area));
        frame.render_widget(block, area);
        return;
    }
    let table = Table::new(rows, widths).header(Row::new(header).style(Style::new().dim())).block(block);
    frame.render_widget(table, area);
}

/// What runs, by executor type.
fn running(overview: &Overview) -> String {
    let running = overview.running.iter().map(|group| format!("{} {}", group.executor_type, group.jobs));
    let running = running.collect::<Vec<_>>().join(", ");
    if running.is_empty() { running } else { format!(" (running: {running})") }
}

fn group(group: &BacklogGroup) -> Row<'static> {
    let jobs = format!("{}{}", group.jobs, if group.more { "+" } else { "" });
    Row::new([executor(group.executor_type), group.reason.to_string(), jobs])
}

fn host(host: &Host) -> Row<'static> {
    let slots = format!("{}/{}", host.current_job_count, host.max_concurrent_jobs);
    let starts = host.average_startup_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let condition = trouble(host).map_or_else(|| host.condition.to_string(), plain);
    let row = Row::new([
        plain(&host.name),
        executor(host.executor_type),
        bar(host.current_job_count, host.max_concurrent_jobs),
        slots,
        starts.map_or_else(|| "-".to_owned(), rough),
        condition,
    ]);
    match host.condition {
        Condition::Ready | Condition::Full => row,
        Condition::Lost | Condition::Unreached => row.red(),
        Condition::Inactive | Condition::Cordoned | Condition::Draining => row.yellow(),
    }
}

fn executor(executor: ExecutorType) -> String {
    executor.to_string()
}

/// As full as the slots are; any that is held shows.
fn bar(held: i32, slots: i32) -> String {
    let (held, slots) = (usize::try_from(held).unwrap_or(0), usize::try_from(slots).unwrap_or(0));
    let full = if slots == 0 { if held > 0 { BAR } else { 0 } } else { (held * BAR).div_ceil(slots).min(BAR) };
    "█".repeat(full) + &"░".repeat(BAR - full)
}

fn recent(end: &RecentEnd, now: DateTime<Utc>) -> Row<'static> {
    let how = match (end.failure_class, end.exit_code) {
        (Some(gantry_core::FailureClass::ExitNonzero), Some(code)) => format!("failed, exit {code}"),
        (Some(class), _) if end.status == Status::Failed => class.to_string(),
        _ => end.status.to_string(),
    };
    let took = end.started_at.and_then(|started| (end.completed_at - started).to_std().ok());
    let row = Row::new([
        ago(now, end.completed_at).trim_end_matches(" ago").to_owned(),
        end.id.to_string(),
        how,
        took.map_or_else(|| "-".to_owned(), rough),
        plain(&end.name),
    ]);
    match end.status {
        Status::Failed | Status::Timeout => row.red(),
        Status::Cancelled => row.yellow(),
        _ => row,
    }
}
