"""Measures Dramatiq with RabbitMQ: what a broker alone can do, with no record of any job.

Guarantee: at least once. The queue is durable, messages are persistent, each publish waits for the broker's confirm,
and a message is acknowledged after its actor ran. No result is stored: once done, a job has left no trace. So jobs
are counted by marks in shared memory, and in the end the queue must be empty.
"""

import os
import sys

import dramatiq
import pika
from dramatiq.brokers.rabbitmq import RabbitmqBroker

import peer

PROCESSES = 2
THREADS = 8
QUEUE = "default"
AMQP = os.environ["GANTRY_TEST_AMQP_URL"]

dramatiq.set_broker(RabbitmqBroker(url=AMQP, confirm_delivery=True))
marks = peer.Marks()


@dramatiq.actor(queue_name=QUEUE)
def no_op(number):
    marks.set(number)


def left():
    """How many messages wait in the queue; those that a worker held without acknowledging are back in it."""
    connection = pika.BlockingConnection(pika.URLParameters(AMQP))
    try:
        return connection.channel().queue_declare(QUEUE, passive=True).method.message_count
    finally:
        connection.close()


def main():
    worker = [sys.executable, "-m", "dramatiq", "dramatiq_peer"]
    worker += ["--processes", str(PROCESSES), "--threads", str(THREADS)]
    seconds, publish_seconds, counts = peer.measure(worker, no_op.send, marks.count, marks)
    peer.report(
        version=dramatiq.__version__,
        configuration=f"RabbitMQ, no results; {PROCESSES} processes with {THREADS} threads each, prefetch by default; "
        f"actor.send() by {peer.PUBLISHERS} threads of one process",
        durability="at least once: durable classic queue, persistent messages, confirmed publishes, acks after the "
        "actor ran; nothing is stored about a job",
        seconds=seconds,
        publish_seconds=publish_seconds,
        verified=counts == (peer.TOTAL, peer.TOTAL) and left() == 0,
    )


if __name__ == "__main__":
    main()
