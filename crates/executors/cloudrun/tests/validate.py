"""Holds recorded exchanges against Google's published discovery documents.

    validate.py EXCHANGES.json

Every path, query, request and answer must be what the documents describe: a property that they do not know is an
error, and so is one in a request that only the service may set. What is refused must be a google.rpc.Status of a code
that Google's clients know under the HTTP status.
"""

import json
import os
import re
import sys
from urllib.parse import parse_qsl, unquote, urlsplit

import googleapiclient
from google.api_core import exceptions
from google.protobuf import any_pb2, json_format

# The details of errors are known by their import.
from google.rpc import code_pb2, error_details_pb2, status_pb2  # noqa: F401

DOCUMENTS = os.path.join(os.path.dirname(googleapiclient.__file__), "discovery_cache", "documents")
# The parameters of Google's front end, which every method has and the documents do not list.
FRONT_END = {"$alt", "$fields", "$userProject"}
DATETIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$")
DURATION = re.compile(r"^-?\d+(\.\d{1,9})?s$")
# What an Any holds, by its type.
TYPES = {
    "type.googleapis.com/google.cloud.run.v2.Job": "GoogleCloudRunV2Job",
    "type.googleapis.com/google.cloud.run.v2.Execution": "GoogleCloudRunV2Execution",
}
# The HTTP status of each google.rpc.Code, as Google's clients have it. Those without one of their own are 500.
HTTP = {
    kind.grpc_status_code.name: int(kind.code or 500)
    for kind in vars(exceptions).values()
    if isinstance(kind, type) and getattr(kind, "grpc_status_code", None)
}


def methods_of(resource):
    for method in resource.get("methods", {}).values():
        yield method
    for inner in resource.get("resources", {}).values():
        yield from methods_of(inner)


class Document:
    def __init__(self, name):
        with open(os.path.join(DOCUMENTS, name)) as file:
            self.document = json.load(file)
        self.schemas = self.document["schemas"]
        self.methods = []
        for method in methods_of(self.document):
            path = re.sub(r"\\\{(\w+)\\\}", r"[^/:]+", re.escape(method.get("flatPath", method["path"])))
            self.methods.append((method["httpMethod"], re.compile("^/" + path + "$"), method))

    def method(self, verb, path):
        for known, pattern, method in self.methods:
            if known == verb and pattern.match(path):
                return method
        return None


class Check:
    def __init__(self, document, is_request):
        self.document, self.is_request, self.errors = document, is_request, []

    def error(self, where, what):
        self.errors.append(f"{where}: {what}")

    def value(self, schema, value, where):
        if "$ref" in schema:
            return self.object(self.document.schemas[schema["$ref"]], value, where)
        kind = schema.get("type")
        if kind == "object":
            return self.object(schema, value, where)
        if kind == "array":
            if not isinstance(value, list):
                return self.error(where, f"not a list: {value!r}")
            for index, item in enumerate(value):
                self.value(schema["items"], item, f"{where}[{index}]")
        elif kind == "string":
            self.string(schema, value, where)
        elif kind == "integer":
            if not isinstance(value, int) or isinstance(value, bool) or not -(2**31) <= value < 2**31:
                self.error(where, f"not a 32-bit integer: {value!r}")
        elif kind == "number":
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                self.error(where, f"not a number: {value!r}")
        elif kind == "boolean":
            if not isinstance(value, bool):
                self.error(where, f"not a boolean: {value!r}")
        elif kind != "any":
            self.error(where, f"a schema of an unknown type: {kind}")

    def string(self, schema, value, where):
        # The service takes an enum's number for its name, and Google's own clients send numbers. The documents list the
        # names in the numbers' order.
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if "enum" in schema and self.is_request and is_number:
            if not 0 <= value < len(schema["enum"]):
                self.error(where, f"not the number of one of {schema['enum']}: {value}")
            return
        if not isinstance(value, str):
            return self.error(where, f"not a string: {value!r}")
        if "enum" in schema and value not in schema["enum"]:
            self.error(where, f"not one of {schema['enum']}: {value!r}")
        form = schema.get("format")
        if form == "google-datetime" and not DATETIME.match(value):
            self.error(where, f"not a time: {value!r}")
        if form == "google-duration" and not DURATION.match(value):
            self.error(where, f"not a duration: {value!r}")
        if form in ("int64", "uint64") and not re.match(r"^-?\d+$", value):
            self.error(where, f"not a 64-bit integer: {value!r}")

    def object(self, schema, value, where):
        if not isinstance(value, dict):
            return self.error(where, f"not an object: {value!r}")
        known = schema.get("properties", {})
        additional = schema.get("additionalProperties")
        if isinstance(value.get("@type"), str) and additional and not known:
            return self.any(value, where)
        for key, item in value.items():
            at = f"{where}.{key}"
            if key in known:
                if self.is_request and known[key].get("readOnly"):
                    self.error(at, "only the service sets it")
                self.value(known[key], item, at)
            elif additional is not None:
                self.value(additional, item, at)
            else:
                self.error(at, "there is no such property")

    def any(self, value, where):
        kind = value["@type"]
        if kind in TYPES:
            rest = {key: item for key, item in value.items() if key != "@type"}
            self.object(self.document.schemas[TYPES[kind]], rest, where)
        else:
            self.message(any_pb2.Any(), value, where)

    def message(self, message, value, where):
        """The value is the JSON of a protobuf message."""
        try:
            json_format.ParseDict(value, message)
        except json_format.ParseError as error:
            self.error(where, str(error).splitlines()[0])

    def error_answer(self, http, value, where):
        if not isinstance(value, dict) or set(value) != {"error"} or not isinstance(value["error"], dict):
            return self.error(where, f"not an error: {value!r}")
        error = dict(value["error"])
        if error.get("code") != http:
            self.error(f"{where}.error.code", f"{error.get('code')!r} in an answer of {http}")
        name = error.pop("status", None)
        if name not in code_pb2.Code.keys():
            self.error(f"{where}.error.status", f"no google.rpc.Code: {name!r}")
        elif name == "OK":
            self.error(f"{where}.error.status", "OK is no error")
        elif HTTP[name] != http:
            self.error(f"{where}.error.status", f"{name} is {HTTP[name]} and not {http}")
        schemas = self.document.schemas
        self.object(schemas.get("GoogleRpcStatus") or schemas["Status"], error, f"{where}.error")
        self.message(status_pb2.Status(), error, f"{where}.error")


def validate(documents, exchange):
    url = urlsplit(exchange["path"])
    where = f"{exchange['method']} {url.path}"
    found = [(document, document.method(exchange["method"], unquote(url.path))) for document in documents]
    found = [(document, method) for document, method in found if method]
    if not found:
        return [f"{where}: there is no such method"]
    document, method = found[0]
    errors = []
    known = {name for name, one in method.get("parameters", {}).items() if one["location"] == "query"}
    known |= set(document.document["parameters"]) | FRONT_END
    for name, _ in parse_qsl(url.query, keep_blank_values=True):
        if name not in known:
            errors.append(f"{where}: there is no such parameter: {name}")
    request = Check(document, True)
    if "request" in method:
        request.value(method["request"], exchange["request"], f"{where} request")
    elif exchange["request"] not in (None, {}):
        request.error(f"{where} request", "the method takes no body")
    response = Check(document, False)
    if exchange["status"] == 200:
        response.value(method["response"], exchange["response"], f"{where} answer")
    else:
        response.error_answer(exchange["status"], exchange["response"], f"{where} answer {exchange['status']}")
    return errors + request.errors + response.errors


def main():
    with open(sys.argv[1]) as file:
        exchanges = json.load(file)
    documents = [Document("run.v2.json"), Document("logging.v2.json")]
    errors = [error for exchange in exchanges for error in validate(documents, exchange)]
    for error in sorted(set(errors)):
        print(error)
    print(f"{len(exchanges)} exchanges, {len(set(errors))} different errors")
    sys.exit(1 if errors or not exchanges else 0)


if __name__ == "__main__":
    main()
