"""The REST paths: predict, metadata and status."""

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from google.protobuf import json_format

from tests.serving.reference_server import grpc_api
from tests.serving.reference_server.models import Folder, StatusError

_HTTP = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
}
_PATH = re.compile(
    r"/v1/models/(?P<name>[^/:]+)(/versions/(?P<version>\d+))?"
    r"(?P<what>|/metadata|:predict)"
)
_KINDS = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}


class Server(ThreadingHTTPServer):
    """Serves one model."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, name: str, folder: Folder, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.model_name = name
        self.folder = folder


def start(name: str, folder: Folder, port: int) -> Server:
    """Starts the server on a port of this machine."""
    server = Server(name, folder, port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # A head and a body in two packets would wait for each other's receipt.
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Server

    def do_GET(self) -> None:
        self._answer(lambda: self._look(*self._route(("", "/metadata"))))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(lambda: self._predict(*self._route((":predict",)), body))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def _route(self, allowed: tuple[str, ...]) -> tuple[str, int | None]:
        match = _PATH.fullmatch(self.path)
        if not match or match["what"] not in allowed:
            raise StatusError("INVALID_ARGUMENT", f"Malformed request: {self.path}")
        if match["name"] != self.server.model_name:
            raise StatusError(
                "NOT_FOUND", f"Servable not found for request: Latest({match['name']})"
            )
        version = match["version"]
        return match["what"], None if version is None else int(version)

    def _look(self, what: str, version: int | None) -> Any:
        folder = self.server.folder
        if not what:
            return _to_dict(grpc_api.status(folder, version))
        response = grpc_api.metadata(self.server.model_name, folder, version)
        answer = _to_dict(response)
        # The API nests the map under its own name and leaves out the type's address.
        definition = answer["metadata"]["signature_def"]
        definition.pop("@type")
        return answer

    def _predict(self, what: str, version: int | None, body: bytes) -> Any:
        loaded = self.server.folder.get(version)
        try:
            request = json.loads(body)
        except ValueError as error:
            raise StatusError(
                "INVALID_ARGUMENT", f"JSON Parse error: {error}"
            ) from None
        if (
            not isinstance(request, dict)
            or len({"inputs", "instances"} & set(request)) != 1
        ):
            raise StatusError(
                "INVALID_ARGUMENT", "expected either 'instances' or 'inputs'"
            )
        signature = request.get("signature_name", "")
        specs = loaded.specs(signature)
        rows = "instances" in request
        values = _columns(request["instances"], specs) if rows else request["inputs"]
        if not (isinstance(values, dict) and set(values) == set(specs)):
            values = dict.fromkeys(specs, values)
        inputs = {name: _array(name, values[name], specs[name]) for name in specs}
        outputs = {
            name: _plain(name, value)
            for name, value in loaded.predict(signature, inputs).items()
        }
        if not rows:
            return {"outputs": outputs if len(outputs) > 1 else outputs.popitem()[1]}
        if len(outputs) == 1:
            return {"predictions": outputs.popitem()[1]}
        names = list(outputs)
        return {
            "predictions": [
                dict(zip(names, row, strict=True))
                for row in zip(*outputs.values(), strict=True)
            ]
        }

    def _answer(self, make: Any) -> None:
        try:
            code, answer = 200, make()
        except StatusError as error:
            code, answer = _HTTP.get(error.code, 500), {"error": error.message}
        content = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _to_dict(message: Any) -> Any:
    return json_format.MessageToDict(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )


def _columns(instances: Any, specs: dict[str, tf.TensorSpec]) -> Any:
    if not isinstance(instances, list) or not instances:
        raise StatusError("INVALID_ARGUMENT", "no values in 'instances' list")
    if not all(isinstance(i, dict) and set(i) == set(specs) for i in instances):
        return instances
    return {name: [instance[name] for instance in instances] for name in specs}


def _array(name: str, values: Any, spec: tf.TensorSpec) -> npt.NDArray[Any]:
    expected = f"input {name!r}: expected {spec.dtype.name} of shape {spec.shape}"
    try:
        if spec.dtype == tf.string:
            return np.array([_bytes(value) for value in values], object)
        array = np.asarray(values)
        dtype = np.dtype(spec.dtype.as_numpy_dtype)
        if array.dtype.kind not in _KINDS[dtype.kind]:
            raise TypeError(f"received {array.dtype}")
        return array.astype(dtype)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise StatusError("INVALID_ARGUMENT", f"{expected}: {error}") from error


def _bytes(value: Any) -> bytes:
    if isinstance(value, dict):
        return base64.b64decode(value["b64"], validate=True)
    if isinstance(value, str):
        return value.encode()
    raise TypeError(f"received {value!r}")


def _plain(name: str, array: npt.NDArray[Any]) -> Any:
    if array.dtype != object:
        return array.tolist()
    return [
        {"b64": base64.b64encode(value).decode()}
        if name.endswith("_bytes")
        else value.decode()
        for value in array
    ]
