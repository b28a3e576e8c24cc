"""The REST interface of the TensorFlow Serving API."""

import base64
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import numpy as np
import urllib3
from google.protobuf import json_format
from tensorflow.core.protobuf import meta_graph_pb2
from urllib3 import exceptions

from keras_traps.serving.client import protocol

_CODES: dict[int, str] = {
    HTTPStatus.BAD_REQUEST: "INVALID_ARGUMENT",
    HTTPStatus.UNAUTHORIZED: "UNAUTHENTICATED",
    HTTPStatus.FORBIDDEN: "PERMISSION_DENIED",
    HTTPStatus.NOT_FOUND: "NOT_FOUND",
    HTTPStatus.CONFLICT: "ABORTED",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "RESOURCE_EXHAUSTED",
    HTTPStatus.TOO_MANY_REQUESTS: "RESOURCE_EXHAUSTED",
    HTTPStatus.INTERNAL_SERVER_ERROR: "INTERNAL",
    HTTPStatus.NOT_IMPLEMENTED: "UNIMPLEMENTED",
    # What stands before the server answers so while the server is away.
    HTTPStatus.BAD_GATEWAY: "UNAVAILABLE",
    HTTPStatus.SERVICE_UNAVAILABLE: "UNAVAILABLE",
    HTTPStatus.GATEWAY_TIMEOUT: "DEADLINE_EXCEEDED",
}

_KINDS = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}


class RestTransport:
    """Talks JSON in the columnar format over connections that are kept open."""

    def __init__(self, url: str, model: str) -> None:
        self._url = url
        self._model = quote(model, safe="")
        # Requests are made again by the client, over either way to a server.
        self._pool = urllib3.connection_from_url(url, maxsize=16, retries=False)

    def predict(
        self,
        version: int | None,
        name: str,
        signature: protocol.Signature,
        inputs: Mapping[str, protocol.Array],
        timeout: float,
    ) -> tuple[protocol.Outputs, int | None]:
        """Runs a signature; which version it was is not told."""
        columns = {key: value.tolist() for key, value in inputs.items()}
        body = {"signature_name": name, "inputs": columns}
        # A NaN is written as `NaN`, as TensorFlow Serving reads it; JSON has none.
        encoded = json.dumps(body, default=_to_base64).encode()
        path = f"{self._path(version)}:predict"
        answer = self._request("POST", path, timeout, encoded)
        outputs = answer.get("outputs")
        if len(signature.outputs) == 1:
            # One output comes without its name.
            outputs = dict.fromkeys(signature.outputs, outputs)
        if not isinstance(outputs, dict):
            raise protocol.ResponseError(
                "expected 'outputs' by their names in the answer"
            )
        # A new version may have other outputs: the caller sees their names and asks.
        return {
            key: _from_json(key, value, signature.outputs[key])
            if key in signature.outputs
            else np.empty(0)
            for key, value in outputs.items()
        }, None

    def metadata(self, version: int | None, timeout: float) -> protocol.Metadata:
        """Asks for a version's signatures."""
        answer = self._request("GET", f"{self._path(version)}/metadata", timeout)
        with protocol.reading("the metadata"):
            graph = json_format.ParseDict(
                answer["metadata"]["signature_def"],
                meta_graph_pb2.MetaGraphDef(),
                ignore_unknown_fields=True,
            )
            number = int(answer["model_spec"]["version"])
            signatures = protocol.read_signatures(graph.signature_def)
        return protocol.Metadata(number, signatures)

    def status(
        self, version: int | None, timeout: float
    ) -> list[protocol.VersionStatus]:
        """Asks for the state of a model's versions."""
        answer = self._request("GET", self._path(version), timeout)
        with protocol.reading("the status"):
            return [
                protocol.VersionStatus(
                    int(one["version"]),
                    one["state"],
                    one.get("status", {}).get("error_message", ""),
                )
                for one in answer["model_version_status"]
            ]

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
        except (exceptions.NewConnectionError, exceptions.ProtocolError) as error:
            raise protocol.UnavailableError(
                f"no answer from {self._url}: {error}"
            ) from error
        except exceptions.TimeoutError as error:
            raise protocol.DeadlineExceededError(
                f"no answer from {self._url} within {timeout:.3g} s"
            ) from error
        except exceptions.HTTPError as error:
            raise protocol.ServingError(f"{self._url}: {error}") from error
        try:
            answer = json.loads(response.data)
        except ValueError:
            answer = None
        if response.status == HTTPStatus.OK and isinstance(answer, dict):
            return answer
        code = _CODES.get(response.status, "UNKNOWN")
        if isinstance(answer, dict) and "error" in answer:
            raise protocol.error_of(code, str(answer["error"]))
        if code == "UNAVAILABLE":
            raise protocol.UnavailableError(f"HTTP status {response.status}")
        raise protocol.ResponseError(
            f"expected the REST API of TensorFlow Serving at {self._url}, received "
            f"HTTP status {response.status} and {response.data[:80]!r}"
        )


def _to_base64(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode("ascii")}


def _from_json(name: str, values: Any, spec: protocol.TensorSpec) -> protocol.Array:
    with protocol.reading(f"output {name!r}, {spec},"):
        if spec.dtype == "string":
            array = np.frompyfunc(_to_bytes, 1, 1)(np.array(values, object))
        else:
            array = np.asarray(values)
            if array.size and array.dtype.kind not in _KINDS[spec.numpy_dtype.kind]:
                raise ValueError(f"received {array.dtype}")
        # A number beyond float32 becomes infinite without a warning.
        with np.errstate(over="ignore"):
            array = np.asarray(array, spec.numpy_dtype)
    return array


def _to_bytes(value: Any) -> bytes:
    if isinstance(value, dict):
        return base64.b64decode(value["b64"], validate=True)
    return bytes(value.encode())
