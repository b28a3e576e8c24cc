"""The REST interface of the TensorFlow Serving API."""

import base64
import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import numpy as np
import urllib3

from keras_traps.serving.client.bounded import bounded_pool
from keras_traps.serving.client.errors import (
    DeadlineExceededError,
    ResponseError,
    ServingError,
    UnavailableError,
    error_of,
)
from keras_traps.serving.client.signatures import (
    Array,
    Metadata,
    Signature,
    Target,
    TensorSpec,
    VersionStatus,
    dtype_of,
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

_NUMBER_KINDS = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}


class RestTransport:
    """Talks JSON over connections that are kept open; threads may share it.

    Arrays go in the columnar format (`inputs`), binary values as base64. A NaN is
    written as `NaN`, as TensorFlow Serving reads it; JSON itself has none.

    Args:
        url: `http://host:port` or `https://host:port`.
        connections: How many connections are kept open. Defaults to `16`.
    """

    def __init__(self, url: str, *, connections: int = 16) -> None:
        self._url = url
        self._pool = bounded_pool(url, connections)

    def predict(
        self,
        target: Target,
        name: str,
        signature: Signature,
        inputs: Mapping[str, Array],
        timeout: float,
    ) -> tuple[dict[str, Array], int | None]:
        """Runs a signature; see `Transport`. The version is not known."""
        body = {
            "signature_name": name,
            "inputs": {key: _to_json(value) for key, value in inputs.items()},
        }
        path = f"{_path(target)}:predict"
        answer = self._request("POST", path, timeout, json.dumps(body).encode())
        outputs = _member(answer, "outputs")
        if len(signature.outputs) == 1:
            # One output comes without its name.
            outputs = dict.fromkeys(signature.outputs, outputs)
        if not isinstance(outputs, dict):
            raise ResponseError("expected outputs by their names in the answer")
        return {
            key: _from_json(key, value, signature.outputs.get(key))
            for key, value in outputs.items()
        }, None

    def metadata(self, target: Target, timeout: float) -> Metadata:
        """Asks for a version's signatures; see `Transport`."""
        answer = self._request("GET", f"{_path(target)}/metadata", timeout)
        try:
            signatures = answer["metadata"]["signature_def"]["signature_def"]
            return Metadata(
                int(answer["model_spec"]["version"]),
                {
                    name: Signature(_specs(value, "inputs"), _specs(value, "outputs"))
                    for name, value in signatures.items()
                    if not name.startswith("__")
                },
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ResponseError(f"the metadata cannot be read ({error!r})") from error

    def status(self, target: Target, timeout: float) -> list[VersionStatus]:
        """Asks for the state of a model's versions; see `Transport`."""
        answer = self._request("GET", _path(target), timeout)
        try:
            return [
                VersionStatus(
                    int(entry["version"]),
                    entry["state"],
                    entry.get("status", {}).get("error_message", ""),
                )
                for entry in answer["model_version_status"]
            ]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ResponseError(f"the status cannot be read ({error!r})") from error

    def close(self) -> None:
        """Closes all connections."""
        self._pool.close()

    def _request(
        self, method: str, path: str, timeout: float, body: bytes | None = None
    ) -> Any:
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

    def _read(self, response: urllib3.BaseHTTPResponse) -> Any:
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


def _path(target: Target) -> str:
    version = "" if target.version is None else f"/versions/{target.version}"
    return f"/v1/models/{quote(target.model, safe='')}{version}"


def _member(answer: dict[str, Any], name: str) -> Any:
    if name not in answer:
        raise ResponseError(f"expected {name!r} in the answer, found {sorted(answer)}")
    return answer[name]


def _specs(signature: dict[str, Any], which: str) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(dtype_of(value["dtype"]), _shape(value["tensor_shape"]))
        for name, value in signature[which].items()
    }


def _shape(shape: dict[str, Any]) -> tuple[int | None, ...] | None:
    if shape.get("unknown_rank"):
        return None
    sizes = [int(dim["size"]) for dim in shape.get("dim", [])]
    return tuple(None if size < 0 else size for size in sizes)


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
        if dtype.kind == "f" and array.dtype.kind == "f":
            # A number beyond float32 becomes infinite without a warning.
            with np.errstate(over="ignore"):
                return array.astype(dtype)
        return array.astype(dtype)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ResponseError(
            f"expected {spec} in output {name!r} of the answer ({error})"
        ) from error


def _strings(values: Any) -> Array:
    shape = np.shape(_lengths(values))
    flat = np.empty(math.prod(shape), object)
    for index, value in enumerate(_leaves(values)):
        if isinstance(value, dict):
            flat[index] = base64.b64decode(value["b64"], validate=True)
        elif isinstance(value, str):
            flat[index] = value.encode()
        else:
            raise TypeError(f"received {value!r}")
    return flat.reshape(shape)


def _lengths(values: Any) -> Any:
    # The same nesting without the strings, which NumPy would look into.
    return [_lengths(v) for v in values] if isinstance(values, list) else 0


def _leaves(values: Any) -> list[Any]:
    if not isinstance(values, list):
        return [values]
    return [leaf for value in values for leaf in _leaves(value)]
