//! Jobs: create, get, list, update, delete, and `:run`.

use std::time::Instant;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::Extensions;
use gantry_double::HiddenFor;
use serde_json::{Value, json};

use super::answer::{Answer, Query, Refusal, page};
use super::store::{Execution, Job, Target};
use super::{Shared, now, operations, render, runner};

/// The longest name of a Job, and of Job and token together.
const LONGEST: usize = 63;
/// The project that refuses everybody.
const DENIED: &str = "denied";
/// Images that find no room.
const FULL: &str = "full.invalid/";

pub(super) async fn create(
    State(shared): State<Shared>,
    Path((project, location)): Path<(String, String)>,
    query: Query,
    extensions: Extensions,
    Json(given): Json<Value>,
) -> Answer {
    allowed(&project, "run.jobs.create")?;
    let id = query.get("jobId").filter(|id| is_name(id)).ok_or_else(|| Refusal::invalid("job_id: invalid name"))?;
    let token = check(&given, id)?;
    if image_of(&given).starts_with(FULL) {
        return Err(Refusal::no_room(&location, "CPU"));
    }
    let parent = format!("projects/{project}/locations/{location}");
    let name = format!("{parent}/jobs/{id}");
    let hidden = extensions.get::<HiddenFor>().map(|hidden| Instant::now() + hidden.0);
    let created = now();
    let job = Job {
        given,
        uid: shared.store.uid(),
        created,
        updated: created,
        generation: 1,
        version: 1,
        hidden_until: hidden,
        reconciling: token.is_some(),
        failed: None,
        executions: Vec::new(),
        execution_count: 0,
    };
    let rendered = {
        let mut state = shared.store.lock();
        if state.jobs.contains_key(&name) {
            return Err(Refusal::exists(&name));
        }
        if state.is_full(&parent) {
            return Err(Refusal::no_room(&location, "Jobs"));
        }
        let rendered = render::job(&name, &job);
        state.jobs.insert(name.clone(), job);
        rendered
    };
    start_by_token(&shared, &name, token);
    Ok(operations::begun(&shared, &name, Target::Job(name.clone()), render::JOB, rendered))
}

pub(super) async fn get(
    State(shared): State<Shared>,
    Path((project, location, id)): Path<(String, String, String)>,
) -> Answer {
    allowed(&project, "run.jobs.get")?;
    let name = name_of(&project, &location, &id);
    let state = shared.store.lock();
    let job = state.job(&name).ok_or_else(|| Refusal::not_found("JOB", &id))?;
    Ok(Json(render::job(&name, job)))
}

pub(super) async fn list(
    State(shared): State<Shared>,
    Path((project, location)): Path<(String, String)>,
    query: Query,
) -> Answer {
    allowed(&project, "run.jobs.list")?;
    let state = shared.store.lock();
    let jobs = state.in_location(&format!("projects/{project}/locations/{location}"));
    page("jobs", jobs.into_iter().map(|(name, job)| render::job(name, job)).collect(), &query)
}

pub(super) async fn update(
    State(shared): State<Shared>,
    Path((project, location, id)): Path<(String, String, String)>,
    Json(given): Json<Value>,
) -> Answer {
    allowed(&project, "run.jobs.update")?;
    let name = name_of(&project, &location, &id);
    let token = check(&given, &id)?;
    let rendered = {
        let mut state = shared.store.lock();
        let job = state.jobs.get_mut(&name).filter(|job| job.is_visible());
        let job = job.ok_or_else(|| Refusal::not_found("JOB", &id))?;
        same_etag(job, given.get("etag").and_then(Value::as_str), &id)?;
        if let Some(token) = &token
            && job.executions.iter().any(|execution| execution.id == format!("{id}-{token}"))
        {
            return Err(Refusal::exists(&format!("{id}-{token}")));
        }
        job.given = given;
        job.generation += 1;
        job.failed = None;
        job.reconciling = token.is_some();
        job.touch();
        render::job(&name, job)
    };
    start_by_token(&shared, &name, token);
    Ok(operations::begun(&shared, &name, Target::Job(name.clone()), render::JOB, rendered))
}

pub(super) async fn delete(
    State(shared): State<Shared>,
    Path((project, location, id)): Path<(String, String, String)>,
    query: Query,
) -> Answer {
    allowed(&project, "run.jobs.delete")?;
    let name = name_of(&project, &location, &id);
    let (job, rendered) = {
        let mut state = shared.store.lock();
        let job = state.job(&name).ok_or_else(|| Refusal::not_found("JOB", &id))?;
        same_etag(job, query.get("etag").map(String::as_str), &id)?;
        let mut rendered = render::job(&name, job);
        rendered["deleteTime"] = render::time(now()).into();
        (state.jobs.remove(&name).expect("it was there above"), rendered)
    };
    let machine = shared.machine.clone();
    // A task of its own: what was asked for is done, also when who asked is gone.
    let removed = tokio::spawn(async move {
        for execution in job.executions {
            execution.cancel.cancel();
            if let Some(container) = execution.container
                && let Err(error) = machine.remove(&container).await
            {
                tracing::warn!(%error, container, "a container of a deleted Job stays");
            }
        }
    });
    if let Err(error) = removed.await {
        tracing::warn!(%error, "the removal of a deleted Job's containers broke off");
    }
    Ok(operations::begun(&shared, &name, Target::Done, render::JOB, rendered))
}

/// `POST …/jobs/J:run`.
pub(super) async fn act(
    State(shared): State<Shared>,
    Path((project, location, id)): Path<(String, String, String)>,
    body: Json<Value>,
) -> Answer {
    let Some(id) = id.strip_suffix(":run") else { return Err(Refusal::invalid(format!("no such method: {id}"))) };
    allowed(&project, "run.jobs.run")?;
    let name = name_of(&project, &location, id);
    let suffix = shared.store.uid()[30..].to_owned();
    let begun = begin(&shared, &name, &suffix, body.get("overrides")).ok_or_else(|| Refusal::not_found("JOB", id))?;
    let (execution, rendered) = begun;
    tokio::spawn(runner::run(shared.clone(), name.clone(), execution.clone()));
    let target = Target::Execution(name.clone(), execution);
    Ok(operations::begun(&shared, &name, target, render::EXECUTION, rendered))
}

/// Refuses what the service refuses at once, and returns the token.
fn check(given: &Value, id: &str) -> Result<Option<String>, Refusal> {
    let task = &given["template"]["template"];
    let Some([container]) = task["containers"].as_array().map(Vec::as_slice) else {
        return Err(Refusal::invalid("template.template.containers: exactly one is needed"));
    };
    let image = container["image"].as_str().unwrap_or_default();
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/:@".contains(c);
    // A tag may have upper case letters, a path not.
    let path = image.rsplit_once(':').map_or(image, |(path, tag)| if tag.contains('/') { image } else { path });
    if path.is_empty() || !path.chars().all(plain) {
        return Err(Refusal::invalid(format!("template.template.containers[0].image: invalid image name {image:?}")));
    }
    let labels = given["labels"].as_object().into_iter().flatten();
    let is_label = |text: &str| {
        text.len() <= LONGEST
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_')
    };
    for (key, value) in labels {
        if !is_label(key) || !value.as_str().is_some_and(is_label) {
            return Err(Refusal::invalid(format!("labels: {key:?} or its value is not allowed")));
        }
    }
    let token = given["startExecutionToken"].as_str().filter(|token| !token.is_empty());
    if token.is_some_and(|token| id.len() + token.len() >= LONGEST || !is_label(token)) {
        return Err(Refusal::invalid(
            "start_execution_token: job name and token have fewer than 63 characters together",
        ));
    }
    Ok(token.map(str::to_owned))
}

fn image_of(given: &Value) -> &str {
    given["template"]["template"]["containers"][0]["image"].as_str().unwrap_or_default()
}

/// What a token does: one execution, once its image is there.
fn start_by_token(shared: &Shared, job: &str, token: Option<String>) {
    if let Some(token) = token {
        tokio::spawn(runner::start(shared.clone(), job.to_owned(), token));
    }
}

/// Makes an execution that nothing runs yet; none if the Job is gone.
pub(super) fn begin(shared: &Shared, name: &str, suffix: &str, overrides: Option<&Value>) -> Option<(String, Value)> {
    let uid = shared.store.uid();
    let mut state = shared.store.lock();
    let job = state.jobs.get_mut(name)?;
    let id = format!("{}-{suffix}", name.rsplit('/').next()?);
    let mut template = job.given["template"]["template"].clone();
    if let Some(overrides) = overrides {
        let container = &overrides["containerOverrides"][0];
        for key in ["args", "env"] {
            if let Some(value) = container.get(key) {
                template["containers"][0][key] = value.clone();
            }
        }
        if let Some(timeout) = overrides.get("timeout") {
            template["timeout"] = timeout.clone();
        }
    }
    job.execution_count += 1;
    job.executions.push(Execution {
        id: id.clone(),
        uid,
        number: job.execution_count,
        template,
        labels: job.given["template"].get("labels").cloned().unwrap_or(json!({})),
        created: now(),
        started: None,
        container: None,
        cancel: tokio_util::sync::CancellationToken::new(),
        end: None,
    });
    job.touch();
    let rendered = render::execution(name, job.executions.last()?);
    Some((id, rendered))
}

fn same_etag(job: &Job, etag: Option<&str>, id: &str) -> Result<(), Refusal> {
    match etag {
        Some(etag) if !etag.is_empty() && etag != job.etag() => Err(Refusal::changed(id)),
        _ => Ok(()),
    }
}

pub(super) fn allowed(project: &str, permission: &str) -> Result<(), Refusal> {
    if project == DENIED { Err(Refusal::denied(permission)) } else { Ok(()) }
}

pub(super) fn name_of(project: &str, location: &str, id: &str) -> String {
    format!("projects/{project}/locations/{location}/jobs/{id}")
}

fn is_name(id: &str) -> bool {
    id.len() < LONGEST
        && id.starts_with(|c: char| c.is_ascii_lowercase())
        && !id.ends_with('-')
        && id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}
