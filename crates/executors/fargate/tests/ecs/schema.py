"""Checks exchanges with ECS and CloudWatch Logs against botocore's service models.

Reads JSON lines {target, request, status, answer}. Requests go through the validator that boto3 sends its own
through, and may have nothing that the model does not know; answers go through boto3's parser. Prints what is wrong, or the
operations that were checked.
"""

import json
import sys

import botocore.session
from botocore.parsers import create_parser
from botocore.validate import ParamValidator

SERVICES = {"AmazonEC2ContainerServiceV20141113": "ecs", "Logs_20140328": "logs"}
session = botocore.session.Session()
models = {prefix: session.get_service_model(name) for prefix, name in SERVICES.items()}
faults, checked = [], set()


def unread(shape, value, path):
    """Members that the model does not know."""
    if shape.type_name == "structure" and isinstance(value, dict):
        for name, inner in value.items():
            if name in shape.members:
                yield from unread(shape.members[name], inner, f"{path}.{name}")
            else:
                yield f"{path}.{name}"
    elif shape.type_name == "list" and isinstance(value, list):
        for inner in value:
            yield from unread(shape.member, inner, f"{path}[]")


for line in sys.stdin:
    exchange = json.loads(line)
    prefix, name = exchange["target"].split(".")
    operation = models[prefix].operation_model(name)
    report = ParamValidator().validate(exchange["request"], operation.input_shape)
    if report.has_errors():
        faults.append(f"{name}: the request: {report.generate_report()}")
    faults.extend(f"{name}: the request has {path}" for path in unread(operation.input_shape, exchange["request"], ""))
    body = json.dumps(exchange["answer"]).encode()
    headers = {"content-type": "application/x-amz-json-1.1", "x-amzn-requestid": "1"}
    response = {"status_code": exchange["status"], "headers": headers, "body": body}
    parsed = create_parser(models[prefix].metadata["protocol"]).parse(response, operation.output_shape)
    if exchange["status"] < 300 and "Error" in parsed:
        faults.append(f"{name}: the answer: {parsed['Error']}")
    checked.add(name)

print("\n".join(sorted(set(faults)) or sorted(checked)))
sys.exit(bool(faults))
