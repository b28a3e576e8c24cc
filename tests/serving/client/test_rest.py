"""What answers at an address may be anything."""

import copy
import json
import socket
from typing import Any

import numpy as np
import pytest

from keras_traps.serving import Client
from keras_traps.serving.client import (
    DeadlineExceededError,
    NotFoundError,
    ResponseError,
    ServingError,
    UnavailableError,
)
from tests.serving.conftest import METADATA, Serve, answering
from tests.serving.http_server import Reply

SCHEMES = pytest.mark.parametrize("scheme", ["http", "grpc"])


def ask(address: str, **settings: Any) -> Any:
    with Client(address, "m", **settings) as client:
        return client.predict(np.zeros(2, np.float32))


@pytest.mark.parametrize(
    "reply",
    [
        (200, b"<html>Welcome</html>"),
        (200, b"[1, 2]"),
        (302, b""),
        (404, b'{"detail": "no such page"}'),
    ],
)
def test_a_web_server_is_told_from_a_model_server(serve: Serve, reply: Reply) -> None:
    with pytest.raises(ResponseError, match="expected the REST API of TensorFlow"):
        ask(serve(lambda path: reply))


@pytest.mark.parametrize(
    "reply", [b"{}", b'{"metadata": {"signature_def": {"signature_def": 1}}}']
)
def test_metadata_of_another_form_is_refused(serve: Serve, reply: bytes) -> None:
    with Client(serve(lambda path: (200, reply)), "m") as client:
        with pytest.raises(ResponseError, match="metadata cannot be read"):
            client.signatures()
        with pytest.raises(ResponseError, match="status cannot be read"):
            client.status()


@pytest.mark.parametrize(
    "outputs",
    [
        [1.0, 2.0],
        {"a": ["x", "y"], "b": ["x", "y"]},
        {"a": [[1.0], [1.0, 2.0]], "b": ["x", "y"]},
        {"a": [1.0, None], "b": ["x", "y"]},
        {"a": [1.0, 2.0], "b": [1, 2]},
        {"a": [1.0, 2.0], "b": [{"b64": "*"}, "y"]},
        {"a": [1.0, 2.0], "b": [{"b65": ""}, "y"]},
    ],
)
def test_outputs_that_are_not_the_signatures_are_refused(
    serve: Serve, outputs: Any
) -> None:
    with pytest.raises(ResponseError, match=r"'outputs'|output '[ab]'"):
        ask(serve(answering(outputs)))


def test_outputs_of_other_names_are_refused(serve: Serve) -> None:
    with pytest.raises(ServingError, match="kept changing"):
        ask(serve(answering({"a": [1.0, 2.0], "c": ["x", "y"]})))


def test_a_single_output_comes_without_its_name(serve: Serve) -> None:
    metadata = copy.deepcopy(METADATA)
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    del signatures["serving_default"]["outputs"]["b"]
    address = serve(answering([1.0, 2.0], metadata))
    assert ask(address)["a"].tolist() == [1.0, 2.0]


def test_an_overloaded_server_is_asked_again_and_one_that_fails_is_not(
    serve: Serve,
) -> None:
    replies = [
        (500, b'{"error": "out of memory"}'),
        (503, b'{"error": "queue full"}'),
        (502, b"<html>bad gateway</html>"),
    ]
    # Integers may stand for floats in JSON.
    well = answering({"a": [1, 2.5], "b": ["x", "y"]})
    address = serve(lambda path: replies.pop() if replies else well(path))
    with pytest.raises(ServingError, match="INTERNAL: out of memory"):
        ask(address)
    assert replies == []
    # An address may end in a slash.
    answer = ask(f"{address}/")
    assert (answer["a"].tolist(), answer["a"].dtype) == ([1.0, 2.5], np.float32)


def test_an_error_of_a_model_that_could_not_be_loaded_is_shown(serve: Serve) -> None:
    state = {"error_code": "DATA_LOSS", "error_message": "Can't parse saved_model.pb"}
    status = {"version": "4", "state": "END", "status": state}

    def script(path: str) -> Reply:
        if path == "/v1/models/m":
            return 200, json.dumps({"model_version_status": [status]}).encode()
        return 404, b'{"error": "Servable not found for request: Latest(m)"}'

    with pytest.raises(NotFoundError, match=r"4 END \(Can't parse saved_model.pb\)"):
        ask(serve(script))


@SCHEMES
def test_nobody_at_the_address_is_unavailable(scheme: str) -> None:
    pytest.importorskip("tensorflow_serving.apis")
    with socket.socket() as unused:
        # Bound, but nobody listens.
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(UnavailableError, match=str(port)) as caught:
            ask(f"{scheme}://127.0.0.1:{port}", retries=1)
    assert caught.value.attempts == 2
    assert isinstance(caught.value, ConnectionError)


@SCHEMES
def test_a_server_that_never_answers_meets_the_deadline(scheme: str) -> None:
    pytest.importorskip("tensorflow_serving.apis")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises((DeadlineExceededError, UnavailableError)):
            ask(f"{scheme}://127.0.0.1:{port}", timeout=0.3)
