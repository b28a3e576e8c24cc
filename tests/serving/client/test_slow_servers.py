"""An answer may come in pieces, each of them in time."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from keras_traps.serving import Client
from keras_traps.serving.client import DeadlineExceededError

BODY = json.dumps(
    {"model_version_status": [{"version": "1", "state": "AVAILABLE"}]}
).encode()
HEAD = b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n"

Pieces = list[bytes]


class Server:
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
def serve() -> Iterator[Callable[[Pieces, float], Server]]:
    servers = []

    def start(pieces: Pieces, pause: float) -> Server:
        servers.append(Server(pieces, pause))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def bytes_of(answer: bytes) -> Pieces:
    return [answer[i : i + 1] for i in range(len(answer))]


@pytest.mark.parametrize(
    "pieces",
    [
        bytes_of(HEAD % (b"", len(BODY)) + BODY),
        [HEAD % (b"", len(BODY)), *bytes_of(BODY)],
        [HEAD % (b"Connection: close\r\n", len(BODY)), *bytes_of(BODY)],
        [
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            *[b"1\r\n \r\n"] * 99,
        ],
    ],
    ids=["head", "body", "closing", "chunked"],
)
def test_an_answer_byte_by_byte_meets_the_deadline(
    serve: Callable[[Pieces, float], Server], pieces: Pieces
) -> None:
    server = serve(pieces, 0.1)
    start = time.monotonic()
    with (
        Client(server.address, "m", timeout=0.5) as client,
        pytest.raises(DeadlineExceededError, match=r"no answer from .* within 0\.5 s"),
    ):
        client.status()
    assert time.monotonic() - start < 2


def test_an_answer_in_pieces_is_whole_where_there_is_time(
    serve: Callable[[Pieces, float], Server],
) -> None:
    pieces = [HEAD % (b"", len(BODY)), BODY[:9], BODY[9:]]
    with Client(serve(pieces, 0.01).address, "m") as client:
        assert [status.version for status in client.status()] == [1]


@pytest.mark.parametrize(
    ("header", "expected"), [(b"", 1), (b"Connection: close\r\n", 3)]
)
def test_a_connection_is_kept_unless_the_server_closes_it(
    serve: Callable[[Pieces, float], Server], header: bytes, expected: int
) -> None:
    server = serve([HEAD % (header, len(BODY)) + BODY], 0.0)
    with Client(server.address, "m", retries=0) as client:
        for _ in range(3):
            assert [status.version for status in client.status()] == [1]
    assert server.connections == expected


def test_a_kept_connection_has_the_time_of_the_next_call(
    serve: Callable[[Pieces, float], Server],
) -> None:
    server = serve([HEAD % (b"", len(BODY)) + BODY], 0.6)
    with Client(server.address, "m", retries=0) as client:
        # Leaves less than an answer takes.
        client.status(timeout=1.1)
        client.status(timeout=5.0)
        with pytest.raises(DeadlineExceededError):
            client.status(timeout=0.1)
        client.status(timeout=5.0)
    # After half an answer a connection is of no use.
    assert server.connections == 2
