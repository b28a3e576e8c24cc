"""The REST interface of the TensorFlow Serving API."""

import base64
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import numpy as np
import urllib3

from keras_traps.serving.client.protocol import (
    Array,
    DeadlineExceededError,
    Metadata,
    Outputs,
    ResponseError,
    ServingError,
    Signature,
    TensorSpec,
    UnavailableError,
    VersionStatus,
    error_of,
)

_CODES: dict[int, str] = {
    HTTPStatus.BAD_REQUEST: "INVALID_ARGUMENT",
    HTTPStatus.UNAUTHORIZED: "UNAUTHENTICATED",
    HTTPStatus.FORBIDDEN: "PERMISSION_DENIED",
    HTTPStatus.NOT_FOUND: "NOT_FOUND",
    HTTPStatus.CONFLICT: "ABORTED",
    HTTPStatus.PRECONDITION_FAILED: "FAILED_PRECONDITION",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "RESOURCE_EXHAUSTED",
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: "OUT_OF_RANGE",
    HTTPStatus.TOO_MANY_REQUESTS: "RESOURCE_EXHAUSTED",
    HTTPStatus.INTERNAL_SERVER_ERROR: "INTERNAL",
    HTTPStatus.NOT_IMPLEMENTED: "UNIMPLEMENTED",
    # What stands before the server answers so while the server is away.
    HTTPStatus.BAD_GATEWAY: "UNAVAILABLE",
    HTTPStatus.SERVICE_UNAVAILABLE: "UNAVAILABLE",
    HTTPStatus.GATEWAY_TIMEOUT: "DEADLINE_EXCEEDED",
}

# How many are kept open.
_CONNECTIONS = 16

_NUMBER_KINDS = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}

# What reading an answer of another form raises.
_OTHER_FORM = (AttributeError, KeyError, TypeError, ValueError)


class RestTransport:
    """Talks JSON over connections that are kept open; threads may share it.

    Arrays go in the columnar format (`inputs`), binary values as base64. A NaN is
    written as `NaN`, as TensorFlow Serving reads it; JSON itself has none. The timeout
    bounds connecting and each wait for a part of the answer, as urllib3 has it.

    Args:
        url: `http://host:port` or `https://host:port`.
        model: The model's name on the server.
    """

    def __init__(self, url: str, model: str) -> None:
        self._url = url
        self._model = quote(model, safe="")
        # Requests are made again by the client, over either way to a server.
        self._pool = urllib3.connection_from_url(
            url, maxsize=_CONNECTIONS, retries=False
        )

    def predict(
        self,
        version: int | None,
        name: str,
        signature: Signature,
        inputs: Mapping[str, Array],
        timeout: float,
    ) -> tuple[Outputs, int | None]:
        """Runs a signature; which version it was is not told."""
        body = {
            "signature_name": name,
            "inputs": {key: _to_json(value) for key, value in inputs.items()},
        }
        path = f"{self._path(version)}:predict"
        answer = self._request("POST", path, timeout, json.dumps(body).encode())
        if "outputs" not in answer:
            raise ResponseError(
                f"expected 'outputs' in the answer, found {sorted(answer)}"
            )
        outputs = answer["outputs"]
        if len(signature.outputs) == 1:
            # One output comes without its name.
            outputs = dict.fromkeys(signature.outputs, outputs)
        if not isinstance(outputs, dict):
            raise ResponseError("expected outputs by their names in the answer")
        return {
            key: _from_json(key, value, signature.outputs.get(key))
            for key, value in outputs.items()
        }, None

    def metadata(self, version: int | None, timeout: float) -> Metadata:
        """Asks for a version's signatures."""
        answer = self._request("GET", f"{self._path(version)}/metadata", timeout)
        try:
            signatures = answer["metadata"]["signature_def"]["signature_def"]
            return Metadata(
                int(answer["model_spec"]["version"]),
                {
                    name: Signature(_specs(value["inputs"]), _specs(value["outputs"]))
                    for name, value in signatures.items()
                    if not name.startswith("__")
                },
            )
        except _OTHER_FORM as error:
            raise ResponseError(f"the metadata cannot be read ({error!r})") from error

    def status(self, version: int | None, timeout: float) -> list[VersionStatus]:
        """Asks for the state of a model's versions."""
        answer = self._request("GET", self._path(version), timeout)
        try:
            return [
                VersionStatus(
                    int(entry["version"]),
                    entry["state"],
                    entry.get("status", {}).get("error_message", ""),
                )
                for entry in answer["model_version_status"]
            ]
        except _OTHER_FORM as error:
            raise ResponseError(f"the status cannot be read ({error!r})") from error

    def close(self) -> None:
        """Closes all connections."""
        self._pool.close()

    def _path(self, version: int | None) -> str:
        of_version = "" if version is None else f"/versions/{version}"
        return f"/v1/models/{self._model}{of_version}"

    def _request(
        self, method: str, path: str, timeout: float, body: bytes | None = None
    ) -> dict[str, Any]:
        try:
            response = self._pool.request(
                method,
                path,
                body=body,
                headers={"Content-Type": "application/json"} if body else None,
                timeout=urllib3.Timeout(total=timeout),
                redirect=False,
            )
        except urllib3.exceptions.NewConnectionError as error:
            raise UnavailableError(f"no connection to {self._url}: {error}") from error
        except urllib3.exceptions.TimeoutError as error:
            raise DeadlineExceededError(
                f"no answer from {self._url} within {timeout:.3g} s"
            ) from error
        except urllib3.exceptions.ProtocolError as error:
            raise UnavailableError(
                f"the connection to {self._url} broke: {error}"
            ) from error
        except urllib3.exceptions.HTTPError as error:
            raise ServingError(f"{self._url}: {error}") from error
        return self._read(response)

    def _read(self, response: urllib3.BaseHTTPResponse) -> dict[str, Any]:
        try:
            answer = json.loads(response.data)
        except ValueError:
            answer = None
        if response.status == HTTPStatus.OK and isinstance(answer, dict):
            return answer
        message = answer.get("error") if isinstance(answer, dict) else None
        code = _CODES.get(response.status, "UNKNOWN")
        if message is None and code == "UNAVAILABLE":
            message = f"HTTP status {response.status}"
        if message is None:
            raise ResponseError(
                f"expected the REST API of TensorFlow Serving at {self._url}, received "
                f"HTTP status {response.status} and {response.data[:80]!r}"
            )
        raise error_of(code, str(message))


def _specs(tensors: dict[str, Any]) -> dict[str, TensorSpec]:
    specs = {}
    for name, value in tensors.items():
        shape = value["tensor_shape"]
        sizes = [int(dim["size"]) for dim in shape.get("dim", [])]
        unknown = shape.get("unknown_rank")
        specs[name] = TensorSpec.of(value["dtype"], None if unknown else sizes)
    return specs


def _to_json(array: Array) -> Any:
    if array.dtype != object:
        return array.tolist()
    encoded = np.empty(array.shape, object)
    for index, value in np.ndenumerate(array):
        encoded[index] = {"b64": base64.b64encode(value).decode("ascii")}
    return encoded.tolist()


def _from_json(name: str, values: Any, spec: TensorSpec | None) -> Array:
    if spec is None:
        # A new version may have other outputs: the caller sees their names and asks.
        return np.empty(0)
    try:
        if spec.dtype == "string":
            return _strings(values)
        array = np.asarray(values)
        dtype = spec.numpy_dtype
        if array.size and array.dtype.kind not in _NUMBER_KINDS[dtype.kind]:
            raise ValueError(f"received {array.dtype}")
        # A number beyond float32 becomes infinite without a warning.
        with np.errstate(over="ignore"):
            return array.astype(dtype)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ResponseError(
            f"expected {spec} in output {name!r} of the answer ({error})"
        ) from error


def _strings(values: Any) -> Array:
    array = np.array(values, object)
    for index, value in np.ndenumerate(array):
        if isinstance(value, dict):
            array[index] = base64.b64decode(value["b64"], validate=True)
        elif isinstance(value, str):
            array[index] = value.encode()
        else:
            raise TypeError(f"received {value!r}")
    return array
