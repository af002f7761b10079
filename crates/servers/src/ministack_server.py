"""ministack, with what it leaves out of ECS put right.

ministack runs a task's container for real and answers ECS and CloudWatch Logs; it was written by nobody here, and
its answers are its own. What follows is only what the containers behind them must do for exit codes, stops, memory
limits and logs to be real. Each correction says what ECS does.
"""

import threading

import docker.errors
from ministack import app
from ministack.services import ecs

# Images that no registry gives, each in its own way.
DENIED = "denied.invalid/"
NEVER_STARTS = "never-starts.invalid/"
SPOT = "Your Spot Task was interrupted."
FORWARDED = {}


def after(function):
    """Replaces ministack's function of the same name; the replacement gets the original first."""
    original = getattr(ecs, function.__name__)
    setattr(ecs, function.__name__, lambda *args, **kwargs: function(original, *args, **kwargs))
    return function


@after
def _build_run_kwargs(original, cdef, td, *rest):
    """A container has its definition's entry point, working directory, user and memory limit."""
    kwargs = original(cdef, td, *rest)
    memory = cdef.get("memory") or td.get("memory")
    if memory:
        kwargs["mem_limit"] = kwargs["memswap_limit"] = int(memory) << 20
    if cdef.get("entryPoint"):
        kwargs["entrypoint"] = cdef["entryPoint"]
    if cdef.get("workingDirectory"):
        kwargs["working_dir"] = cdef["workingDirectory"]
    if cdef.get("user"):
        kwargs["user"] = cdef["user"]
    return kwargs


@after
def _run_docker_container(original, client, cdef, *rest, **named):
    """An image that cannot be had is CannotPullContainerError, a program that cannot be run CannotStartContainerError."""
    image = cdef["image"]
    if image.startswith(DENIED):
        raise ecs._ImagePullError(
            f"pull image manifest has been retried 1 time(s): failed to resolve ref {image}: "
            "pull access denied, repository does not exist or may require authorization")
    try:
        client.images.get(image)
    except docker.errors.ImageNotFound:
        raise ecs._ImagePullError(
            f"pull image manifest has been retried 1 time(s): failed to resolve ref {image}: {image}: not found")
    return original(client, cdef, *rest, **named)


@after
def _fail_task_start(original, task, client, reason):
    if any(container["image"].startswith(NEVER_STARTS) for container in task["containers"]):
        # Without any container: the network interface was never there.
        task["containers"] = []
        reason = "Timeout waiting for network interface provisioning to complete."
    elif reason.startswith("ResourceInitializationError: unable to pull image or start"):
        task["containers"][0]["reason"] = "CannotStartContainerError: " + reason.split(": ", 2)[2]
        reason = "Task failed to start"
    original(task, client, reason)


@after
def _forward_awslogs(original, container, config, account, region):
    """All lines, to the last. Read again and again: an engine's log that is followed may never end."""
    forwarded = FORWARDED.setdefault(container.id, threading.Event())
    try:
        with ecs.request_scope(account, region):
            sent, over = 0, not ecs._ensure_awslogs_stream(config)
            while not over:
                container.reload()
                over = container.status not in ("created", "running")
                lines = [line for piece in container.logs(stream=True, follow=False)
                         for line in piece.decode("utf-8", errors="replace").splitlines()]
                for line in lines[sent:]:
                    ecs._emit_awslogs_event(config, line)
                sent = len(lines)
                forwarded.wait(0.1)
    finally:
        forwarded.set()


@after
def _start_awslogs_forwarder(original, container, *rest):
    FORWARDED.setdefault(container.id, threading.Event())
    original(container, *rest)


@after
def _remove_docker_container(original, client, container):
    """The log driver has all that a container printed before the container goes."""
    name = container if isinstance(container, str) else getattr(container, "id", None)
    forwarded = FORWARDED.pop(name, None)
    if forwarded:
        forwarded.wait(30)
    original(client, container)


@after
def _mark_task_stopped(original, arn, task, reason, code, exit_code=None):
    """A task tells who stopped it, and its container whether it was its memory limit."""
    client = ecs._get_docker()
    for container, docker_id in zip(task["containers"], task.get("_docker_ids") or []):
        try:
            if client.containers.get(docker_id).attrs["State"]["OOMKilled"] and container.get("exitCode"):
                container["reason"] = "OutOfMemoryError: Container killed due to memory usage"
        except docker.errors.APIError:
            pass
    stopped_by = task.get("_stopped_by")
    if stopped_by:
        reason, code = stopped_by, "SpotInterruption" if stopped_by == SPOT else "UserInitiated"
    return original(arn, task, reason, code, exit_code)


def _stop_task(data):
    """The container gets SIGTERM, its stopTimeout and SIGKILL, and its exit code is its own."""
    task = ecs._resolve_task(data.get("task", ""), ecs._resolve_cluster_name(data.get("cluster", "default")))
    if not task or task["lastStatus"] == "STOPPED":
        return original_stop(data)
    if not task["_docker_ids"]:
        answer = original_stop(data)
        for container in task["containers"]:
            container["exitCode"] = None
        return answer
    definition = ecs._task_defs[ecs._resolve_td_key(task["taskDefinitionArn"])]
    grace = definition["containerDefinitions"][0].get("stopTimeout", 30)
    task["_stopped_by"] = data.get("reason", "Task stopped by user")

    def stop(docker_id):
        try:
            ecs._get_docker().containers.get(docker_id).stop(timeout=grace)
        except docker.errors.APIError:
            pass

    for docker_id in task["_docker_ids"]:
        threading.Thread(target=stop, args=(docker_id,), daemon=True).start()
    return ecs.json_response({"task": ecs._sanitize(task)})


original_stop = ecs._ACTION_MAP["StopTask"]
ecs._ACTION_MAP["StopTask"] = _stop_task

if __name__ == "__main__":
    app.main()
