"""Google's own clients against the double: conformance.py URL IMAGE"""

import json
import sys
import time
from urllib.request import Request, urlopen

from google.api_core.exceptions import Conflict, Forbidden, NotFound, ServiceUnavailable, TooManyRequests
from google.auth.credentials import AnonymousCredentials
from google.cloud import run_v2
from google.cloud.run_v2.services.executions.transports import ExecutionsRestTransport
from google.cloud.run_v2.services.jobs.transports import JobsRestTransport
from google.cloud.run_v2.services.tasks.transports import TasksRestTransport
from google.protobuf.duration_pb2 import Duration
from googleapiclient.discovery import build

URL, IMAGE = sys.argv[1], sys.argv[2]
PARENT = "projects/conform/locations/europe-west1"
HOW = {"host": URL.removeprefix("http://"), "url_scheme": "http", "credentials": AnonymousCredentials()}
jobs = run_v2.JobsClient(transport=JobsRestTransport(**HOW))
executions = run_v2.ExecutionsClient(transport=ExecutionsRestTransport(**HOW))
tasks = run_v2.TasksClient(transport=TasksRestTransport(**HOW))
logging = build(
    "logging", "v2", credentials=AnonymousCredentials(), client_options={"api_endpoint": URL}, static_discovery=True
)


def job(script, image=IMAGE, token=None, timeout=None):
    container = run_v2.Container(image=image, command=["sh", "-c"], args=[script])
    container.env.append(run_v2.EnvVar(name="WORD", value="hello"))
    template = run_v2.TaskTemplate(containers=[container], max_retries=0)
    if timeout:
        template.timeout = Duration(seconds=timeout)
    template = run_v2.ExecutionTemplate(task_count=1, template=template)
    made = run_v2.Job(labels={"owner": "conformance"}, template=template)
    if token:
        made.start_execution_token = token
    return made


def until(what, look):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        seen = look()
        if seen:
            return seen
        time.sleep(0.05)
    raise AssertionError(f"waited in vain: {what}")


def refused(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"should have been refused with {kind.__name__}")


def lines(execution):
    where = f'labels."run.googleapis.com/execution_name"="{execution}"'
    body = {
        "resourceNames": ["projects/conform"],
        "filter": f'resource.type="cloud_run_job" AND {where}',
        "orderBy": "timestamp asc",
        "pageSize": 2,
    }
    found = []
    while True:
        page = logging.entries().list(body=body).execute()
        found += page.get("entries", [])
        if "nextPageToken" not in page:
            return found
        body["pageToken"] = page["nextPageToken"]


def started_by_its_token():
    script = 'echo $WORD; echo \'{"severity": "INFO", "n": 1}\'; echo err >&2; exit 3'
    operation = jobs.create_job(parent=PARENT, job=job(script, token="run"), job_id="token")
    created = operation.result(timeout=60)
    name = f"{PARENT}/jobs/token"
    assert created.name == name and created.labels["owner"] == "conformance", created
    refused(Conflict, lambda: jobs.create_job(parent=PARENT, job=job(script, token="run"), job_id="token"))
    execution = f"{name}/executions/token-run"
    ended = until("it ends", lambda: (seen := executions.get_execution(name=execution)).completion_time and seen)
    assert ended.failed_count == 1 and ended.conditions[0].execution_reason.name == "NON_ZERO_EXIT_CODE", ended
    [task] = tasks.list_tasks(parent=execution)
    assert task.last_attempt_result.exit_code == 3 and task.max_retries == 0, task
    assert tasks.get_task(name=task.name).name == task.name
    seen = jobs.get_job(name=name)
    assert seen.execution_count == 1 and seen.latest_created_execution.name == "token-run", seen
    assert seen.latest_created_execution.completion_status.name == "EXECUTION_FAILED", seen
    entries = until("the log is there", lambda: len(found := lines("token-run")) == 4 and found)
    payloads = {entry["logName"].rsplit("%2F")[-1]: [] for entry in entries}
    for entry in entries:
        payloads[entry["logName"].rsplit("%2F")[-1]].append(entry.get("textPayload") or entry.get("jsonPayload"))
    assert payloads["stdout"] == ["hello", {"n": 1}] and payloads["stderr"] == ["err"], payloads
    assert payloads["system"] == ["Container called exit(3)."], payloads
    refused(NotFound, lambda: tasks.get_task(name=f"{execution}/tasks/other"))


def run_and_cancelled():
    sleeper = job("trap 'exit 143' TERM; sleep 60 & wait")
    jobs.create_job(parent=PARENT, job=sleeper, job_id="by-hand").result(timeout=60)
    name = f"{PARENT}/jobs/by-hand"
    assert jobs.get_job(name=name).execution_count == 0
    execution = jobs.run_job(name=name).metadata.name
    assert execution.startswith(f"{name}/executions/by-hand-"), execution
    until("it runs", lambda: executions.get_execution(name=execution).running_count == 1)
    [listed] = executions.list_executions(parent=name)
    assert listed.name == execution
    executions.cancel_execution(name=execution)
    until("it ends", lambda: executions.get_execution(name=execution).cancelled_count == 1)
    [task] = tasks.list_tasks(parent=execution)
    assert task.last_attempt_result.exit_code == 143, task
    executions.delete_execution(name=execution)
    refused(NotFound, lambda: executions.get_execution(name=execution))


def a_timeout_has_no_exit_code():
    sleeper = job("trap 'exit 0' TERM; sleep 60 & wait", token="run", timeout=1)
    jobs.create_job(parent=PARENT, job=sleeper, job_id="late")
    execution = f"{PARENT}/jobs/late/executions/late-run"
    until("it ends", lambda: any(True for _ in executions.list_executions(parent=f"{PARENT}/jobs/late")))
    until("it ends", lambda: executions.get_execution(name=execution).completion_time)
    [task] = tasks.list_tasks(parent=execution)
    result = task.last_attempt_result
    assert result.exit_code == 0 and result.term_signal == 0 and result.status.code == 4, result


def an_update_starts_it():
    name = f"{PARENT}/jobs/updated"
    created = jobs.create_job(parent=PARENT, job=job("exit 0"), job_id="updated").result(timeout=60)
    update = job("exit 0", token="later")
    update.name, update.etag = name, created.etag
    jobs.update_job(job=update).result(timeout=60)
    until("it ends", lambda: executions.get_execution(name=f"{name}/executions/updated-later").succeeded_count == 1)


def refusals():
    missing, denied = "CONTAINER_MISSING", "CONTAINER_PERMISSION_DENIED"
    for image, reason in [("missing/image:1", missing), ("denied.invalid/a:1", denied)]:
        name = reason.lower().replace("_", "-")
        jobs.create_job(parent=PARENT, job=job("true", image=image, token="run"), job_id=name)
        seen = lambda: jobs.get_job(name=f"{PARENT}/jobs/{name}")
        until("it fails", lambda: seen().terminal_condition.reason.name == reason)
        assert not seen().latest_created_execution.name
    full = job("true", image="full.invalid/a:1")
    refused(TooManyRequests, lambda: jobs.create_job(parent=PARENT, job=full, job_id="full"))
    elsewhere = PARENT.replace("conform", "denied")
    refused(Forbidden, lambda: jobs.create_job(parent=elsewhere, job=job("true"), job_id="denied"))
    jobs.create_job(parent=PARENT, job=job("true", image="broken.invalid/a:1", token="run"), job_id="broken")
    execution = f"{PARENT}/jobs/broken/executions/broken-run"
    until("there is an execution", lambda: jobs.get_job(name=f"{PARENT}/jobs/broken").latest_created_execution.name)
    until("it fails", lambda: executions.get_execution(name=execution).completion_time)
    assert list(tasks.list_tasks(parent=execution)) == []


def faults_are_googles_errors():
    for status, kind, named in [(429, TooManyRequests, "RESOURCE_EXHAUSTED"), (503, ServiceUnavailable, "UNAVAILABLE")]:
        # Without a body: the double has to find Google's own words.
        rule = {"method": "GET", "path": "/jobs/faulty", "times": 1, "fault": {"kind": "status", "status": status}}
        headers = {"content-type": "application/json"}
        urlopen(Request(f"{URL}/_faults", json.dumps(rule).encode(), headers, method="POST")).close()
        error = refused(kind, lambda: jobs.get_job(name=f"{PARENT}/jobs/faulty"))
        said = error.response.json()["error"]
        assert (said["code"], said["status"]) == (status, named) and said["message"] in error.message, error
        refused(NotFound, lambda: jobs.get_job(name=f"{PARENT}/jobs/faulty"))


def listed_and_deleted():
    names = {one.name for one in jobs.list_jobs(request=run_v2.ListJobsRequest(parent=PARENT, page_size=2))}
    assert len(names) >= 7, names
    for name in names:
        jobs.delete_job(name=name).result(timeout=60)
        refused(NotFound, lambda: jobs.get_job(name=name))
    assert list(jobs.list_jobs(parent=PARENT)) == []


for case in [
    started_by_its_token,
    run_and_cancelled,
    a_timeout_has_no_exit_code,
    an_update_starts_it,
    refusals,
    faults_are_googles_errors,
    listed_and_deleted,
]:
    case()
    print(f"conformance cloudrun {case.__name__} ok")
