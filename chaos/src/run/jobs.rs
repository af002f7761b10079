//! The jobs of a run on real containers, each of which keeps a ledger of its own life; the simulated ones are those of
//! the crash points.

use std::path::Path;
use std::time::Duration;

use gantry_servers::TEST_IMAGE;
use serde_json::{Value, json};

use super::dice::Dice;
use crate::workload::{self, Cancel, Case, End, Stdout, lines};

/// Where a container finds the ledger.
const TARGET: &str = "/ledger";
/// The ledger's file in its folder.
pub(crate) const FILE: &str = "runs";

/// The life of every container: `LINES` lines, one each 200 ms, then exit `CODE`. The ledger gets a line for its start,
/// one after every line that it prints, and one for its end, all with a name that no other start has, so that one that
/// is killed has lived until its last beat at least, and one that is started twice is seen to be two.
pub(crate) const SCRIPT: &str = r#"
read run < /proc/sys/kernel/random/uuid
note() { read up idle < /proc/uptime; echo "$GANTRY_JOB_ID $GANTRY_ATTEMPT $run $up $1" >> /ledger/runs; }
trap "$ON_TERM" TERM
note start
i=0
while [ $i -lt $LINES ]; do i=$((i+1)); echo "line $i"; note beat; sleep 0.2; done
note end
exit $CODE
"#;
/// What most do about SIGTERM.
const HEEDS: &str = "note end; exit 143";

/// How long a life has to be that nobody lets end by itself.
const FOR_EVER: u32 = 18_000;

/// A container that prints so many lines and exits with a code.
fn container(ledger: &Path, count: u32, code: i32, spec: &[(&str, Value)]) -> Value {
    let mut body = json!({
        "preferred_executor": "docker",
        "spec": {
            "image": TEST_IMAGE,
            "command": ["/bin/sh", "-c", SCRIPT],
            "environment": { "LINES": count.to_string(), "CODE": code.to_string(), "ON_TERM": HEEDS },
            "mounts": [{ "source": ledger, "target": TARGET, "writable": true }],
        },
    });
    for (name, value) in spec {
        body["spec"][*name] = value.clone();
    }
    body
}

/// One real container of every kind of life, of lengths that the dice tell.
pub(crate) fn docker(dice: &mut Dice, ledger: &Path) -> Vec<Case> {
    let job = |count, code, spec: &[(&str, Value)]| container(ledger, count, code, spec);
    let mut count = |low, high| u32::try_from(dice.between(low, high)).unwrap_or(1);
    let whole = |count, code| End::exits(code).prints(lines(count));
    let stopped = |end: End| End { stdout: Stdout::Lines, ..end };
    let retry = json!({ "max_attempts": 2, "backoff_seconds": 1, "max_backoff_seconds": 1 });
    let (middle, long, whenever) = (count(20, 50), count(60, 100), count(10, 20));
    let after = Cancel::After(Duration::from_millis(u64::from(count(0, 5_000))));
    let mut obstinate = job(FOR_EVER, 0, &[("timeout_seconds", json!(2))]);
    // Empty: the shell ignores the signal.
    obstinate["spec"]["environment"]["ON_TERM"] = json!("");
    let mut pending = job(1, 0, &[]);
    pending["not_before"] = json!("2999-01-01T00:00:00Z");
    vec![
        ("docker: short", job(2, 0, &[]), Cancel::Never, Some(whole(2, 0))),
        ("docker: some seconds", job(middle, 0, &[]), Cancel::Never, Some(whole(middle, 0))),
        ("docker: long", job(long, 0, &[]), Cancel::Never, Some(whole(long, 0))),
        ("docker: exit 3", job(3, 3, &[]), Cancel::Never, Some(whole(3, 3))),
        ("docker: retried", job(4, 75, &[("retry", retry)]), Cancel::Never, Some(End { retries: 1, ..whole(4, 75) })),
        (
            "docker: timeout",
            job(FOR_EVER, 0, &[("timeout_seconds", json!(3))]),
            Cancel::Never,
            Some(stopped(End::timeout())),
        ),
        ("docker: killed at its timeout", obstinate, Cancel::Never, Some(stopped(End::timeout()))),
        ("docker: cancelled running", job(FOR_EVER, 0, &[]), Cancel::Running, Some(stopped(End::cancelled()))),
        ("docker: cancelled pending", pending, Cancel::Pending, Some(End::cancelled().never_ran())),
        (
            "docker: cancelled at any time",
            job(whenever, 0, &[]),
            after,
            Some(End { or_cancelled: true, ..whole(whenever, 0) }),
        ),
        ("docker: a second's work", job(5, 0, &[]), Cancel::Never, Some(whole(5, 0))),
    ]
}

/// One simulated container of every kind of life.
pub(crate) fn mock(dice: &mut Dice) -> Vec<Case> {
    let mut cases = workload::cases();
    let after = Cancel::After(Duration::from_millis(dice.between(0, 3_000)));
    let body = json!({
        "preferred_executor": "mock",
        "spec": { "image": "simulated" },
        "labels": { "mock.duration": "2s", "mock.lines": "20" },
    });
    let end = End { or_cancelled: true, ..End::exits(0).prints(lines(20)) };
    cases.push(("cancelled at any time", body, after, Some(end)));
    cases
}
