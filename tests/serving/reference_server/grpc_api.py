"""The PredictionService and the ModelService."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

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

from tests.serving.reference_server.models import Folder, StatusError

# As TensorFlow Serving has it: no limit on messages.
_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.so_reuseport", 0),
]


class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata of one model."""

    def __init__(self, name: str, folder: Folder) -> None:
        self._name = name
        self._folder = folder

    def Predict(  # noqa: N802, the API's name
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        try:
            check_name(request.model_spec, self._name)
            loaded = self._folder.get(version_of(request.model_spec))
            signature = request.model_spec.signature_name
            inputs = {key: _array(key, value) for key, value in request.inputs.items()}
            outputs = loaded.predict(signature, inputs)
        except StatusError as error:
            abort(context, error)
        response = predict_pb2.PredictResponse()
        response.model_spec.name = self._name
        response.model_spec.version.value = loaded.version
        response.model_spec.signature_name = signature or "serving_default"
        for key, value in outputs.items():
            if not request.output_filter or key in request.output_filter:
                response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
        return response

    def GetModelMetadata(  # noqa: N802
        self,
        request: get_model_metadata_pb2.GetModelMetadataRequest,
        context: grpc.ServicerContext,
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        try:
            check_name(request.model_spec, self._name)
            return metadata(self._name, self._folder, version_of(request.model_spec))
        except StatusError as error:
            abort(context, error)


class Models(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus of one model."""

    def __init__(self, name: str, folder: Folder) -> None:
        self._name = name
        self._folder = folder

    def GetModelStatus(  # noqa: N802
        self,
        request: get_model_status_pb2.GetModelStatusRequest,
        context: grpc.ServicerContext,
    ) -> get_model_status_pb2.GetModelStatusResponse:
        try:
            check_name(request.model_spec, self._name)
            return status(self._folder, version_of(request.model_spec))
        except StatusError as error:
            abort(context, error)


def start(name: str, folder: Folder, port: int) -> grpc.Server:
    """Starts the server on a port of this machine."""
    server = grpc.server(ThreadPoolExecutor(16), options=_OPTIONS)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        Prediction(name, folder), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(
        Models(name, folder), server
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server


def metadata(
    name: str, folder: Folder, version: int | None
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Returns the signatures of a version."""
    loaded = folder.get(version)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for key, value in loaded.signature_defs.items():
        signatures.signature_def[key].CopyFrom(value)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = name
    response.model_spec.version.value = loaded.version
    response.metadata["signature_def"].Pack(signatures)
    return response


def status(
    folder: Folder, version: int | None
) -> get_model_status_pb2.GetModelStatusResponse:
    """Returns where the versions stand."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for number, state in folder.states(version).items():
        entry = response.model_version_status.add()
        entry.version = number
        entry.state = get_model_status_pb2.ModelVersionStatus.State.Value(state.state)
        entry.status.error_code = 2 if state.error else 0
        entry.status.error_message = state.error
    return response


def check_name(spec: model_pb2.ModelSpec, name: str) -> None:
    """Refuses a request for another model."""
    if spec.name != name:
        raise StatusError(
            "NOT_FOUND", f"Servable not found for request: Latest({spec.name})"
        )


def version_of(spec: model_pb2.ModelSpec) -> int | None:
    """Returns the version that a request names."""
    return spec.version.value if spec.HasField("version") else None


def abort(context: grpc.ServicerContext, error: StatusError) -> NoReturn:
    """Answers with a status."""
    context.abort(grpc.StatusCode[error.code], error.message)
    raise AssertionError("abort raises")


def _array(name: str, value: Any) -> Any:
    try:
        return tf.make_ndarray(value)
    except (TypeError, ValueError) as error:
        raise StatusError("INVALID_ARGUMENT", f"input {name!r}: {error}") from error
