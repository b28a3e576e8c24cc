"""The gRPC interface of the TensorFlow Serving API, on its official stubs."""

from collections.abc import Callable, Mapping
from typing import Any

import grpc
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from keras_traps.serving.client.protocol import (
    Array,
    Metadata,
    Outputs,
    ResponseError,
    Signature,
    TensorSpec,
    VersionStatus,
    error_of,
)

_OPTIONS = [
    # A batch of images is soon above the default of 4 MB.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Retries are the client's own; a channel that has lost its server should not
    # sleep longer than they do.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Each client has a connection of its own.
    ("grpc.use_local_subchannel_pool", 1),
]


class GrpcTransport:
    """Talks to the PredictionService and the ModelService; threads may share it.

    Args:
        address: `host:port`.
        model: The model's name on the server.
        secure: Whether to use TLS, with the system's certificates.
    """

    def __init__(self, address: str, model: str, *, secure: bool) -> None:
        self._model = model
        self._channel = (
            grpc.secure_channel(address, grpc.ssl_channel_credentials(), _OPTIONS)
            if secure
            else grpc.insecure_channel(address, _OPTIONS)
        )
        self._address = address
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(
            self._channel
        )
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def predict(
        self,
        version: int | None,
        name: str,
        signature: Signature,
        inputs: Mapping[str, Array],
        timeout: float,
    ) -> tuple[Outputs, int | None]:
        """Runs a signature; returns its outputs and the version that gave them."""
        del signature  # Tensors carry their types.
        request = predict_pb2.PredictRequest()
        self._fill(request.model_spec, version)
        request.model_spec.signature_name = name
        for key, value in inputs.items():
            request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
        response = self._call(self._prediction.Predict, request, timeout)
        try:
            outputs = {
                key: tf.make_ndarray(value) for key, value in response.outputs.items()
            }
        except (TypeError, ValueError) as error:
            raise ResponseError(f"the outputs cannot be read ({error})") from error
        spec = response.model_spec
        return outputs, spec.version.value if spec.HasField("version") else None

    def metadata(self, version: int | None, timeout: float) -> Metadata:
        """Asks for a version's signatures."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            metadata_field=["signature_def"]
        )
        self._fill(request.model_spec, version)
        response = self._call(self._prediction.GetModelMetadata, request, timeout)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        try:
            if not response.metadata["signature_def"].Unpack(signatures):
                raise ValueError("no signatures")
            return Metadata(
                response.model_spec.version.value,
                {
                    name: Signature(_specs(value.inputs), _specs(value.outputs))
                    for name, value in signatures.signature_def.items()
                    if not name.startswith("__")
                },
            )
        except (DecodeError, ValueError) as error:
            raise ResponseError(f"the metadata cannot be read ({error!r})") from error

    def status(self, version: int | None, timeout: float) -> list[VersionStatus]:
        """Asks for the state of a model's versions."""
        request = get_model_status_pb2.GetModelStatusRequest()
        self._fill(request.model_spec, version)
        response = self._call(self._models.GetModelStatus, request, timeout)
        states = get_model_status_pb2.ModelVersionStatus.State
        return [
            VersionStatus(
                entry.version, states.Name(entry.state), entry.status.error_message
            )
            for entry in response.model_version_status
        ]

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def _fill(self, spec: Any, version: int | None) -> None:
        spec.name = self._model
        if version is not None:
            spec.version.value = version

    def _call(self, method: Callable[..., Any], request: Any, timeout: float) -> Any:
        try:
            return method(request, timeout=timeout)
        except grpc.RpcError as error:
            code, details = error.code().name, error.details() or "no details"
            if code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
                details = f"{self._address}: {details}"
            raise error_of(code, details) from error


def _specs(tensors: Mapping[str, Any]) -> dict[str, TensorSpec]:
    specs = {}
    for name, value in tensors.items():
        shape = value.tensor_shape
        sizes = None if shape.unknown_rank else [dim.size for dim in shape.dim]
        specs[name] = TensorSpec.of(types_pb2.DataType.Name(value.dtype), sizes)
    return specs
