#!/usr/bin/python3 -B
"""Runs the same eight jobs on a Docker host and on the doubles of three clouds, and shows a failover.

deploy/scripts/demo-clouds.sh calls it, as demo.sh does demo.py. What the clouds' machines would do is done by the same
private Docker Engine; the clouds' protocols are theirs.
"""

import json
import signal
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from demo import FINAL, gantry, last_attempt, stop, table
from jobs import IMAGE

EXECUTORS = ["docker", "cloudrun", "fargate", "scaleway"]
ENDED_WITHIN = 300
# The first process of a container gets no signal that it does not ask for.
FOREVER = "trap 'exit 143' TERM; echo waiting; sleep 600 & wait"


@dataclass
class Job:
    """What to run, and what every backend must make of it."""

    name: str
    script: str
    outcome: str
    output: str | None = None
    spec: dict | None = None
    cancel: bool = False

    def submission(self, executor):
        """As it is handed in for one of the backends."""
        spec = {"image": IMAGE, "command": ["sh", "-ec", self.script], "timeout_seconds": 120} | (self.spec or {})
        key = f"demo-{self.name}-{executor}"
        return {"name": f"{self.name}", "idempotency_key": key, "preferred_executor": executor, "spec": spec}


JOBS = [
    Job("hello", 'echo "hello from $NAME"', "completed 0", "hello from a container", {"environment": {"NAME": "a container"}}),
    Job("lines", "for n in $(seq 1 200); do echo line $n; done", "completed 0", "\n".join(f"line {n}" for n in range(1, 201))),
    Job("exit-3", "echo trouble >&2; exit 3", "failed exit_nonzero 3"),
    Job("retry", '[ "$GANTRY_ATTEMPT" = 2 ]', "completed 0, attempt 2", spec={"retry": {"max_attempts": 2, "backoff_seconds": 0}}),
    Job("killed", "sleep 2; sh -c 'kill -9 $$'; exit $?", "failed exit_nonzero 137"),
    Job("timeout", FOREVER, "timeout timeout", spec={"timeout_seconds": 3}),
    Job("cancel", FOREVER, "cancelled cancelled", cancel=True),
    Job("memory", "exec awk 'BEGIN { s = \"x\"; while (1) s = s s }'", "failed oom_killed", spec={"memory_limit_mb": 256}),
]


def main():
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    clouds = ",".join(EXECUTORS[1:])
    with tempfile.TemporaryDirectory(prefix="gantry-clouds-") as folder:
        with gantry(Path(folder), "--with", clouds) as client:
            print(f"\nThe same {len(JOBS)} jobs on {', '.join(EXECUTORS)}:\n", flush=True)
            good = matrix(client)
            print("\nA failover: Cloud Run is told to refuse every new job for want of quota.\n", flush=True)
            moved = failover(client)
    cells = len(JOBS) * len(EXECUTORS)
    print(f"\ndemo-clouds: {cells} jobs, {good} as expected; failover {'as expected' if moved else 'NOT as expected'}")
    return 0 if good == cells and moved else 1


def matrix(client):
    """Every job on every backend; how many came to what was expected."""
    ids = {(job.name, executor): client.submit(job.submission(executor)) for job in JOBS for executor in EXECUTORS}
    cancels = {ids[job.name, executor] for job in JOBS if job.cancel for executor in EXECUTORS}
    ends = until_ended(client, ids.values(), cancels)
    rows, good = [], 0
    for job in JOBS:
        cells = [seen(job, ends[ids[job.name, executor]]) for executor in EXECUTORS]
        good += sum(cell == job.outcome for cell in cells)
        rows.append([job.name, job.outcome, *("ok" if cell == job.outcome else f"NO: {cell}" for cell in cells)])
        for executor, cell in zip(EXECUTORS, cells):
            if cell != job.outcome:
                print(f"{job.name} on {executor}: {json.dumps(ends[ids[job.name, executor]], indent=1)}", file=sys.stderr)
    table(["JOB", "EXPECTED", *(executor.upper() for executor in EXECUTORS)], rows)
    return good


def seen(job, end):
    """What a job came to, in words. The exit code of a container that was stopped or killed is its backend's own affair."""
    words = [end["status"], end.get("failure_class", "")]
    if end["status"] in ("completed", "failed") and end.get("failure_class") != "oom_killed":
        words.append("" if end.get("exit_code") is None else str(end["exit_code"]))
    text = " ".join(word for word in words if word)
    if end["attempt"] > 1:
        text += f", attempt {end['attempt']}"
    if job.output is not None and last_attempt(end).get("clean_output", "").strip() != job.output:
        text += ", other output"
    return text


def failover(client):
    """A job for Cloud Run or Docker, while Cloud Run refuses: it goes to Docker, and says why."""
    refusal = {
        "method": "POST", "path": "/jobs",
        "fault": {"kind": "status", "status": 429, "body": {"error": {
            "code": 429, "status": "RESOURCE_EXHAUSTED",
            "message": "Quota exceeded for total running executions in the region.",
        }}},
    }
    put(client.names["GANTRY_CLOUDRUN_DOUBLE"] + "/_faults", [refusal])
    template = {"image": IMAGE, "command": ["echo", "I ran after all"], "supported_executors": ["cloudrun", "docker"]}
    client.call("PUT", "/v1/templates/anywhere", template)
    id = client.submit({"template": "anywhere", "idempotency_key": "demo-failover"})
    end = until_ended(client, [id], set())[id]
    rows = [
        [str(attempt["attempt"]), attempt.get("host", ""), attempt.get("failure_class", "completed"), attempt.get("error_message", "")]
        for attempt in end["attempts"]
    ]
    table(["ATTEMPT", "HOST", "CAME TO", "WHY"], rows)
    print(f"\nrouting_reason: {end.get('routing_reason')}")
    return end["status"] == "completed" and end["executor_type"] == "docker"


def put(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"}, method="PUT")
    urllib.request.urlopen(request, timeout=30).close()


def until_ended(client, ids, cancels):
    """The jobs when all have ended, or the time is up. Those to be cancelled are, as soon as they run."""
    ids, ends, asked = list(ids), {}, set()
    deadline = time.monotonic() + ENDED_WITHIN
    while len(ends) < len(ids) and time.monotonic() < deadline:
        for job in client.call("GET", "/v1/jobs?limit=500")["jobs"]:
            if job["id"] in cancels and job["status"] == "running" and job["id"] not in asked and job.get("started_at"):
                asked.add(job["id"])
                client.call("POST", f"/v1/jobs/{job['id']}/cancel")
            if job["id"] in ids and job["id"] not in ends and job["status"] in FINAL:
                ends[job["id"]] = client.call("GET", f"/v1/jobs/{job['id']}")
        time.sleep(0.2)
    return ends | {id: client.call("GET", f"/v1/jobs/{id}") for id in ids if id not in ends}


if __name__ == "__main__":
    sys.exit(main())
