"""The reference server answers clients that are not ours: curl and the bare stubs."""

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf

from tests.serving.server_process import ServerProcess
from tests.serving.tiny_model import SHAPE, Offline, assert_same, images

predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
metadata_pb2 = pytest.importorskip("tensorflow_serving.apis.get_model_metadata_pb2")
status_pb2 = pytest.importorskip("tensorflow_serving.apis.get_model_status_pb2")
prediction_grpc = pytest.importorskip(
    "tensorflow_serving.apis.prediction_service_pb2_grpc"
)
models_grpc = pytest.importorskip("tensorflow_serving.apis.model_service_pb2_grpc")


def curl(url: str, body: bytes | None = None) -> tuple[int, Any]:
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    command = ["curl", "--silent", "--write-out", "\n%{http_code}", url]
    if body is not None:
        command += ["--data-binary", "@-"]
    done = subprocess.run(command, input=body, capture_output=True, check=True)
    answer, _, code = done.stdout.decode().rpartition("\n")
    return int(code), json.loads(answer)


@pytest.fixture(scope="module")
def url(server: ServerProcess) -> str:
    return f"{server.rest_address}/v1/models/tiny"


@pytest.fixture
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options) as channel:
        yield channel


def request(value: Any, signature: str = "", version: int | None = None) -> Any:
    message = predict_pb2.PredictRequest()
    message.model_spec.name = "tiny"
    message.model_spec.signature_name = signature
    if version is not None:
        message.model_spec.version.value = version
    message.inputs["image"].CopyFrom(tf.make_tensor_proto(value))
    return message


@pytest.mark.parametrize("path", ["", "/versions/3"])
def test_curl_gets_a_row_per_image(url: str, offline: Offline, path: str) -> None:
    batch = images(2)
    body = json.dumps({"instances": batch.tolist()}).encode()
    code, answer = curl(f"{url}{path}:predict", body)
    assert code == 200
    expected = offline("serving_default", batch)
    for row, prediction in enumerate(answer["predictions"]):
        assert prediction["label"] == expected["label"][row]
        assert prediction["class_id"] == expected["class_id"][row]
        assert prediction["probabilities"] == expected["probabilities"][row].tolist()


def test_curl_may_name_the_input_in_each_row(url: str, offline: Offline) -> None:
    rows = [{"image": image.tolist()} for image in images(2)]
    body = {"instances": rows, "signature_name": "score_only"}
    code, answer = curl(f"{url}:predict", json.dumps(body).encode())
    expected = offline("score_only", images(2))["score"].tolist()
    assert (code, answer) == (200, {"predictions": expected})


def test_curl_sends_a_png_in_base64(url: str, offline: Offline) -> None:
    encoded = tf.io.encode_png(np.full(SHAPE, 7, np.uint8)).numpy()
    text = base64.b64encode(encoded).decode()
    body = {"instances": [{"b64": text}], "signature_name": "image_bytes"}
    code, answer = curl(f"{url}:predict", json.dumps(body).encode())
    expected = offline("image_bytes", [encoded])
    assert code == 200
    assert answer["predictions"][0]["label"] == expected["label"][0]


def test_curl_gets_the_status_and_the_metadata(url: str) -> None:
    code, answer = curl(url)
    assert code == 200
    assert answer["model_version_status"][0]["version"] == "3"
    assert answer["model_version_status"][0]["state"] == "AVAILABLE"
    code, answer = curl(f"{url}/versions/3/metadata")
    assert code == 200
    analyze = answer["metadata"]["signature_def"]["signature_def"]["analyze"]
    assert analyze["inputs"]["image"]["dtype"] == "DT_FLOAT"
    sizes = [dim["size"] for dim in analyze["inputs"]["image"]["tensor_shape"]["dim"]]
    assert sizes == ["-1", "8", "8", "1"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "JSON Parse error"),
        (b"[]", "'instances' or 'inputs'"),
        (b"{}", "'instances' or 'inputs'"),
        (b'{"instances": []}', "no values in 'instances' list"),
        (b'{"instances": [[1, 2], [3]]}', "(None, 8, 8, 1)"),
        (b'{"instances": [0.5]}', "(None, 8, 8, 1)"),
        (b'{"instances": ["text"]}', "expected float32 of shape (None, 8, 8, 1)"),
        (b'{"instances": [[[[true]]]]}', "expected float32 of shape (None, 8, 8, 1)"),
        (b'{"inputs": {"image": []}}', "(None, 8, 8, 1)"),
        (b'{"signature_name": "x", "inputs": []}', "'x' not found in signature def"),
        (b'{"instances": [0.5]}' + b" " * 2**26, "(None, 8, 8, 1)"),
    ],
    ids=lambda value: str(value[:40]),
)
def test_curl_is_told_what_is_wrong(url: str, body: bytes, reason: str) -> None:
    code, answer = curl(f"{url}:predict", body)
    assert code == 400
    assert reason in answer["error"]


@pytest.mark.parametrize("path", ["/versions/9", "/versions/9/metadata"])
def test_curl_does_not_find_another_version(url: str, path: str) -> None:
    assert curl(f"{url}{path}")[0] == 404


def test_a_bare_stub_gets_the_answer_and_its_version(
    channel: grpc.Channel, offline: Offline
) -> None:
    stub = prediction_grpc.PredictionServiceStub(channel)
    response = stub.Predict(request(images(2), "analyze"), timeout=60)
    assert response.model_spec.version.value == 3
    outputs = {key: tf.make_ndarray(value) for key, value in response.outputs.items()}
    expected = offline("analyze", images(2))
    for name in ("label", "recovered_label"):
        decoded = [label.decode() for label in outputs.pop(name)]
        assert decoded == expected.pop(name).tolist()
    assert_same(outputs, expected)


def test_a_bare_stub_may_ask_for_some_outputs(channel: grpc.Channel) -> None:
    stub = prediction_grpc.PredictionServiceStub(channel)
    message = request(images(1), "analyze")
    message.output_filter.append("score")
    assert set(stub.Predict(message, timeout=60).outputs) == {"score"}


def test_a_bare_stub_gets_an_empty_answer_to_an_empty_batch(
    channel: grpc.Channel,
) -> None:
    stub = prediction_grpc.PredictionServiceStub(channel)
    response = stub.Predict(request(images(0)), timeout=60)
    outputs = {key: tf.make_ndarray(value) for key, value in response.outputs.items()}
    assert outputs["probabilities"].shape == (0, 10)
    assert outputs["label"].shape == (0,)


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((1, 8, 8), np.float32),
        np.zeros((1, 8, 8, 1), np.float64),
        np.zeros((1, 8, 8, 1), np.uint8),
        np.zeros((2**24,), np.float32),
        [b"text"],
    ],
    ids=["rank", "float64", "uint8", "64 MB", "string"],
)
def test_a_bare_stub_is_told_the_expected_shape(
    channel: grpc.Channel, value: Any
) -> None:
    stub = prediction_grpc.PredictionServiceStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request(value), timeout=120)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "expected float32 of shape (None, 8, 8, 1)" in caught.value.details()


def test_a_tensor_whose_content_is_too_short_is_refused(channel: grpc.Channel) -> None:
    stub = prediction_grpc.PredictionServiceStub(channel)
    message = request(images(1))
    message.inputs["image"].tensor_content = b"1234567"
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(message, timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_bare_stub_does_not_find_another_version(channel: grpc.Channel) -> None:
    stub = prediction_grpc.PredictionServiceStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request(images(1), version=9), timeout=60)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_the_model_service_tells_the_state(channel: grpc.Channel) -> None:
    message = status_pb2.GetModelStatusRequest()
    message.model_spec.name = "tiny"
    stub = models_grpc.ModelServiceStub(channel)
    (status,) = stub.GetModelStatus(message, timeout=60).model_version_status
    assert status.version == 3
    assert status.state == status_pb2.ModelVersionStatus.AVAILABLE
