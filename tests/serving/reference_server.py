"""A reference server of the TensorFlow Serving API: a test double, not a product.

It has the official PredictionService and ModelService stubs, the REST paths, and a
poll of the version folder, and runs the signatures by `tf.saved_model.load`. It
imports nothing of keras_traps, so what it serves needs nothing of it either.

What it cannot prove is whatever is TensorFlow Serving's own: its C++ loader, batching,
model configuration, and the wording of its errors.

Example:
    python -m tests.serving.reference_server digits saved_models/digits 8500 8501
"""

import base64
import contextlib
import functools
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import get_model_metadata_pb2 as metadata_pb2
from tensorflow_serving.apis import get_model_status_pb2 as status_pb2
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.serving.http_server import Reply, listening

Arrays = Mapping[str, npt.NDArray[Any]]

_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
_HTTP = {"INVALID_ARGUMENT": 400, "NOT_FOUND": 404}
_PATH = re.compile(
    r"/v1/models/(?P<name>[^/:]+)(/versions/(?P<version>\d+))?"
    r"(?P<what>|/metadata|:predict)"
)
# As TensorFlow Serving has it: no limit on messages.
_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.so_reuseport", 0),
]


class StatusError(Exception):
    """A request that is refused, with a canonical status name."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        # gRPC drops an answer whose status is above the limit for headers.
        self.message = message[:1024]


class Loaded:
    def __init__(self, folder: Path) -> None:
        self.version = int(folder.name)
        saved = saved_model_pb2.SavedModel()
        saved.ParseFromString((folder / "saved_model.pb").read_bytes())
        self.signature_defs = dict(saved.meta_graphs[0].signature_def)
        self._model = tf.saved_model.load(str(folder))

    def specs(self, signature: str) -> dict[str, tf.TensorSpec]:
        if signature not in self._model.signatures:
            raise StatusError("INVALID_ARGUMENT", f"{signature!r} not found")
        return dict(self._model.signatures[signature].structured_input_signature[1])

    def predict(self, signature: str, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Runs a signature, or raises a StatusError that says what it expects."""
        specs = self.specs(signature)
        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        for name, spec in specs.items():
            if name not in tensors or not spec.is_compatible_with(tensors[name]):
                raise StatusError("INVALID_ARGUMENT", f"expected {specs}")
        try:
            outputs = self._model.signatures[signature](**tensors)
        except tf.errors.OpError as error:
            code = _CODES.get(error.error_code, "UNKNOWN")
            raise StatusError(code, error.message) from error
        return {name: value.numpy() for name, value in outputs.items()}


class Served:
    """Serves the highest version of a folder that can be loaded.

    The older one goes only when the newer one answers, and not before the requests
    that it is answering are done.
    """

    def __init__(self, model: str, path: Path) -> None:
        self.model = model
        self._path = path
        self._loaded: Loaded | None = None
        # By version, its state and why it could not be loaded.
        self._states: dict[int, tuple[str, str]] = {}

    def get(self, model: str, version: int | None) -> Loaded:
        loaded = self._loaded
        if loaded and model == self.model and version in (None, loaded.version):
            return loaded
        raise StatusError("NOT_FOUND", f"Servable not found: {model} {version}")

    def metadata(
        self, model: str, version: int | None
    ) -> metadata_pb2.GetModelMetadataResponse:
        loaded = self.get(model, version)
        signatures = metadata_pb2.SignatureDefMap(signature_def=loaded.signature_defs)
        spec = {"name": model, "version": {"value": loaded.version}}
        response = metadata_pb2.GetModelMetadataResponse(model_spec=spec)
        response.metadata["signature_def"].Pack(signatures)
        return response

    def status(
        self, model: str, version: int | None
    ) -> status_pb2.GetModelStatusResponse:
        if model != self.model or version not in (None, *self._states):
            raise StatusError("NOT_FOUND", f"Could not find {model} {version}")
        response = status_pb2.GetModelStatusResponse()
        for number, (state, error) in sorted(self._states.items(), reverse=True):
            if version in (None, number):
                entry = response.model_version_status.add(version=number)
                entry.state = status_pb2.ModelVersionStatus.State.Value(state)
                entry.status.error_message = error
        return response

    def look(self) -> None:
        """Loads what is new and drops what is gone."""
        names = [p.name for p in self._path.iterdir()] if self._path.is_dir() else []
        before = self._loaded
        for version in sorted((int(n) for n in names if n.isdecimal()), reverse=True):
            if before is not None and version == before.version:
                break
            if version in self._states and self._states[version][1]:
                continue
            try:
                self._loaded = Loaded(self._path / str(version))
            except Exception as error:  # Whatever is wrong with it, go on serving.
                self._states[version] = "END", f"{type(error).__name__}: {error}"
                continue
            self._states[version] = "AVAILABLE", ""
            break
        else:
            self._loaded = None
        if before is not None and self._loaded is not before:
            self._states[before.version] = "END", ""


class _Grpc(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    def __init__(self, served: Served) -> None:
        self.Predict = self._answering(served.get, _predict)
        self.GetModelMetadata = self._answering(served.metadata)
        self.GetModelStatus = self._answering(served.status)

    @staticmethod
    def _answering(
        find: Callable[[str, int | None], Any],
        answer: Callable[[Any, Any], Any] = lambda found, _: found,
    ) -> Callable[[Any, Any], Any]:
        def method(request: Any, context: grpc.ServicerContext) -> Any:
            spec = request.model_spec
            version = spec.version.value if spec.HasField("version") else None
            try:
                return answer(find(spec.name, version), request)
            except StatusError as error:
                context.abort(grpc.StatusCode[error.code], error.message)

        return method


def _predict(
    loaded: Loaded, request: predict_pb2.PredictRequest
) -> predict_pb2.PredictResponse:
    inputs = {key: tf.make_ndarray(v) for key, v in request.inputs.items()}
    response = predict_pb2.PredictResponse(model_spec=request.model_spec)
    response.model_spec.version.value = loaded.version
    for key, value in loaded.predict(request.model_spec.signature_name, inputs).items():
        response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
    return response


def _answer(served: Served, path: str, body: bytes) -> Reply:
    """Answers a request over REST."""
    try:
        return 200, json.dumps(_json(served, path, body)).encode()
    except StatusError as error:
        content = json.dumps({"error": error.message}).encode()
        return _HTTP.get(error.code, 500), content


def _json(served: Served, path: str, body: bytes) -> Any:
    match = _PATH.fullmatch(path)
    if not match:
        raise StatusError("INVALID_ARGUMENT", f"Malformed request: {path}")
    asked = match["name"], None if match["version"] is None else int(match[3])
    if match["what"] == ":predict":
        return _predict_json(served.get(*asked), json.loads(body))
    if not match["what"]:
        return _to_dict(served.status(*asked))
    answer = _to_dict(served.metadata(*asked))
    # The API nests the map under its own name and leaves out the type's address.
    answer["metadata"]["signature_def"].pop("@type")
    return answer


def _predict_json(loaded: Loaded, request: dict[str, Any]) -> Any:
    signature, rows = request["signature_name"], "instances" in request
    specs = loaded.specs(signature)
    given = dict.fromkeys(specs, request["instances"]) if rows else request["inputs"]
    inputs = {name: _array(given[name], specs[name]) for name in specs}
    outputs = {
        name: [value.decode() for value in array]
        if array.dtype == object
        else array.tolist()
        for name, array in loaded.predict(signature, inputs).items()
    }
    if not rows:
        return {"outputs": outputs if len(outputs) > 1 else outputs.popitem()[1]}
    columns = zip(*outputs.values(), strict=True)
    return {"predictions": [dict(zip(outputs, r, strict=True)) for r in columns]}


def _to_dict(message: Any) -> Any:
    return json_format.MessageToDict(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )


def _array(values: Any, spec: tf.TensorSpec) -> npt.NDArray[Any]:
    if spec.dtype == tf.string:
        encoded = [base64.b64decode(v["b64"], validate=True) for v in values]
        return np.array(encoded, object)
    return np.asarray(values, spec.dtype.as_numpy_dtype)


@contextlib.contextmanager
def serving(
    model: str, path: Path, *, grpc_port: int = 0, rest_port: int = 0
) -> Iterator[tuple[str, str]]:
    """Serves a folder of versions, and gives its addresses for gRPC and for REST."""
    served = Served(model, path)
    served.look()
    ending = threading.Event()

    def poll() -> None:
        while not ending.wait(0.2):
            served.look()

    answer = functools.partial(_answer, served)
    with ThreadPoolExecutor(16) as pool, listening(answer, rest_port) as rest_address:
        server = grpc.server(pool, options=_OPTIONS)
        for add in (
            prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server,
            model_service_pb2_grpc.add_ModelServiceServicer_to_server,
        ):
            add(_Grpc(served), server)
        grpc_port = server.add_insecure_port(f"127.0.0.1:{grpc_port}")
        server.start()
        threading.Thread(target=poll, daemon=True).start()
        try:
            yield f"grpc://127.0.0.1:{grpc_port}", rest_address
        finally:
            ending.set()
            server.stop(0)


def main(model: str, path: str, grpc_port: str, rest_port: str) -> None:
    """Serves until it is killed."""
    with serving(model, Path(path), grpc_port=int(grpc_port), rest_port=int(rest_port)):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
