"""moto's ECS and CloudWatch Logs on a free port of 127.0.0.1, which it prints, with a cluster, a subnet, a security group and
tasks that go through their states one look at a time."""

import sys
import time

import boto3
from moto.moto_api import state_manager
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
server.start()
host, port = server.get_host_and_port()
url = f"http://{host}:{port}"
keys = {"region_name": "us-east-1", "aws_access_key_id": "test", "aws_secret_access_key": "test", "endpoint_url": url}
boto3.client("ecs", **keys).create_cluster(clusterName="gantry")
ec2 = boto3.client("ec2", **keys)
subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
state_manager.set_transition("ecs::task", {"progression": "manual", "times": 1})
logs = boto3.client("logs", **keys)
logs.create_log_group(logGroupName="/gantry")
print(url, subnet, group, flush=True)
# Each line is the name of a log stream, which then gets three lines; the end of the input is the end.
for line in sys.stdin:
    stream = line.strip()
    logs.create_log_stream(logGroupName="/gantry", logStreamName=stream)
    # Of one moment, and not an old one: those are not taken.
    now = int(time.time() * 1000)
    events = [{"timestamp": now, "message": f"line {n}"} for n in (1, 2, 3)]
    logs.put_log_events(logGroupName="/gantry", logStreamName=stream, logEvents=events)
    print("written", flush=True)
server.stop()
