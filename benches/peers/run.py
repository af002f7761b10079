"""Measures other queues, one after the other, each in a database of its own.

    run.py [--jobs N] [--only PEER,...]

Prints a JSON list on stdout and a table on stderr. Needs GANTRY_TEST_POSTGRES_URL and GANTRY_TEST_AMQP_URL. Each peer
is a script that prints one JSON object: its version, its configuration, which guarantee that gives (durability), the
seconds from the first publish to the last job done, those until the last publish, and whether its own books say that
every job is done.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg2

HERE = Path(__file__).resolve().parent
PEERS = {
    "celery": [sys.executable, "celery_peer.py"],
    "dramatiq": [sys.executable, "dramatiq_peer.py"],
    "graphile-worker": ["node", "graphile.mjs", "plain"],
    "graphile-worker-local-queue": ["node", "graphile.mjs", "local-queue"],
    "graphile-worker-batched": ["node", "graphile.mjs", "batched"],
    "pg-boss-work": ["node", "pgboss.mjs", "work"],
    "pg-boss-fetch": ["node", "pgboss.mjs", "fetch"],
}
# One per row of the table.
COLUMNS = ["peer", "version", "jobs", "seconds", "publish_seconds", "jobs_per_second", "verified"]


def main():
    parser = argparse.ArgumentParser(description="Measures other queues on Gantry's private servers.")
    parser.add_argument("--jobs", type=int, default=20_000, help="no-op jobs for each peer (default: %(default)s)")
    parser.add_argument("--only", help="some of: " + ", ".join(PEERS))
    arguments = parser.parse_args()
    if arguments.jobs < 1:
        parser.error("--jobs must be at least 1")
    names = arguments.only.split(",") if arguments.only else list(PEERS)
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        parser.error(f"unknown peers: {', '.join(unknown)} (known: {', '.join(PEERS)})")
    # So that whatever was started is stopped again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    results, failed = [], []
    for name in names:
        print(f"peers: {name}, {arguments.jobs} jobs", file=sys.stderr)
        result = measure(name, arguments.jobs)
        if result is None:
            failed.append(name)
        else:
            results.append(result)
    print(json.dumps(results, indent=2))
    table(results)
    failed += [result["peer"] for result in results if not result["verified"]]
    if failed:
        sys.exit(f"peers: FAILED: {', '.join(failed)}")


def measure(name, jobs):
    """What the peer found, or nothing if it failed."""
    admin = os.environ["GANTRY_TEST_POSTGRES_URL"]
    database = "peer_" + name.replace("-", "_")
    execute(admin, f"drop database if exists {database} with (force)", f"create database {database}")
    url = urlunsplit(urlsplit(admin)._replace(path=f"/{database}"))
    durable(url)
    # What the one before left for later is not this one's work.
    execute(admin, "checkpoint")
    with tempfile.TemporaryDirectory(prefix="gantry-peer-") as folder:
        environment = os.environ | {"PEER_DATABASE_URL": url, "PEER_FOLDER": folder, "PEER_JOBS": str(jobs)}
        command = PEERS[name]
        with subprocess.Popen(command, cwd=HERE, env=environment, stdout=subprocess.PIPE, text=True) as process:
            try:
                output, _ = process.communicate()
            except BaseException:
                process.terminate()
                raise
        if process.returncode != 0:
            print(f"peers: {name} ended with {process.returncode}", file=sys.stderr)
            for log in Path(folder).glob("*.log"):
                print(log.read_text(errors="replace")[-4000:], file=sys.stderr)
            return None
    execute(admin, f"drop database {database} with (force)")
    found = json.loads(output)
    seconds = found["seconds"]
    return {
        "peer": name,
        "version": found["version"],
        "configuration": found["configuration"],
        "durability": found["durability"],
        "jobs": jobs,
        "seconds": round(seconds, 3),
        "publish_seconds": round(found["publish_seconds"], 3),
        "jobs_per_second": round(jobs / seconds, 1),
        "verified": found["verified"],
    }


def durable(url):
    """Insists that a commit means written to disk."""
    for setting in ["fsync", "synchronous_commit", "full_page_writes"]:
        value = execute(url, f"show {setting}")
        if value != "on":
            sys.exit(f"peers: {setting} is {value}, and all peers are measured with it on")


def execute(url, *statements):
    """The first value of the last statement, if it has one."""
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchone()[0] if cursor.description else None
    finally:
        connection.close()


def table(results):
    rows = [COLUMNS] + [[str(result[column]) for column in COLUMNS] for result in results]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip(), file=sys.stderr)


if __name__ == "__main__":
    main()
