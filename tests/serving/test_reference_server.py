"""The reference server answers clients that are not ours: curl and the bare stubs."""

import json
import shutil
import subprocess
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf

from tests.serving.tiny_model import Offline, assert_same, images

predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
prediction_grpc = pytest.importorskip(
    "tensorflow_serving.apis.prediction_service_pb2_grpc"
)


def curl(url: str, body: Any = None) -> tuple[int, Any]:
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    command = ["curl", "--silent", "--write-out", "\n%{http_code}", url]
    if body is not None:
        command += ["--data-binary", "@-"]
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
    done = subprocess.run(command, input=body, capture_output=True, check=True)
    answer, _, code = done.stdout.decode().rpartition("\n")
    return int(code), json.loads(answer)


@pytest.fixture(scope="module")
def url(addresses: tuple[str, str]) -> str:
    return f"{addresses[1]}/v1/models/tiny"


def test_curl_gets_a_row_per_image(url: str, offline: Offline) -> None:
    rows = images(2).tolist()
    body = {"instances": rows, "signature_name": "score_only"}
    expected = offline("score_only", images(2))["score"].tolist()
    assert curl(f"{url}:predict", body) == (200, {"predictions": expected})
    # The input may be named in each row, and the version in the path.
    named = {**body, "instances": [{"image": row} for row in rows]}
    answer = curl(f"{url}/versions/3:predict", named)
    assert answer == (200, {"predictions": expected})


def test_curl_gets_the_status_and_the_metadata(url: str) -> None:
    code, answer = curl(url)
    (state,) = answer["model_version_status"]
    assert (code, state["version"], state["state"]) == (200, "3", "AVAILABLE")
    code, answer = curl(f"{url}/versions/3/metadata")
    assert code == 200
    analyze = answer["metadata"]["signature_def"]["signature_def"]["analyze"]
    assert analyze["inputs"]["image"]["dtype"] == "DT_FLOAT"
    sizes = [dim["size"] for dim in analyze["inputs"]["image"]["tensor_shape"]["dim"]]
    assert sizes == ["-1", "8", "8", "1"]
    assert curl(f"{url}/versions/9/metadata")[0] == 404


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "JSON Parse error"),
        (b"[]", "'instances' or 'inputs'"),
        (b'{"instances": []}', "no values in 'instances' list"),
        (b'{"instances": [[1, 2], [3]]}', "(None, 8, 8, 1)"),
        (b'{"instances": ["text"]}', "expected float32 of shape (None, 8, 8, 1)"),
        (b'{"signature_name": "x", "inputs": []}', "'x' not found in signature def"),
    ],
)
def test_curl_is_told_what_is_wrong(url: str, body: bytes, reason: str) -> None:
    code, answer = curl(f"{url}:predict", body)
    assert code == 400
    assert reason in answer["error"]


def test_a_bare_stub_gets_the_answer_or_is_told_what_is_wrong(
    addresses: tuple[str, str], offline: Offline
) -> None:
    def request(count: int) -> Any:
        message = predict_pb2.PredictRequest()
        message.model_spec.name = "tiny"
        message.model_spec.signature_name = "analyze"
        message.inputs["image"].CopyFrom(tf.make_tensor_proto(images(count)))
        message.output_filter.append("score")
        return message

    with grpc.insecure_channel(addresses[0].removeprefix("grpc://")) as channel:
        stub = prediction_grpc.PredictionServiceStub(channel)
        for count in (2, 0):
            response = stub.Predict(request(count), timeout=60)
            assert response.model_spec.version.value == 3
            outputs = {key: tf.make_ndarray(v) for key, v in response.outputs.items()}
            assert_same(outputs, offline("score_only", images(count)))
        wrong, torn, old = (request(1) for _ in range(3))
        wrong.inputs["image"].CopyFrom(tf.make_tensor_proto(np.zeros((1, 8, 8))))
        torn.inputs["image"].tensor_content = b"1234567"
        old.model_spec.version.value = 2
        for message, code in (
            (wrong, grpc.StatusCode.INVALID_ARGUMENT),
            (torn, grpc.StatusCode.INVALID_ARGUMENT),
            (old, grpc.StatusCode.NOT_FOUND),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                stub.Predict(message, timeout=60)
            assert caught.value.code() is code
