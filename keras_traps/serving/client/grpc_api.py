"""The gRPC interface of the TensorFlow Serving API, on its official stubs."""

from collections.abc import Callable, Mapping
from typing import Any

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from keras_traps.serving.client import protocol

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
    """Talks to both services, `secure` with the system's certificates."""

    def __init__(self, address: str, model: str, *, secure: bool) -> None:
        self._address, self._model = address, model
        if secure:
            certificates = grpc.ssl_channel_credentials()
            channel = grpc.secure_channel(address, certificates, _OPTIONS)
        else:
            channel = grpc.insecure_channel(address, _OPTIONS)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(channel)
        self._channel = channel

    def predict(
        self,
        version: int | None,
        name: str,
        signature: protocol.Signature,
        inputs: Mapping[str, protocol.Array],
        timeout: float,
    ) -> tuple[protocol.Outputs, int | None]:
        """Runs a signature; returns its outputs and the version that gave them."""
        del signature  # Tensors carry their types.
        spec = self._spec(version, signature_name=name)
        request = predict_pb2.PredictRequest(model_spec=spec)
        for key, value in inputs.items():
            request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
        response = self._call(self._prediction.Predict, request, timeout)
        with protocol.reading("the outputs"):
            outputs = {k: tf.make_ndarray(v) for k, v in response.outputs.items()}
        spec = response.model_spec
        return outputs, spec.version.value if spec.HasField("version") else None

    def metadata(self, version: int | None, timeout: float) -> protocol.Metadata:
        """Asks for a version's signatures."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=self._spec(version), metadata_field=["signature_def"]
        )
        response = self._call(self._prediction.GetModelMetadata, request, timeout)
        found = get_model_metadata_pb2.SignatureDefMap()
        with protocol.reading("the metadata"):
            if not response.metadata["signature_def"].Unpack(found):
                raise ValueError("no signatures")
            signatures = protocol.read_signatures(found.signature_def)
        return protocol.Metadata(response.model_spec.version.value, signatures)

    def status(
        self, version: int | None, timeout: float
    ) -> list[protocol.VersionStatus]:
        """Asks for the state of a model's versions."""
        spec = self._spec(version)
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
        response = self._call(self._models.GetModelStatus, request, timeout)
        states = get_model_status_pb2.ModelVersionStatus.State
        return [
            protocol.VersionStatus(
                entry.version, states.Name(entry.state), entry.status.error_message
            )
            for entry in response.model_version_status
        ]

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def _spec(self, version: int | None, **more: str) -> model_pb2.ModelSpec:
        number = None if version is None else {"value": version}
        return model_pb2.ModelSpec(name=self._model, version=number, **more)

    def _call(self, method: Callable[..., Any], request: Any, timeout: float) -> Any:
        try:
            return method(request, timeout=timeout)
        except grpc.RpcError as error:
            code, details = error.code().name, error.details() or "no details"
            if code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
                details = f"{self._address}: {details}"
            raise protocol.error_of(code, details) from error
