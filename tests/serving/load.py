"""Many clients at once, each answer kept by what it was and how long it took."""

import dataclasses
import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_traps.serving import Client


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked again and again.

    Args:
        signature: The signature's name.
        images: `(batch, height, width, channels)`, float32.
    """

    signature: str
    images: npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Reply:
    """What came of one request.

    Args:
        client: Which client asked.
        request: The request's index.
        digest: Of the answer, or an empty string after an error.
        version: The version that gave it, where it is known.
        seconds: From asking to the answer.
        error: What was raised, or `None`.
    """

    client: int
    request: int
    digest: str
    version: int | None
    seconds: float
    error: Exception | None


def digest(outputs: Mapping[str, npt.NDArray[Any]]) -> str:
    """Returns a hash of names, dtypes, shapes and every byte of some outputs."""
    whole = hashlib.sha256()
    for name in sorted(outputs):
        array = outputs[name]
        # A text array is as wide as its longest entry, whatever the model.
        text = array.dtype.kind == "U"
        content = "\0".join(array.ravel()).encode() if text else array.tobytes()
        kind = "U" if text else str(array.dtype)
        whole.update(f"{name} {kind} {array.shape} {len(content)}\n".encode())
        whole.update(content)
    return whole.hexdigest()


class Load:
    """Clients in threads that go on until each has asked enough and may stop.

    Args:
        clients: One per thread.
        requests: What they ask, each beginning at another place.
        least: How many requests each makes at least.
        digests: Whether answers are hashed; without it only their times are kept.
            Defaults to `True`.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        requests: Sequence[Request],
        *,
        least: int,
        digests: bool = True,
    ) -> None:
        self._requests = requests
        self._least = least
        self._digest: Callable[[Any], str] = digest if digests else lambda _: ""
        self._may_stop = threading.Event()
        self._replies: list[list[Reply]] = [[] for _ in clients]
        self._threads = [
            threading.Thread(target=self._ask, args=pair, daemon=True)
            for pair in enumerate(clients)
        ]

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def count(self) -> int:
        """Returns how many requests have been answered or have failed."""
        return sum(map(len, self._replies))

    def wait_for(self, count: int, seconds: float) -> None:
        """Waits until as many requests have been answered, or raises."""
        end = time.monotonic() + seconds
        while self.count() < count:
            if time.monotonic() > end:
                raise TimeoutError(f"{self.count()} of {count} after {seconds} s")
            time.sleep(0.01)

    def finish(self, seconds: float) -> list[list[Reply]]:
        """Lets the clients stop, waits for them, and returns replies by client."""
        self._may_stop.set()
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                raise TimeoutError(f"{self.count()} requests after {seconds} s")
        return self._replies

    def _ask(self, number: int, client: Client) -> None:
        replies = self._replies[number]
        while len(replies) < self._least or not self._may_stop.is_set():
            index = (number * 7 + len(replies)) % len(self._requests)
            replies.append(self._reply(number, index, client))

    def _reply(self, number: int, index: int, client: Client) -> Reply:
        request = self._requests[index]
        start = time.perf_counter()
        try:
            answer = client.predict(request.images, signature=request.signature)
        except Exception as error:  # It is what the test looks for.
            taken = time.perf_counter() - start
            return Reply(number, index, "", None, taken, error)
        taken = time.perf_counter() - start
        return Reply(number, index, self._digest(answer), answer.version, taken, None)
