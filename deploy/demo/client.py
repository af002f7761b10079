"""A producer's view of Gantry: its two doors."""

import json
import urllib.request

import pika


class Client:
    """HTTP with `url` and AMQP with `amqp_url`, both with the tenant's `key`; `names` is all that Gantry tells."""

    def __init__(self, url, amqp_url, key, names):
        self.url, self.amqp_url, self.key, self.names = url, amqp_url, key, names

    def call(self, method, path, body=None):
        """The answer's JSON; an answer that is no success is an exception."""
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def submit(self, submission):
        """Over HTTP; the job's id."""
        return self.call("POST", "/v1/jobs", submission)["id"]

    def publish(self, submission):
        """Over AMQP, with the broker's confirmation; the job's id, from the dispatcher's reply."""
        with pika.BlockingConnection(pika.URLParameters(self.amqp_url)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            replies = []
            channel.basic_consume("amq.rabbitmq.reply-to", lambda *reply: replies.append(reply[-1]), auto_ack=True)
            properties = pika.BasicProperties(
                headers={"x-gantry-api-key": self.key}, reply_to="amq.rabbitmq.reply-to", delivery_mode=2
            )
            channel.basic_publish(
                "gantry.submissions", "gantry.submissions", json.dumps(submission), properties, mandatory=True
            )
            connection.call_later(30, channel.stop_consuming)
            while not replies and channel.consumer_tags:
                connection.process_data_events(time_limit=1)
        if not replies:
            raise TimeoutError("no reply to a submission within 30 s")
        reply = json.loads(replies[0])
        if reply["result"] != "accepted":
            raise ValueError(f"refused: {reply}")
        return reply["job_id"]
