//! Screens, as they are drawn.

use gantry_api::wire::Overview;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value, json};

use super::state::{Panel, State};
use super::text;
use crate::error::Error;

fn host(name: &str, held: i32, slots: i32, condition: &str, reason: Option<&str>) -> Value {
    json!({
        "id": "0192f0c0-0000-7000-8000-000000000001", "name": name, "executor_type": "docker", "shared": true,
        "is_active": true, "state": "active", "max_concurrent_jobs": slots, "current_job_count": held,
        "available_slots": (slots - held).max(0), "condition": condition, "reason": reason, "workers": 1,
        "average_startup_seconds": 0.42, "health_check_failures": 0,
    })
}

fn end(number: u32, name: &str, end: &Value) -> Value {
    let mut fields = json!({
        "id": format!("0192f0c0-0000-7000-8000-{number:012}"), "name": name, "executor_type": "docker",
        "started_at": "2026-05-04T12:00:00Z", "completed_at": format!("2026-05-04T12:00:{:02}Z", 29 - number),
    });
    let both = fields.as_object_mut().expect("an object");
    both.extend(end.as_object().expect("an object").clone());
    fields
}

fn overview() -> Overview {
    let rates = |started, completed, failed| {
        json!({
            "started_per_second": started, "completed_per_second": completed, "failed_per_second": failed, "cancelled_per_second": 0.0,
        })
    };
    let overview = json!({
        "at": "2026-05-04T12:00:30Z",
        "backlog": [
            { "executor_type": "docker", "reason": "host_full", "jobs": 10_000, "more": true },
            { "executor_type": "docker", "reason": "retry_backoff", "jobs": 12, "more": false },
            { "executor_type": "mock", "reason": "no_worker", "jobs": 3, "more": false },
        ],
        "running": [{ "executor_type": "docker", "jobs": 7, "starting": 2 }],
        "hosts": [
            host("alpha", 4, 4, "full", Some("all of its slots are held (4 of 4)")),
            host("beta", 3, 10, "ready", None),
            host("gamma\u{1b}[31m", 0, 2, "unreached", Some("no live worker reaches it: connection refused")),
        ],
        "rates": { "minute": rates(3.25, 3.0, 0.2), "five_minutes": rates(2.5, 2.25, 0.1) },
        "recent": [
            end(1, "nightly 報告 report", &json!({ "status": "completed", "exit_code": 0 })),
            end(2, "steer\u{1b}]0;owned\u{7}", &json!({ "status": "failed", "exit_code": 3, "failure_class": "exit_nonzero" })),
            end(3, "gone", &json!({ "status": "failed", "failure_class": "lost" })),
        ],
    });
    serde_json::from_value(overview).expect("an overview")
}

fn seen() -> State {
    let mut state = State::default();
    let overview = overview();
    let at = overview.at;
    state.take(Ok(overview), at);
    state
}

fn drawn(state: &State) -> String {
    text(state, overview().at, 80, 24)
}

fn press(state: &mut State, code: KeyCode) -> bool {
    state.press(KeyEvent::new(code, KeyModifiers::NONE))
}

#[test]
fn everything_fits_a_small_terminal() {
    insta::assert_snapshot!(drawn(&seen()));
}

#[test]
fn a_wide_terminal_shows_more() {
    insta::assert_snapshot!(text(&seen(), overview().at, 120, 30));
}

#[test]
fn names_cannot_steer_the_terminal() {
    let screen = text(&seen(), overview().at, 200, 40);
    assert!(!screen.chars().any(|c| c.is_control() && c != '\n'), "{screen:?}");
    assert!(screen.contains("nightly 報告 report"), "{screen}");
}

#[test]
fn nothing_at_all_is_drawn_too() {
    let mut empty = overview();
    (empty.backlog, empty.running, empty.hosts, empty.recent) = Default::default();
    let at = empty.at;
    let mut state = State::default();
    state.take(Ok(empty), at);
    let screen = drawn(&state);
    for says in ["nothing waits", "gantry host add", "nothing has ended"] {
        assert!(screen.contains(says), "{screen}");
    }
    // However small the terminal is.
    for (width, height) in [(1, 1), (10, 3), (40, 8)] {
        text(&seen(), at, width, height);
    }
}

#[test]
fn an_api_that_went_away_leaves_what_it_said() {
    let lost = || Error::Lost { url: "http://h".parse().expect("an address"), cause: "reset\u{1b}[2J".into() };
    let mut state = State::default();
    let at = overview().at;
    state.take(Err(lost()), at);
    let screen = drawn(&state);
    assert!(screen.contains("unreachable") && screen.contains("http://h"), "{screen}");

    let mut state = seen();
    state.take(Err(lost()), at);
    let later = text(&state, at + chrono::TimeDelta::seconds(42), 80, 24);
    assert!(later.contains("STALE by 42s: the connection") && later.contains("retry_backoff"), "{later}");
    // One that hangs says nothing at all.
    let silent = text(&seen(), at + chrono::TimeDelta::seconds(42), 80, 24);
    assert!(silent.contains("STALE by 42s: no answer"), "{silent}");

    state.take(Ok(overview()), at);
    assert!(!drawn(&state).contains("STALE"));
}

#[test]
fn keys_choose_scroll_hold_and_leave() {
    let mut state = seen();
    assert_eq!(state.panel, Panel::Backlog);
    press(&mut state, KeyCode::Down);
    assert!(!drawn(&state).contains("host_full") && drawn(&state).contains("retry_backoff"));
    for _ in 0..9 {
        press(&mut state, KeyCode::Down);
    }
    assert!(drawn(&state).contains("no_worker"), "the last row stays");
    press(&mut state, KeyCode::Home);
    assert!(drawn(&state).contains("host_full"));
    press(&mut state, KeyCode::Tab);
    assert_eq!(state.panel, Panel::Hosts);
    press(&mut state, KeyCode::BackTab);
    press(&mut state, KeyCode::BackTab);
    assert_eq!(state.panel, Panel::Recent);

    press(&mut state, KeyCode::Char('p'));
    let mut other = overview();
    other.backlog.clear();
    let at = other.at;
    state.take(Ok(other), at);
    assert!(drawn(&state).contains("host_full") && drawn(&state).contains("paused"));

    assert!(press(&mut state, KeyCode::Char('q')) && press(&mut state, KeyCode::Esc));
    assert!(state.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    assert!(!press(&mut state, KeyCode::Char('c')));
}
