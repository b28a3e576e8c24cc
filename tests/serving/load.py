"""Many clients at once, each answer kept by what it was and how long it took."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_traps.serving import Client

Outputs = Mapping[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked again and again: a signature, and float32 images."""

    signature: str
    images: npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Reply:
    """What came of one request; no outputs after an error, or if not to be kept."""

    request: int
    outputs: Outputs
    version: int | None
    seconds: float
    error: Exception | None


def agree(one: Outputs, other: Outputs) -> bool:
    """Says whether two answers are the same, floats to the last bits.

    How many threads a process has decides in which order it adds.
    """
    return one.keys() == other.keys() and all(
        np.allclose(value, other[name], rtol=1e-4, atol=1e-5, equal_nan=True)
        if value.dtype == other[name].dtype == np.float32
        else np.array_equal(value, other[name])
        for name, value in one.items()
    )


class Load:
    """Clients in threads, each of which makes `least` requests.

    Those that are `lasting` go on until `finish`. Only with `keep` are answers kept.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        requests: Sequence[Request],
        *,
        least: int,
        keep: bool = True,
        lasting: bool = True,
    ) -> None:
        self._requests = requests
        self._least = least
        self._keep = keep
        self._lasting = lasting
        self._replies: list[list[Reply]] = [[] for _ in clients]
        pool = ThreadPoolExecutor(len(clients))
        self._asked = [pool.submit(self._ask, *one) for one in enumerate(clients)]

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
        """Lets the clients stop, waits for each, and returns replies by client."""
        self._lasting = False
        for asked in self._asked:
            asked.result(seconds)
        return self._replies

    def _ask(self, number: int, client: Client) -> None:
        replies = self._replies[number]
        while len(replies) < self._least or self._lasting:
            index = (number * 7 + len(replies)) % len(self._requests)
            request, start = self._requests[index], time.perf_counter()
            outputs: Outputs = {}
            version, failed = None, None
            try:
                answer = client.predict(request.images, signature=request.signature)
                outputs, version = answer if self._keep else {}, answer.version
            except Exception as error:  # It is what the test looks for.
                failed = error
            seconds = time.perf_counter() - start
            replies.append(Reply(index, outputs, version, seconds, failed))
