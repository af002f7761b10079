//! Cockpit's Loki, as far as `query_range` goes: a selector, and labels compared after a `|`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use gantry_double::{Line, Stream};
use serde::Deserialize;
use serde_json::json;

use super::state::Run;
use super::{SECRET_KEY, Shared};

/// The most entries of one answer, and how many there are if nobody says.
const MOST: usize = 5_000;
const DEFAULT: usize = 100;

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new().route("/loki/api/v1/query_range", get(query_range)).with_state(shared)
}

#[derive(Deserialize)]
struct Asked {
    query: String,
    start: Option<i64>,
    end: Option<i64>,
    limit: Option<usize>,
    direction: Option<String>,
}

async fn query_range(State(shared): State<Arc<Shared>>, headers: HeaderMap, Query(asked): Query<Asked>) -> Response {
    let given = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = given("authorization").and_then(|value| value.strip_prefix("Bearer "));
    if ![given("x-token"), given("x-auth-token"), bearer].contains(&Some(SECRET_KEY)) {
        return (StatusCode::UNAUTHORIZED, "no token").into_response();
    }
    let limit = asked.limit.unwrap_or(DEFAULT);
    let Some(query) = Expression::parse(&asked.query) else {
        return (StatusCode::BAD_REQUEST, "parse error").into_response();
    };
    if limit > MOST {
        return (StatusCode::BAD_REQUEST, format!("max entries limit per query exceeded ({limit} > {MOST})"))
            .into_response();
    }
    let runs: Vec<Run> = shared.book().runs.iter().filter(|run| query.matches(&labels(run))).cloned().collect();
    let mut entries = Vec::new();
    for run in &runs {
        let lines = match &run.container {
            Some(container) => shared.machine.lines(container).await.unwrap_or_default(),
            None => run.lines.clone(),
        };
        entries.extend(lines.into_iter().map(|line| (time(&line), run, line)));
    }
    entries.retain(|(at, _, _)| *at >= asked.start.unwrap_or(0) && *at < asked.end.unwrap_or(i64::MAX));
    entries.sort_by_key(|(at, _, _)| *at);
    if asked.direction.as_deref() != Some("forward") {
        entries.reverse();
    }
    entries.truncate(limit);
    let mut streams: BTreeMap<&str, (&Run, Vec<[String; 2]>)> = BTreeMap::new();
    for (at, run, line) in &entries {
        let values = &mut streams.entry(&run.id).or_insert((run, Vec::new())).1;
        values.push([at.to_string(), wrapped(run, line)]);
    }
    let result: Vec<_> =
        streams.values().map(|(run, values)| json!({ "stream": labels(run), "values": values })).collect();
    Json(json!({ "status": "success", "data": { "resultType": "streams", "result": result } })).into_response()
}

fn time(line: &Line) -> i64 {
    line.time.timestamp_nanos_opt().unwrap_or_default()
}

fn labels(run: &Run) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("resource_type", "serverless_job".to_owned()),
        ("job_definition_name", run.definition_name.clone()),
        ("resource_id", run.id.clone()),
        ("project_id", run.project.clone()),
        ("region", run.region.clone()),
    ])
}

/// The service's envelope.
fn wrapped(run: &Run, line: &Line) -> String {
    let stream = match line.stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    json!({ "resource_instance": run.id, "message": line.text, "stream": stream }).to_string()
}

/// `{a="b",c="d"} | e="f" or g=~".*h.*"`
#[derive(Debug, PartialEq)]
struct Expression<'a> {
    all: Vec<Comparison<'a>>,
    any: Vec<Comparison<'a>>,
}

#[derive(Debug, PartialEq)]
struct Comparison<'a> {
    label: &'a str,
    value: &'a str,
    /// Whether the value is looked for anywhere in the label.
    inside: bool,
}

impl<'a> Expression<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (selector, rest) = text.trim().strip_prefix('{')?.split_once('}')?;
        let all = selector.split(',').map(Comparison::parse).collect::<Option<_>>()?;
        let any = match rest.trim().strip_prefix('|') {
            Some(rest) => rest.split(" or ").map(Comparison::parse).collect::<Option<_>>()?,
            None if rest.trim().is_empty() => Vec::new(),
            None => return None,
        };
        Some(Self { all, any })
    }

    fn matches(&self, labels: &BTreeMap<&str, String>) -> bool {
        let holds = |comparison: &Comparison<'_>| {
            let label = labels.get(comparison.label).map_or("", String::as_str);
            if comparison.inside { label.contains(comparison.value) } else { label == comparison.value }
        };
        self.all.iter().all(holds) && (self.any.is_empty() || self.any.iter().any(holds))
    }
}

impl<'a> Comparison<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (label, value) = text.trim().split_once('=')?;
        match value.strip_prefix('~') {
            Some(pattern) => {
                let value = pattern.strip_prefix(r#"".*"#)?.strip_suffix(r#".*""#)?;
                Some(Self { label, value, inside: true })
            }
            None => Some(Self { label, value: value.strip_prefix('"')?.strip_suffix('"')?, inside: false }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expressions_that_are_asked() {
        let query = Expression::parse(r#"{a="1",b="2"} | c="3" or d=~".*4.*""#).expect("valid");
        let matches = |labels: &[(&'static str, &str)]| {
            query.matches(&labels.iter().map(|(label, value)| (*label, (*value).to_owned())).collect())
        };
        assert!(matches(&[("a", "1"), ("b", "2"), ("c", "3")]));
        assert!(matches(&[("a", "1"), ("b", "2"), ("d", "x4y")]));
        assert!(!matches(&[("a", "1"), ("b", "2"), ("d", "x")]));
        assert!(!matches(&[("a", "1"), ("c", "3")]));
        assert_eq!(Expression::parse("nonsense"), None);
        assert_eq!(Expression::parse(r#"{a=1}"#), None);
    }
}
