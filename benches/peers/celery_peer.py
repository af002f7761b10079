"""Measures Celery with RabbitMQ as its broker and Postgres as its result store: the peer that, like Gantry, knows
afterwards how each job ended.

Guarantee: at least once. The queue is durable, messages are persistent, each publish waits for the broker's confirm; a
message is acknowledged after its task ran (late) and its result is committed, by one transaction per task. Results
are kept. Not kept: that a task was accepted or started (Celery has no record of a task before its end).
"""

import os
import sys

import psycopg2
from celery import Celery, __version__

import peer

# Twice the cores of the machine this was tuned on: half of a task's time is the wait for its result's commit.
CONCURRENCY = 4
PREFETCH = 64
DATABASE = os.environ["PEER_DATABASE_URL"]

app = Celery(
    "peer",
    broker=os.environ["GANTRY_TEST_AMQP_URL"],
    backend=DATABASE.replace("postgres://", "db+postgresql+psycopg2://", 1),
)
app.conf.update(
    broker_transport_options={"confirm_publish": True},
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=False,
    worker_prefetch_multiplier=PREFETCH,
)
marks = peer.Marks()


@app.task(name="no_op")
def no_op(number):
    marks.set(number)


def main():
    worker = [sys.executable, "-m", "celery", "--app=celery_peer", "worker", "--pool=prefork"]
    worker += [f"--concurrency={CONCURRENCY}", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    worker += ["--loglevel=WARNING"]
    results = psycopg2.connect(DATABASE)
    results.autocommit = True

    def stored():
        with results.cursor() as cursor:
            # Celery makes the table with the first result.
            cursor.execute("select to_regclass('celery_taskmeta') is not null")
            if not cursor.fetchone()[0]:
                return 0
            cursor.execute("select count(*) from celery_taskmeta where status = 'SUCCESS'")
            return cursor.fetchone()[0]

    seconds, publish_seconds, counts = peer.measure(worker, no_op.delay, stored, marks)
    peer.report(
        version=__version__,
        configuration=f"RabbitMQ, results in Postgres (SQLAlchemy, psycopg2); one worker, prefork, concurrency "
        f"{CONCURRENCY}, prefetch multiplier {PREFETCH}; task.delay() by {peer.PUBLISHERS} threads of one process",
        durability="at least once: durable classic queue, persistent messages, confirmed publishes, late acks, "
        "lost workers' tasks are redelivered; a result row is committed for each task (synchronous_commit on) and kept",
        seconds=seconds,
        publish_seconds=publish_seconds,
        verified=counts == (peer.TOTAL, peer.TOTAL),
    )


if __name__ == "__main__":
    main()
