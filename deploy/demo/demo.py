#!/usr/bin/python3 -B
"""Runs real jobs on a private Gantry, shows what happens to each, and checks how each ended.

deploy/scripts/demo.sh calls it, with a private Docker Engine (GANTRY_TEST_DOCKER_HOST) and the folder of the binaries
(GANTRY_BIN_DIR).
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from client import Client
from jobs import INPUT, all_jobs

READY_WITHIN = 60
STOPPED_WITHIN = 60
ENDED_WITHIN = 180
FINAL = {"completed", "failed", "timeout", "cancelled"}


def main():
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    with tempfile.TemporaryDirectory(prefix="gantry-demo-") as folder, gantry(Path(folder)) as client:
        print(f"\nRunning jobs over the files of {INPUT}, at most four at once:\n")
        jobs = all_jobs()
        ids = {(client.publish if job.over == "AMQP" else client.submit)(job.submission()): job for job in jobs}
        watch(client, ids)
        ends = {job.name: client.call("GET", f"/v1/jobs/{id}") for id, job in ids.items()}
    rows = [row(job, ends[job.name]) for job in jobs]
    print()
    table(["", "JOB", "OVER", "EXPECTED", "GOT", "EXIT", "ATTEMPT", "RAN", "OUTPUT, OR WHY"], rows)
    print(f"\nparsed_output of the job json: {json.dumps(last_attempt(ends['json']).get('parsed_output'))}\n")
    good = sum(job_row[0] == "ok" for job_row in rows)
    print(f"demo: {len(jobs)} jobs, {good} as expected")
    return 0 if good == len(jobs) else 1


def stop(number, _frame):
    """Everything that was started is stopped on the way out; a second Ctrl-C does not cut that short."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + number)


@contextlib.contextmanager
def gantry(folder, *more):
    """A private Gantry with its data in `folder`, for as long as the context lasts; a client of it. `more` goes to
    `gantry dev`."""
    command = [Path(os.environ["GANTRY_BIN_DIR"], "gantry"), "dev", "--data-dir", folder, "--listen", "127.0.0.1:0"]
    command += ["--docker-host", os.environ["GANTRY_TEST_DOCKER_HOST"], "--docker-slots", "4", "--allow-mount", INPUT, *more]
    log_path, began = folder / "gantry.log", time.monotonic()
    with open(log_path, "w") as log:
        # In a session of its own, so that Ctrl-C does not reach it before this program has had its say.
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        environment = folder / "env"
        while not environment.exists():
            if process.poll() is not None or time.monotonic() - began > READY_WITHIN:
                sys.exit(f"demo: Gantry did not start:\n{log_path.read_text()}")
            time.sleep(0.05)
        names = dict(re.findall(r"export (\w+)='(.*)'", environment.read_text()))
        print(f"Gantry is ready after {time.monotonic() - began:.1f} s: {names['GANTRY_URL']}")
        yield Client(names["GANTRY_URL"], names["GANTRY_AMQP_URL"], names["GANTRY_API_KEY"], names)
    finally:
        process.terminate()
        try:
            process.wait(STOPPED_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def watch(client, ids):
    """Prints a line whenever a job's state changes, until all have ended or the time is up."""
    seen, deadline = {}, time.monotonic() + ENDED_WITHIN
    while time.monotonic() < deadline:
        listed = client.call("GET", "/v1/jobs?limit=500")["jobs"]
        for job in reversed(listed):
            status, waits = job["status"], job.get("waiting_reason")
            # Not every turn of a waiting job's reason: with more jobs than slots they come and go.
            state = (status, job["attempt"], waits == "retry_backoff")
            if seen.get(job["id"]) == state:
                continue
            seen[job["id"]] = state
            what = f"{status} ({waits})" if waits else status
            attempt = f"attempt {job['attempt']}" if job["attempt"] > 1 else ""
            now = datetime.now().isoformat(sep=" ", timespec="milliseconds")[11:]
            print(f"{now}  {job['name']:9} {what:23}  {job.get('host', ''):13} {attempt}".rstrip(), flush=True)
            if status == "running" and ids[job["id"]].cancel:
                client.call("POST", f"/v1/jobs/{job['id']}/cancel")
        if len(listed) == len(ids) and all(job["status"] in FINAL for job in listed):
            return
        time.sleep(0.05)


def row(job, end):
    """A line of the table: what was expected of the job, and what it came to."""
    attempt = last_attempt(end)
    output = attempt.get("parsed_output") if isinstance(job.output, dict) else attempt.get("clean_output", "").strip()
    status, failure, code, tries = end["status"], end.get("failure_class"), end.get("exit_code"), end["attempt"]
    expected = outcome(job.status, job.failure)
    got = outcome(status, failure)
    as_expected = (
        expected == got
        and tries == job.attempts
        and (job.exit_code is None or code == job.exit_code)
        and (job.output is None or output == job.output)
    )
    if job.output is not None and output != job.output:
        got += ", wrong output"
    ran = f"{attempt['run_millis'] / 1000:.2f} s" if "run_millis" in attempt else ""
    text = json.dumps(output) if isinstance(output, dict) else str(output)
    said = end.get("error_message") or " · ".join(text.splitlines())
    mark = "ok" if as_expected else "NO"
    exits = against(code, job.exit_code if job.exit_code is not None else code)
    return [mark, job.name, job.over, expected, got, exits, against(tries, job.attempts), ran, said]


def against(got, expected):
    text = "" if got is None else str(got)
    return text if got == expected else f"{text or 'none'}, not {expected}"


def outcome(status, failure):
    return f"{status}: {failure}" if failure and failure != status else status


def last_attempt(end):
    return end["attempts"][-1] if end["attempts"] else {}


def table(head, rows):
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    for cells in [head, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
