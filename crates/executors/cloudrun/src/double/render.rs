//! Resources as the service writes them: what is empty, zero or false is left out.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::store::{End, Execution, Job};

pub(super) const JOB: &str = "type.googleapis.com/google.cloud.run.v2.Job";
pub(super) const EXECUTION: &str = "type.googleapis.com/google.cloud.run.v2.Execution";

/// A time as the service writes it.
pub(super) fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Without the keys whose values say nothing.
fn told(value: Value) -> Value {
    let Value::Object(object) = value else { return value };
    let silent = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::Bool(true) => false,
    };
    object.into_iter().filter(|(_, value)| !silent(value)).collect::<Map<_, _>>().into()
}

fn condition(kind: &str, state: &str, at: DateTime<Utc>, more: Value) -> Value {
    let mut condition = json!({ "type": kind, "state": state, "lastTransitionTime": time(at) });
    if let (Value::Object(condition), Value::Object(more)) = (&mut condition, told(more)) {
        condition.extend(more);
    }
    condition
}

pub(super) fn job(name: &str, job: &Job) -> Value {
    let ready = match (&job.failed, job.reconciling) {
        (_, true) => condition("Ready", "CONDITION_RECONCILING", job.updated, json!({})),
        (Some((reason, message)), _) => {
            condition("Ready", "CONDITION_FAILED", job.updated, json!({ "reason": reason, "message": message }))
        }
        _ => condition("Ready", "CONDITION_SUCCEEDED", job.updated, json!({})),
    };
    let latest = job.executions.last().map(|execution| {
        told(json!({
            "name": execution.id,
            "createTime": time(execution.created),
            "completionTime": execution.end.as_ref().map(|end| time(end.at)),
            "completionStatus": completion_status(execution),
        }))
    });
    let mut rendered = told(json!({
        "name": name,
        "uid": job.uid,
        "generation": job.generation.to_string(),
        "observedGeneration": job.generation.to_string(),
        "createTime": time(job.created),
        "updateTime": time(job.updated),
        "creator": "double@example.com",
        "lastModifier": "double@example.com",
        "launchStage": "GA",
        "terminalCondition": ready,
        "executionCount": job.execution_count,
        "latestCreatedExecution": latest,
        "reconciling": job.reconciling,
        "etag": job.etag(),
    }));
    if let (Value::Object(rendered), Value::Object(given)) = (&mut rendered, &job.given) {
        for key in ["labels", "annotations", "client", "clientVersion", "template", "startExecutionToken"] {
            if let Some(value) = given.get(key) {
                rendered.insert(key.into(), value.clone());
            }
        }
    }
    rendered
}

fn completion_status(execution: &Execution) -> &'static str {
    match &execution.end {
        Some(End { cancelled: true, .. }) => "EXECUTION_CANCELLED",
        Some(End { succeeded: true, .. }) => "EXECUTION_SUCCEEDED",
        Some(_) => "EXECUTION_FAILED",
        None if execution.started.is_some() => "EXECUTION_RUNNING",
        None => "EXECUTION_PENDING",
    }
}

/// The condition in which an execution and its task tell how they are.
fn completed(execution: &Execution) -> Value {
    let reason = |end: &End| match end {
        End { cancelled: true, .. } => Some("CANCELLED"),
        End { exit_code: 1.., .. } => Some("NON_ZERO_EXIT_CODE"),
        _ => None,
    };
    match &execution.end {
        Some(end) if end.succeeded => condition("Completed", "CONDITION_SUCCEEDED", end.at, json!({})),
        Some(end) => {
            let more = json!({ "executionReason": reason(end), "message": end.message });
            condition("Completed", "CONDITION_FAILED", end.at, more)
        }
        None if execution.cancel.is_cancelled() => condition(
            "Completed",
            "CONDITION_RECONCILING",
            execution.created,
            json!({ "executionReason": "CANCELLING" }),
        ),
        None => condition("Completed", "CONDITION_RECONCILING", execution.created, json!({})),
    }
}

pub(super) fn execution(job: &str, execution: &Execution) -> Value {
    let end = execution.end.as_ref();
    let count = |counts: bool| i32::from(counts);
    let tells = |test: fn(&End) -> bool| count(end.is_some_and(|end| end.has_task && test(end)));
    told(json!({
        "name": format!("{job}/executions/{}", execution.id),
        "uid": execution.uid,
        "creator": "double@example.com",
        "generation": "1",
        "observedGeneration": "1",
        "labels": execution.labels,
        "createTime": time(execution.created),
        "startTime": execution.started.map(time),
        "completionTime": end.map(|end| time(end.at)),
        "updateTime": time(end.map_or(execution.created, |end| end.at)),
        "launchStage": "GA",
        "job": job.rsplit('/').next(),
        "parallelism": 1,
        "taskCount": 1,
        "template": execution.template,
        "reconciling": end.is_none(),
        "conditions": [completed(execution)],
        "runningCount": count(end.is_none() && execution.started.is_some()),
        "succeededCount": tells(|end| end.succeeded),
        "failedCount": tells(|end| !end.succeeded && !end.cancelled),
        "cancelledCount": tells(|end| end.cancelled),
        "logUri": "https://console.cloud.google.com/logs",
        "etag": format!("\"{}\"", i32::from(end.is_some())),
    }))
}

/// The task of an execution; none if it never had one.
pub(super) fn task(job: &str, execution: &Execution) -> Option<Value> {
    let end = execution.end.as_ref();
    if !end.map_or(execution.started.is_some(), |end| end.has_task) {
        return None;
    }
    let result = end.map(|end| {
        // No exit code of 0: the trap of this API.
        let status = told(json!({ "code": end.code, "message": end.message }));
        let mut result = told(json!({ "exitCode": end.exit_code, "termSignal": end.term_signal }));
        result["status"] = status;
        result
    });
    Some(told(json!({
        "name": format!("{job}/executions/{}/tasks/{}-task0", execution.id, execution.id),
        "uid": execution.uid,
        "generation": "1",
        "observedGeneration": "1",
        "labels": execution.labels,
        "createTime": time(execution.created),
        "scheduledTime": time(execution.created),
        "startTime": execution.started.map(time),
        "completionTime": end.map(|end| time(end.at)),
        "updateTime": time(end.map_or(execution.created, |end| end.at)),
        "job": job.rsplit('/').next(),
        "execution": execution.id,
        "containers": execution.template.get("containers"),
        "maxRetries": execution.template.get("maxRetries"),
        "timeout": execution.template.get("timeout"),
        "reconciling": end.is_none(),
        "conditions": [completed(execution)],
        "lastAttemptResult": result,
        "logUri": "https://console.cloud.google.com/logs",
    })))
}
