"""How the Python peers are measured: workers as processes of their own, publishers as threads of this one."""

import json
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

JOBS = int(os.environ["PEER_JOBS"])
FOLDER = Path(os.environ["PEER_FOLDER"])
# Jobs that nobody measures, before the others: connections, caches, statements. Their numbers begin with JOBS.
WARM_UP = 500
TOTAL = JOBS + WARM_UP
# Each publishes, waits for the confirm, publishes the next. One alone would measure the waiting; more are not faster.
PUBLISHERS = 8
# A run that stands still for so many seconds has failed.
STALLED = 60
PAUSE = 0.02


class Marks:
    """A byte for each job, shared by all processes. A job sets its own, which costs no system call and no lock."""

    def __init__(self):
        with open(FOLDER / "marks", "a+b") as file:
            file.truncate(TOTAL)
            self._bytes = mmap.mmap(file.fileno(), TOTAL)

    def set(self, number):
        self._bytes[number] = 1

    def count(self):
        return self._bytes[:].count(1)


def measure(worker, publish, stored, marks):
    """Publishes all jobs by `publish(number)` while the command `worker` runs, until the peer's own books (`stored`)
    count as many. Returns the seconds until then, those until the last publish, and the two counts at the end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with running(worker) as alive, ThreadPoolExecutor(PUBLISHERS) as publishers, told_to_stop() as stop:

        def publish_all(numbers):
            def some(first):
                for number in numbers[first::PUBLISHERS]:
                    if stop.is_set():
                        return
                    publish(number)

            for _ in publishers.map(some, range(PUBLISHERS)):
                pass

        def done(count):
            wait(marks.count, count, alive)
            # Asked only now, when it is a matter of moments.
            wait(stored, count, alive)

        publish_all(range(JOBS, TOTAL))
        done(WARM_UP)
        began = time.perf_counter()
        publish_all(range(JOBS))
        published = time.perf_counter()
        done(TOTAL)
        ended = time.perf_counter()
        counts = marks.count(), stored()
    return ended - began, published - began, counts


@contextmanager
def told_to_stop():
    """Set when this block ends, also early: the publishers do not go on to their last job then."""
    stop = threading.Event()
    try:
        yield stop
    finally:
        stop.set()


def report(version, configuration, durability, seconds, publish_seconds, verified):
    print(json.dumps(locals()))


def wait(counted, wanted, alive):
    last, since = -1, time.monotonic()
    while (count := counted()) < wanted:
        alive()
        if count > last:
            last, since = count, time.monotonic()
        elif time.monotonic() - since > STALLED:
            sys.exit(f"peer: stands still at {count} of {wanted}")
        time.sleep(PAUSE)


@contextmanager
def running(command):
    """Runs the workers, in a session of their own, and stops them in the end. Gives a check that they still run."""
    with open(FOLDER / "worker.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def alive():
        if process.poll() is not None:
            sys.exit(f"peer: the workers ended with {process.returncode}")

    try:
        yield alive
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
