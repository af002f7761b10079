"""Scaleway's own Python SDK against the double, and against what the executor sends.

sdk.py client URL SECRET_KEY PROJECT IMAGE   does everything that the double knows, by the SDK alone
sdk.py bodies FILE                           compares recorded requests with what the SDK marshals
"""

import dataclasses
import json
import sys
import time
import typing

from scaleway import Client
from scaleway.jobs.v1alpha2 import JobRunReason, JobRunState, JobsV1Alpha2API, RetryPolicy
from scaleway.jobs.v1alpha2 import marshalling, types
from scaleway_core.api import ScalewayException

TRANSIENT = {"initialized", "validated", "queued", "running", "interrupting", "retrying"}


def refused(status, kind, call):
    try:
        call()
    except ScalewayException as error:
        assert error.status_code == status, (error.status_code, str(error))
        assert error.response.json()["type"] == kind, str(error)
    else:
        raise AssertionError(f"nothing was refused, and {status} {kind} was expected")


def until(api, run_id, wanted):
    deadline = time.monotonic() + 60
    while True:
        run = api.get_job_run(job_run_id=run_id)
        if run.state in wanted:
            return run
        assert run.state in TRANSIENT, run
        assert time.monotonic() < deadline, run
        time.sleep(0.1)


def client(url, secret_key, project, image):
    def api_with(key):
        return JobsV1Alpha2API(
            Client(
                access_key="SCW00000000000000000",
                secret_key=key,
                default_project_id=project,
                default_region="fr-par",
                api_url=url,
            )
        )

    api = api_with(secret_key)
    refused(401, "denied_authentication", api_with(project).list_job_definitions)

    def create(name, **more):
        return api.create_job_definition(
            name=name,
            cpu_limit=140,
            memory_limit=256,
            local_storage_capacity=1000,
            image_uri=image,
            description="made by the SDK",
            job_timeout="600s",
            retry_policy=RetryPolicy(max_retries=0),
            **more,
        )

    # Two definitions may bear one name, and lists begin with the oldest.
    first, second = create("twice", environment_variables={"A": "1"}), create("twice")
    assert first.id != second.id and first.name == second.name == "twice"
    assert first.project_id == project and first.region == "fr-par"
    assert first.retry_policy.max_retries == 0 and first.created_at <= second.created_at
    assert api.get_job_definition(job_definition_id=first.id) == first
    assert [d.id for d in api.list_job_definitions_all(page_size=1)] == [first.id, second.id]
    changed = api.update_job_definition(job_definition_id=second.id, name="changed", memory_limit=512)
    assert (changed.name, changed.memory_limit, changed.cpu_limit) == ("changed", 512, 140)

    # A run to its end: nothing that is not known yet is there, and its variables are echoed.
    started = api.start_job_definition(
        job_definition_id=first.id,
        startup_command=["sh", "-c"],
        args=["sleep 1; exit $(B)"],
        environment_variables={"B": "3"},
        replicas=2,
    )
    assert len(started.job_runs) == 2
    run = started.job_runs[0]
    assert run.state in TRANSIENT and run.terminated_at is None and run.reason == JobRunReason.UNKNOWN_REASON
    assert run.environment_variables == {"A": "1", "B": "3"}
    assert run.startup_command == ["sh", "-c"] and run.job_definition_id == first.id
    refused(403, "permissions_denied", lambda: api.delete_job_definition(job_definition_id=first.id))
    for each in started.job_runs:
        run = until(api, each.id, {JobRunState.FAILED})
        assert run.exit_code == 3 and run.reason == JobRunReason.EXITED_WITH_ERROR, run
        assert run.created_at <= run.started_at <= run.terminated_at, run

    # A run that is stopped.
    trap = "trap 'exit 143' TERM; sleep 60 & wait"
    started = api.start_job_definition(job_definition_id=second.id, startup_command=["sh", "-c", trap])
    run_id = started.job_runs[0].id
    until(api, run_id, {JobRunState.RUNNING})
    # Its shell sets the trap a moment after its start.
    time.sleep(0.5)
    assert api.stop_job_run(job_run_id=run_id).state == JobRunState.INTERRUPTING
    run = until(api, run_id, {JobRunState.INTERRUPTED})
    assert run.exit_code == 143 and run.reason == JobRunReason.CANCELLATION, run
    refused(412, "precondition_failed", lambda: api.stop_job_run(job_run_id=run_id))

    # A run that never had a container.
    missing = create("missing")
    api.update_job_definition(job_definition_id=missing.id, image_uri="gantry/no-such-image:1")
    started = api.start_job_definition(job_definition_id=missing.id)
    run = until(api, started.job_runs[0].id, {JobRunState.FAILED})
    assert run.reason == JobRunReason.IMAGE_NOT_FOUND and run.started_at is None, run
    assert run.error_message, run

    # Lists and their filters.
    assert len(api.list_job_runs_all(page_size=3)) == 4
    assert api.list_job_runs().total_count == 4
    assert {r.id for r in api.list_job_runs_all(job_definition_id=second.id)} == {run_id}
    over = [JobRunState.INTERRUPTED, JobRunState.SUCCEEDED]
    assert {r.id for r in api.list_job_runs_all(states=over)} == {run_id}
    assert [r.id for r in api.list_job_runs_all(states=[JobRunState.RUNNING])] == []
    newest = api.list_job_runs(order_by="created_at_desc", page_size=1).job_runs[0]
    assert newest.id == run.id
    assert all(r.compute_limit_mvcpu and r.memory_limit_bytes for r in api.list_job_resources().resources)

    for definition in (first, second, missing):
        api.delete_job_definition(job_definition_id=definition.id)
    assert api.list_job_definitions().total_count == 0
    refused(404, "not_found", lambda: api.get_job_definition(job_definition_id=first.id))
    refused(404, "not_found", lambda: api.get_job_run(job_run_id=first.id))


def is_a(value, wanted, what):
    """Whether a JSON value is of a type as the SDK annotates it."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is typing.Union:
        return any(is_a(value, one, what) for one in arguments if one is not type(None))
    if origin is list:
        return isinstance(value, list) and all(is_a(item, arguments[0], what) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            is_a(key, arguments[0], what) and is_a(item, arguments[1], what) for key, item in value.items()
        )
    if dataclasses.is_dataclass(wanted):
        return isinstance(value, dict) and built(wanted, value, what) is not None
    return isinstance(value, wanted) and not (wanted is int and isinstance(value, bool))


def built(kind, body, what):
    """The SDK's own object of a body. A field that it lacks or does not know, or of another type, is an error."""
    hints = typing.get_type_hints(kind)
    made = {}
    for name, value in body.items():
        assert name in hints, f"{what}: the SDK knows no field {name}"
        assert is_a(value, hints[name], what), f"{what}: {name} is {value!r}, and not {hints[name]}"
        plain = [one for one in (hints[name], *typing.get_args(hints[name])) if dataclasses.is_dataclass(one)]
        made[name] = built(plain[0], value, what) if plain else value
    for field in dataclasses.fields(kind):
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        assert not needed or field.name in made, f"{what}: the SDK needs the field {field.name}"
        if not needed:
            # Not what the class fills in, but what the SDK's caller leaves out.
            made.setdefault(field.name, None)
    return kind(**made)


def bodies(path):
    with open(path, encoding="utf-8") as file:
        requests = json.load(file)
    defaults = Client(api_url="http://localhost")
    for request in requests:
        what, body = f"{request['method']} {request['path']}", request["body"]
        parts = request["path"].split("/")
        if parts[-1] == "stop":
            assert body == {}, f"{what}: {body}"
            continue
        if parts[-1] == "start":
            kind, marshal = types.StartJobDefinitionRequest, marshalling.marshal_StartJobDefinitionRequest
            made = built(kind, {"job_definition_id": parts[-2], **body}, what)
        else:
            assert parts[-1] == "job-definitions", what
            kind, marshal = types.CreateJobDefinitionRequest, marshalling.marshal_CreateJobDefinitionRequest
            made = built(kind, body, what)
        marshalled = marshal(made, defaults)
        assert marshalled == body, f"{what}: the SDK sends {marshalled}, and not {body}"


if __name__ == "__main__":
    {"client": client, "bodies": bodies}[sys.argv[1]](*sys.argv[2:])
