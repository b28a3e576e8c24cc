"""HTTP connections that give an answer up at one moment, however slowly it comes.

A timeout of a socket is one for each read: a server that sends a byte now and then
would never meet it.
"""

import http.client
import io
import socket
import typing
from typing import Any

import urllib3

from keras_traps.serving.client.retries import Deadline


class _Reader(io.RawIOBase):
    """Reads from a socket; every read gets the time that is left."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._connection = connection
        self._deadline = deadline
        # A file of its own keeps the socket open after "Connection: close".
        self._file = connection.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        seconds = self._deadline.remaining()
        if seconds <= 0:
            raise TimeoutError("timed out")
        self._connection.settimeout(seconds)
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """Reads its head and its body until a deadline."""

    def __init__(
        self, sock: socket.socket, *arguments: Any, deadline: Deadline, **named: Any
    ) -> None:
        super().__init__(sock, *arguments, **named)
        # Nothing has been read yet.
        self.fp.close()
        self.fp = io.BufferedReader(_Reader(sock, deadline))


class _Bounded(urllib3.connection.HTTPConnection):
    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
        # By now it is what connecting and sending have left of the total.
        deadline = Deadline(typing.cast(float, self.timeout))

        def response(*arguments: Any, **named: Any) -> _Response:
            return _Response(*arguments, deadline=deadline, **named)

        self.response_class = response  # type: ignore[assignment]
        return super().getresponse()


class _BoundedTls(_Bounded, urllib3.connection.HTTPSConnection):
    pass


def bounded_pool(url: str, connections: int) -> urllib3.HTTPConnectionPool:
    """Returns connections to one server, whose total timeout bounds the whole answer.

    Args:
        url: `http://host:port` or `https://host:port`.
        connections: How many are kept open.

    Returns:
        The pool. It makes no request again and is to be asked with a total timeout.
    """
    pool = urllib3.connection_from_url(url, maxsize=connections, retries=False)
    pool.ConnectionCls = _BoundedTls if pool.scheme == "https" else _Bounded
    return pool
