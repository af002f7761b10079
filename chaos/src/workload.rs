//! The jobs of a trial: one of every kind of life, each with what must come of it.

use std::time::Duration;

use gantry_core::JobId;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::fleet::TEMPLATE;
use crate::producer::{Producer, Received};

/// The name of the job whose attempts are given up: the first for another one, the second for good.
pub(crate) const GIVEN_UP: &str = "given up";
/// The job that runs while its first attempt is made to have ended long ago.
pub(crate) const AGED: &str = "aged";
/// The job that is cancelled with a crowd, and has its name.
pub(crate) const IN_A_CROWD: &str = "in a crowd";

/// When a job's end is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cancel {
    Never,
    Pending,
    Running,
    /// This long after it was accepted, whatever has become of it by then.
    After(Duration),
}

/// How a job must end.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) status: &'static str,
    /// As far as it is the job's own.
    pub(crate) exit_code: Option<i32>,
    pub(crate) failure: Option<&'static str>,
    pub(crate) stdout: Stdout,
    /// Retries by the user's policy.
    pub(crate) retries: i16,
    /// How many attempts it must have had, if that is not up to the faults.
    pub(crate) attempts: Option<i16>,
    /// Whether it had a container at all.
    pub(crate) ran: bool,
    /// Whether the job may have been cancelled before it came to that.
    pub(crate) or_cancelled: bool,
}

/// What a job's standard output must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stdout {
    Exactly(String),
    /// [`lines`], at least as many as the container's own ledger tells of: it was stopped.
    Lines,
}

/// A job that was handed in.
#[derive(Clone, Debug)]
pub(crate) struct Submitted {
    pub(crate) name: &'static str,
    /// The idempotency key.
    pub(crate) key: String,
    pub(crate) cancel: Cancel,
    /// None: it must be refused.
    pub(crate) end: Option<End>,
}

impl End {
    fn of(status: &'static str) -> Self {
        let stdout = Stdout::Exactly(String::new());
        Self {
            status,
            exit_code: None,
            failure: None,
            stdout,
            retries: 0,
            attempts: None,
            ran: true,
            or_cancelled: false,
        }
    }

    pub(crate) fn timeout() -> Self {
        Self { failure: Some("timeout"), ..Self::of("timeout") }
    }

    pub(crate) fn cancelled() -> Self {
        Self { failure: Some("cancelled"), ..Self::of("cancelled") }
    }

    pub(crate) fn lost() -> Self {
        Self { failure: Some("lost"), ..Self::of("failed") }
    }

    pub(crate) fn exits(code: i32) -> Self {
        match code {
            0 => Self { exit_code: Some(0), ..Self::of("completed") },
            _ => Self { exit_code: Some(code), failure: Some("exit_nonzero"), ..Self::of("failed") },
        }
    }

    pub(crate) fn prints(self, stdout: String) -> Self {
        Self { stdout: Stdout::Exactly(stdout), ..self }
    }

    pub(crate) fn never_ran(self) -> Self {
        Self { ran: false, ..self }
    }
}

/// What a container prints that counts: `line 1` and so on.
pub(crate) fn lines(count: u32) -> String {
    (1..=count).map(|line| format!("line {line}\n")).collect()
}

/// A submission; `labels` without their `mock.`, `spec` laid over the smallest one.
fn job(labels: &[(&str, &str)], more: &[(&str, Value)], spec: &[(&str, Value)]) -> Value {
    let mut body = json!({ "preferred_executor": "mock", "spec": { "image": "simulated" }, "labels": {} });
    for (name, value) in labels {
        body["labels"][format!("mock.{name}")] = json!(value);
    }
    for (name, value) in more {
        body[*name] = value.clone();
    }
    for (name, value) in spec {
        body["spec"][*name] = value.clone();
    }
    body
}

/// A job's name, its body, when it is cancelled, and its end.
pub(crate) type Case = (&'static str, Value, Cancel, Option<End>);

/// One simulated container of every kind of life.
pub(crate) fn cases() -> Vec<Case> {
    let ever = ("duration", "1h");
    let retry = json!({ "max_attempts": 2, "backoff_seconds": 1, "max_backoff_seconds": 1 });
    let (timeout, cancelled) = (End::timeout(), End::cancelled());
    let invalid = End { failure: Some("invalid_spec"), ..End::of("failed") };
    let short = |stdout: &'static str| {
        let body = job(&[("stdout", stdout), ("duration", "300ms")], &[], &[]);
        (body, Cancel::Never, Some(End::exits(0).prints(stdout.to_owned())))
    };
    let of_a_template =
        json!({ "template": TEMPLATE, "labels": { "mock.stdout": "three\n", "mock.duration": "300ms" } });
    let named = |name, (body, cancel, end): (Value, Cancel, Option<End>)| (name, body, cancel, end);
    vec![
        // It spans the death and the restart of a part.
        (
            "long",
            job(&[("duration", "6s"), ("lines", "60")], &[("priority", json!(50))], &[]),
            Cancel::Never,
            Some(End::exits(0).prints(lines(60))),
        ),
        ("cancelled running", job(&[ever], &[("priority", json!(40))], &[]), Cancel::Running, Some(cancelled.clone())),
        named("first", short("one\n")),
        ("exit 3", job(&[("exit_code", "3")], &[], &[]), Cancel::Never, Some(End::exits(3))),
        (
            "retried",
            job(&[("exit_code", "75")], &[], &[("retry", retry)]),
            Cancel::Never,
            Some(End { retries: 1, ..End::exits(75) }),
        ),
        (
            "timeout",
            job(&[ever, ("stop_ignores_term", "true")], &[], &[("timeout_seconds", json!(1))]),
            Cancel::Never,
            Some(timeout.clone()),
        ),
        (
            "log",
            job(&[("duration", "1s"), ("lines", "500")], &[], &[]),
            Cancel::Never,
            Some(End::exits(0).prints(lines(500))),
        ),
        (
            "lost response",
            job(&[("fail", "lost_response"), ("stdout", "found\n"), ("duration", "500ms")], &[], &[]),
            Cancel::Never,
            Some(End::exits(0).prints("found\n".to_owned())),
        ),
        ("can never run", job(&[("duration", "soon")], &[], &[]), Cancel::Never, Some(invalid.never_ran())),
        (
            "cancelled pending",
            job(&[], &[("not_before", json!("2999-01-01T00:00:00Z"))], &[]),
            Cancel::Pending,
            Some(cancelled.never_ran()),
        ),
        (
            "queue deadline",
            // Nobody here has an account there.
            job(&[], &[("preferred_executor", json!("fargate")), ("queue_timeout_seconds", json!(1))], &[]),
            Cancel::Never,
            Some(timeout.never_ran()),
        ),
        ("refused", job(&[], &[], &[("image", json!("not an image"))]), Cancel::Never, None),
        named("second", short("two\n")),
        ("of a template", of_a_template, Cancel::Never, Some(End::exits(0).prints("three\n".to_owned()))),
    ]
}

/// One whose image takes so long that it is told of.
fn slow_image() -> Case {
    let labels = [("prepare_delay", "1200ms"), ("stdout", "at last\n"), ("duration", "300ms")];
    let end = End::exits(0).prints("at last\n".to_owned());
    ("slow image", job(&labels, &[("priority", json!(30))], &[]), Cancel::Never, Some(end))
}

/// One whose image is never there, until somebody gives it up: so it has no container that would outlive its attempt.
fn given_up() -> Case {
    let body = job(&[("prepare_delay", "1h")], &[("priority", json!(45))], &[]);
    (GIVEN_UP, body, Cancel::Never, Some(End { attempts: Some(2), ..End::lost().never_ran() }))
}

/// One that is tried again, for long enough to be caught at it.
fn aged() -> Case {
    let labels = [("duration", "2s"), ("lines", "5"), ("exit_code", "75")];
    let retry = json!({ "max_attempts": 2, "backoff_seconds": 1, "max_backoff_seconds": 1 });
    let end = End { retries: 1, ..End::exits(75).prints(lines(5)) };
    (AGED, job(&labels, &[("priority", json!(46))], &[("retry", retry)]), Cancel::Never, Some(end))
}

/// One that runs until its crowd is cancelled.
fn in_a_crowd() -> Case {
    let body = job(&[("duration", "1h")], &[("priority", json!(48))], &[]);
    (IN_A_CROWD, body, Cancel::Never, Some(End::cancelled()))
}

/// Hands one of each in, those whose image is not there at once, and those that something is done to on the way; `crowd` is
/// the name of the crowd that one of them is of.
pub(crate) async fn submit(producer: &Producer, crowd: &str) -> anyhow::Result<Vec<Submitted>> {
    let mut submitted = Vec::new();
    for (name, mut body, cancel, end) in cases().into_iter().chain([given_up(), slow_image(), aged(), in_a_crowd()]) {
        let key = Uuid::now_v7().to_string();
        body["name"] = json!(if name == IN_A_CROWD { crowd } else { name });
        body["idempotency_key"] = json!(key);
        producer.submit(&key, &body).await?;
        submitted.push(Submitted { name, key, cancel, end });
    }
    Ok(submitted)
}

/// The accepted ones, as far as answered: the ledger.
pub(crate) fn accepted<'a>(received: &Received, jobs: &'a [Submitted]) -> Vec<(&'a Submitted, &'a End, JobId)> {
    jobs.iter().filter_map(|job| Some((job, job.end.as_ref()?, received.accepted(&job.key)?))).collect()
}
