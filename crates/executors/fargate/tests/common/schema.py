"""Checks exchanges with ECS and CloudWatch Logs against botocore's service models.

Reads JSON lines {target, request, status, answer}. Requests and answers go through the validator that boto3 sends its
own requests through, and may have nothing that the model does not know; answers go through boto3's parser besides.
Prints what is wrong, or the operations that were checked.
"""

import json
import sys

import botocore.session
from botocore.parsers import create_parser
from botocore.validate import ParamValidator

SERVICES = {"AmazonEC2ContainerServiceV20141113": "ecs", "Logs_20140328": "logs"}
# The errors that every operation has and no model names, and their HTTP status. Source: "Common Errors", Amazon ECS API
# Reference.
COMMON = {
    "AccessDeniedException": {400, 403},
    "ExpiredTokenException": {400, 403},
    "InternalFailure": {500},
    "RequestExpired": {400},
    "ServiceUnavailable": {503},
    "ThrottlingException": {400},
    "UnrecognizedClientException": {400, 403},
    "ValidationError": {400},
}
session = botocore.session.Session()
models = {}
faults, checked = set(), set()


def known(shape, value, path, unknown):
    """The value as botocore reads it: without null members, and without those that the model does not know, whose paths
    are kept."""
    if shape.type_name == "structure" and isinstance(value, dict):
        read = {}
        for name, inner in value.items():
            if name not in shape.members:
                unknown.append(f"{path}.{name}")
            elif inner is not None:
                read[name] = known(shape.members[name], inner, f"{path}.{name}", unknown)
        return read
    if shape.type_name == "list" and isinstance(value, list):
        return [known(shape.member, inner, f"{path}[]", unknown) for inner in value]
    if shape.type_name == "map" and isinstance(value, dict):
        return {key: known(shape.value, inner, f"{path}.{key}", unknown) for key, inner in value.items()}
    return value


def check(what, shape, value):
    unknown = []
    read = known(shape, value, "", unknown)
    faults.update(f"{what} has {path}" for path in unknown)
    report = ParamValidator().validate(read, shape)
    if report.has_errors():
        faults.add(f"{what}: {report.generate_report()}")


def check_answer(name, model, operation, status, answer):
    what = f"{name}: the answer"
    headers = {"content-type": "application/x-amz-json-1.1", "x-amzn-requestid": "1"}
    response = {"status_code": status, "headers": headers, "body": json.dumps(answer).encode()}
    parser = create_parser(model.metadata["protocol"])
    if status < 300:
        check(what, operation.output_shape, answer)
        try:
            parser.parse(response, operation.output_shape)
        except (AttributeError, TypeError, ValueError) as error:
            faults.add(f"{what}: {error}")
        return
    code = parser.parse(response, operation.output_shape)["Error"]["Code"]
    shape = next((shape for shape in operation.error_shapes if shape.error_code == code), None)
    if shape is None and status in COMMON.get(code, ()):
        for member, value in answer.items():
            if member not in ("__type", "message") or not isinstance(value, str):
                faults.add(f"{what}, {code}, has {member}: {value!r}")
    elif shape is None:
        faults.add(f"{what}: {status} {code} is no error of this operation")
    else:
        # The protocol's own: the models of CloudWatch Logs' errors do not name the message.
        own = {"__type", "message"} - set(shape.members)
        check(f"{what}, {code},", shape, {key: value for key, value in answer.items() if key not in own})


for line in sys.stdin:
    exchange = json.loads(line)
    prefix, name = exchange["target"].split(".")
    if prefix not in models:
        models[prefix] = session.get_service_model(SERVICES[prefix])
    operation = models[prefix].operation_model(name)
    # As it is: a client that sends a null sends one.
    report = ParamValidator().validate(exchange["request"], operation.input_shape)
    if report.has_errors():
        faults.add(f"{name}: the request: {report.generate_report()}")
    check_answer(name, models[prefix], operation, exchange["status"], exchange["answer"])
    checked.add(name)

print("\n".join(sorted(faults) or sorted(checked)))
sys.exit(bool(faults))
