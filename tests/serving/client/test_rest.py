"""What answers at an address may be anything, and in pieces."""

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
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
from tests.serving.foreign_server import Reply, Script, answering

BODY = json.dumps(
    {"model_version_status": [{"version": "1", "state": "AVAILABLE"}]}
).encode()
HEAD = b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n"

Pieces = list[bytes]


def ask(address: str, **settings: Any) -> Any:
    with Client(address, "m", **settings) as client:
        return client.predict(np.zeros(2, np.float32))


@pytest.mark.parametrize(
    "reply",
    [
        (200, b"<html>Welcome</html>"),
        (404, b"<html>Not found</html>"),
        (200, b"[1, 2]"),
        (302, b""),
        (404, b'{"detail": "no such page"}'),
    ],
)
def test_a_web_server_is_told_from_a_model_server(
    serve: Callable[[Script], str], reply: Reply
) -> None:
    with pytest.raises(ResponseError, match="expected the REST API of TensorFlow"):
        ask(serve(lambda path: reply))


@pytest.mark.parametrize("reply", [b"{}", b'{"metadata": []}', b'{"metadata": 1}'])
def test_metadata_of_another_form_is_refused(
    serve: Callable[[Script], str], reply: bytes
) -> None:
    with pytest.raises(ResponseError, match="metadata cannot be read"):
        ask(serve(lambda path: (200, reply)))
    with (
        Client(serve(lambda path: (200, reply)), "m") as client,
        pytest.raises(ResponseError, match="status cannot be read"),
    ):
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
    serve: Callable[[Script], str], outputs: Any
) -> None:
    with pytest.raises(ResponseError, match="expected"):
        ask(serve(answering(outputs)))


def test_outputs_of_other_names_are_refused(serve: Callable[[Script], str]) -> None:
    with pytest.raises(ServingError, match="kept changing"):
        ask(serve(answering({"a": [1.0, 2.0], "c": ["x", "y"]})))


def test_a_split_needs_a_row_per_example(serve: Callable[[Script], str]) -> None:
    address = serve(answering({"a": [1.0, 2.0], "b": ["x", "y"]}))
    assert ask(address)["b"].tolist() == ["x", "y"]
    with pytest.raises(ResponseError, match="one row per example in output 'a'"):
        ask(address, max_batch_size=1)


def test_integers_may_stand_for_floats_in_json(serve: Callable[[Script], str]) -> None:
    answer = ask(serve(answering({"a": [1, 2.5], "b": ["x", "y"]})))
    assert answer["a"].dtype == np.float32
    assert answer["a"].tolist() == [1.0, 2.5]


def test_an_overloaded_server_is_asked_again(serve: Callable[[Script], str]) -> None:
    replies = [(503, b'{"error": "queue full"}'), (502, b"<html>bad gateway</html>")]
    well = answering({"a": [1.0, 2.0], "b": ["x", "y"]})
    address = serve(lambda path: replies.pop() if replies else well(path))
    assert ask(address)["a"].tolist() == [1.0, 2.0]
    assert replies == []


def test_a_server_that_fails_is_not_asked_again(serve: Callable[[Script], str]) -> None:
    seen = []

    def script(path: str) -> Reply:
        seen.append(path)
        return 500, b'{"error": "out of memory"}'

    with pytest.raises(ServingError, match="INTERNAL: out of memory"):
        ask(serve(script))
    assert len(seen) == 1


def test_an_error_of_a_model_that_could_not_be_loaded_is_shown(
    serve: Callable[[Script], str],
) -> None:
    state = {"error_code": "DATA_LOSS", "error_message": "Can't parse saved_model.pb"}
    status = {"version": "4", "state": "END", "status": state}

    def script(path: str) -> Reply:
        if path == "/v1/models/m":
            return 200, json.dumps({"model_version_status": [status]}).encode()
        return 404, b'{"error": "Servable not found for request: Latest(m)"}'

    with pytest.raises(NotFoundError, match=r"4 END \(Can't parse saved_model.pb\)"):
        ask(serve(script))


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_nobody_at_the_address_is_unavailable(scheme: str) -> None:
    if scheme == "grpc":
        pytest.importorskip("tensorflow_serving.apis")
    with socket.socket() as unused:
        # Bound, but nobody listens.
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(UnavailableError, match=str(port)) as caught:
            ask(f"{scheme}://127.0.0.1:{port}", retries=1)
    assert caught.value.attempts == 2
    assert isinstance(caught.value, ConnectionError)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_that_never_answers_meets_the_deadline(scheme: str) -> None:
    if scheme == "grpc":
        pytest.importorskip("tensorflow_serving.apis")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises((DeadlineExceededError, UnavailableError)):
            ask(f"{scheme}://127.0.0.1:{port}", timeout=0.3)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_waiting_for_nobody_ends(scheme: str) -> None:
    if scheme == "grpc":
        pytest.importorskip("tensorflow_serving.apis")
    with (
        Client(f"{scheme}://127.0.0.1:9", "m") as client,
        pytest.raises(DeadlineExceededError, match=r"not available after 0\.3 s"),
    ):
        client.wait_until_available(timeout=0.3)


def test_a_web_server_at_a_grpc_address_is_told(serve: Callable[[Script], str]) -> None:
    pytest.importorskip("tensorflow_serving.apis")
    address = serve(lambda path: (200, b"")).replace("http", "grpc")
    with pytest.raises(ServingError):
        ask(address, retries=0, timeout=5)


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8501",
        "ftp://localhost",
        "http://",
        "",
        "/v1/models",
        "http://localhost:8501/serving/v2",
        "http://localhost:8501//",
        "http://localhost:8501?tenant=a",
        "http://localhost:8501/#a",
        "grpc://localhost:8500/serving",
    ],
)
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"`address`.*Expected 'http://host:port'"):
        Client(address, "m")


def test_an_address_may_end_in_a_slash(serve: Callable[[Script], str]) -> None:
    address = serve(answering({"a": [1.0, 2.0], "b": ["x", "y"]}))
    assert ask(f"{address}/")["a"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_batch_size", 0),
        ("timeout", 0.0),
        ("timeout", float("inf")),
        ("retries", -1),
        ("version", -1),
    ],
)
def test_a_setting_out_of_its_range_is_refused(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{setting}`"):
        Client("http://localhost:8501", "m", **{setting: value})


def test_a_model_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="`model`"):
        Client("http://localhost:8501", "")


@pytest.mark.parametrize("missing", ["grpc", "tensorflow_serving.apis"])
def test_grpc_that_is_not_installed_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.delitem(
        sys.modules, "keras_traps.serving.client.grpc_api", raising=False
    )
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match="pip install --no-deps tensorflow-serving"):
        Client("grpc://localhost:8500", "m")
    # REST needs none of it.
    Client("http://localhost:8501", "m").close()


class SlowServer:
    """Answers each request with the same pieces, a pause before each.

    Args:
        pieces: The answer.
        pause: In seconds.
    """

    def __init__(self, pieces: Pieces, pause: float) -> None:
        self.connections = 0
        self._pieces = pieces
        self._pause = pause
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(
                    target=self._answer, args=(connection,), daemon=True
                ).start()

    def _answer(self, connection: socket.socket) -> None:
        # The client may leave in the middle.
        with connection, contextlib.suppress(OSError):
            while connection.recv(65536):
                for piece in self._pieces:
                    time.sleep(self._pause)
                    connection.sendall(piece)
                if b"Connection: close" in self._pieces[0]:
                    return


@pytest.fixture
def slow() -> Iterator[Callable[[Pieces, float], SlowServer]]:
    servers = []

    def start(pieces: Pieces, pause: float) -> SlowServer:
        servers.append(SlowServer(pieces, pause))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def test_an_answer_in_pieces_is_whole_where_there_is_time(
    slow: Callable[[Pieces, float], SlowServer],
) -> None:
    pieces = [HEAD % (b"", len(BODY)), BODY[:9], BODY[9:]]
    with Client(slow(pieces, 0.01).address, "m") as client:
        assert [status.version for status in client.status()] == [1]


@pytest.mark.parametrize(
    ("header", "expected"), [(b"", 1), (b"Connection: close\r\n", 3)]
)
def test_a_connection_is_kept_unless_the_server_closes_it(
    slow: Callable[[Pieces, float], SlowServer], header: bytes, expected: int
) -> None:
    server = slow([HEAD % (header, len(BODY)) + BODY], 0.0)
    with Client(server.address, "m", retries=0) as client:
        for _ in range(3):
            assert [status.version for status in client.status()] == [1]
    assert server.connections == expected


def test_a_kept_connection_has_the_time_of_the_next_call(
    slow: Callable[[Pieces, float], SlowServer],
) -> None:
    server = slow([HEAD % (b"", len(BODY)) + BODY], 0.6)
    with Client(server.address, "m", retries=0) as client:
        # Leaves less than an answer takes.
        client.status(timeout=1.1)
        client.status(timeout=5.0)
        with pytest.raises(DeadlineExceededError):
            client.status(timeout=0.1)
        client.status(timeout=5.0)
    # After half an answer a connection is of no use.
    assert server.connections == 2
