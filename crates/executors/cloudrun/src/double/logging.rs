//! Cloud Logging's `entries:list`, over what the containers printed.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use gantry_double::{Line, Stream};
use serde_json::{Value, json};

use super::answer::{Answer, Refusal, part};
use super::filter::Filter;
use super::store::End;
use super::{Shared, now, render};

/// The most entries of one page.
const MOST: i64 = 1000;
/// How long an entry takes to be seen.
fn late() -> TimeDelta {
    TimeDelta::milliseconds(300)
}

/// One execution, as far as its log is concerned.
struct Source {
    project: String,
    location: String,
    job: String,
    execution: String,
    container: String,
    end: Option<End>,
}

pub(super) async fn list(State(shared): State<Shared>, Json(asked): Json<Value>) -> Answer {
    let filter = Filter::parse(asked["filter"].as_str().unwrap_or_default())?;
    let size = asked["pageSize"].as_i64().unwrap_or(0);
    if !(0..=MOST).contains(&size) {
        return Err(Refusal::invalid(format!("page_size: {size} is not 0 to {MOST}")));
    }
    let Some(projects) = asked["resourceNames"].as_array() else {
        return Err(Refusal::invalid("resource_names: at least one is needed"));
    };
    let from = match asked["pageToken"].as_str().unwrap_or_default() {
        "" => 0,
        token => token.parse().map_err(|_| Refusal::invalid("page_token"))?,
    };
    let mut entries = Vec::new();
    for source in sources(&shared, projects, &filter) {
        // Removed meanwhile: it has no log any more.
        let lines = shared.machine.lines(&source.container).await.unwrap_or_default();
        entries.extend(source.entries(lines).into_iter().filter(|entry| filter.admits(entry)));
    }
    let key = |entry: &Value| {
        let time: Option<DateTime<Utc>> = entry["timestamp"].as_str().and_then(|text| text.parse().ok());
        (time, entry["insertId"].as_str().unwrap_or_default().to_owned())
    };
    entries.sort_by_cached_key(key);
    if asked["orderBy"].as_str() == Some("timestamp desc") {
        entries.reverse();
    }
    let size = if size == 0 { 50 } else { usize::try_from(size).unwrap_or_default() };
    Ok(Json(part("entries", entries, size, from)))
}

/// The executions whose entries the filter may admit.
fn sources(shared: &Shared, projects: &[Value], filter: &Filter) -> Vec<Source> {
    let wanted = filter.wanted(&["labels", "run.googleapis.com/execution_name"]);
    let mut sources = Vec::new();
    let state = shared.store.lock();
    for (name, job) in &state.jobs {
        let parts: Vec<&str> = name.split('/').collect();
        let [_, project, _, location, _, id] = parts.as_slice() else { continue };
        if !projects.iter().any(|asked| asked.as_str() == Some(format!("projects/{project}").as_str())) {
            continue;
        }
        for execution in &job.executions {
            let Some(container) = execution.container.clone() else { continue };
            if wanted.is_some_and(|wanted| !wanted.contains(&execution.id)) {
                continue;
            }
            sources.push(Source {
                project: (*project).to_owned(),
                location: (*location).to_owned(),
                job: (*id).to_owned(),
                execution: execution.id.clone(),
                container,
                end: execution.end.clone(),
            });
        }
    }
    sources
}

impl Source {
    fn entries(&self, lines: Vec<Line>) -> Vec<Value> {
        let seen_before = now() - late();
        let mut entries = Vec::new();
        for (number, line) in lines.into_iter().enumerate() {
            let stream = match line.stream {
                Stream::Stdout => "stdout",
                Stream::Stderr => "stderr",
            };
            entries.push((line.time, self.entry(stream, number, line.time, payload(&line.text))));
        }
        if let Some(end) = &self.end {
            let said = json!({ "textPayload": end.system });
            entries.push((end.at, self.entry("varlog%2Fsystem", entries.len(), end.at, said)));
        }
        entries.into_iter().filter(|(time, _)| *time < seen_before).map(|(_, entry)| entry).collect()
    }

    fn entry(&self, log: &str, number: usize, time: DateTime<Utc>, payload: Value) -> Value {
        let mut entry = json!({
            "logName": format!("projects/{}/logs/run.googleapis.com%2F{log}", self.project),
            // Whole milliseconds: many lines have one time.
            "timestamp": render::time(time.trunc_subsecs(3)),
            "receiveTimestamp": render::time(time + late()),
            "insertId": format!("{number:010}"),
            "resource": {
                "type": "cloud_run_job",
                "labels": { "project_id": self.project, "location": self.location, "job_name": self.job },
            },
            "labels": {
                "run.googleapis.com/execution_name": self.execution,
                "run.googleapis.com/task_index": "0",
                "run.googleapis.com/task_attempt": "0",
            },
        });
        if let (Value::Object(entry), Value::Object(payload)) = (&mut entry, payload) {
            entry.extend(payload);
        }
        entry
    }
}

/// A line that is an object of JSON is taken apart, as Cloud Run does.
fn payload(line: &str) -> Value {
    match serde_json::from_str::<Value>(line) {
        Ok(Value::Object(mut object)) => match object.remove("severity") {
            Some(Value::String(severity)) => json!({ "jsonPayload": object, "severity": severity }),
            _ => json!({ "jsonPayload": object }),
        },
        _ => json!({ "textPayload": line }),
    }
}
