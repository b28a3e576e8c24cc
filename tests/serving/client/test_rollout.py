"""Clients under load while versions come and go and the server dies."""

import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_traps import ForensicAnalyzer, inject, serving
from keras_traps.models import digits_cnn
from keras_traps.serving import Client
from keras_traps.serving.client import Answer
from tests.serving.conftest import SETTINGS, Offline, Outputs, Trapped, agree
from tests.serving.server_process import ServerProcess

pytestmark = pytest.mark.slow

SIGNATURES: tuple[serving.Signature, ...] = ("serving_default", "analyze")
REQUESTS = 6_000
CLIENTS = 16
PATIENCE = 400.0

Request = tuple[str, np.ndarray]  # a signature, and float32 images
Reply = tuple[int, Answer, float]  # the request's number, its answer and its seconds


class Load:
    """Clients in threads that ask `least` times each, and go on until `finish`.

    Half of them speak gRPC, the other half REST.
    """

    def __init__(
        self,
        server: ServerProcess,
        requests: Sequence[Request],
        *,
        clients: int,
        retries: int,
        least: int,
    ) -> None:
        self._requests = requests
        self._least = least
        self._lasting = True
        self._replies: list[list[Reply]] = [[] for _ in range(clients)]
        pool = ThreadPoolExecutor(clients)
        addresses = (server.grpc_address, server.rest_address)
        settings: dict[str, Any] = {"retries": retries, "timeout": PATIENCE}
        self._asked = [
            pool.submit(self._ask, i, Client(addresses[i % 2], "digits", **settings))
            for i in range(clients)
        ]

    def count(self) -> int:
        return sum(map(len, self._replies))

    def wait_for(self, count: int) -> None:
        end = time.monotonic() + PATIENCE
        while self.count() < count:
            assert time.monotonic() < end
            # One that has failed raises.
            assert not [one.result() for one in self._asked if one.done()]
            time.sleep(0.01)

    def finish(self) -> list[list[Reply]]:
        """Returns the replies by client."""
        self._lasting = False
        for asked in self._asked:
            asked.result(PATIENCE)
        return self._replies

    def _ask(self, number: int, client: Client) -> None:
        replies = self._replies[number]
        with client:
            while len(replies) < self._least or self._lasting:
                index = (number * 7 + len(replies)) % len(self._requests)
                signature, images = self._requests[index]
                start = time.perf_counter()
                answer = client.predict(images, signature=signature)
                replies.append((index, answer, time.perf_counter() - start))


def export(trapped: Trapped, base_path: Path, seed: int) -> None:
    """Exports another untrained classifier as the next version."""
    keras.utils.set_random_seed(seed)
    model = inject(digits_cnn(), SETTINGS)
    analyzer = ForensicAnalyzer(model).fit(trapped.images[:500], fpr=0.05)
    serving.export(
        model,
        base_path,
        analyzer=analyzer,
        signatures=SIGNATURES,
        class_names=[f"{seed}-{name}" for name in "abcdefghij"],
        warmup_batch_sizes=(1,),
        verbose=False,
    )


@pytest.fixture(scope="module")
def server(
    trapped: Trapped, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    pytest.importorskip("tensorflow_serving.apis")
    base_path = tmp_path_factory.mktemp("rollout") / "digits"
    export(trapped, base_path, seed=1)
    with ServerProcess(base_path, "digits") as process:
        yield process


@pytest.fixture(scope="module")
def requests(trapped: Trapped) -> list[Request]:
    return [
        (SIGNATURES[i % 2], trapped.images[3 * i : 3 * i + 1 + i % 3])
        for i in range(60)
    ]


def answers(
    server: ServerProcess, requests: Sequence[Request]
) -> tuple[int, list[Outputs]]:
    """The highest version, and its answer to each request without a server."""
    names = [p.name for p in server.base_path.iterdir() if p.name.isdecimal()]
    version = max(map(int, names))
    offline = Offline(server.base_path / str(version))
    return version, [offline(*one) for one in requests]


def versions_of(reply: Reply, expected: dict[int, list[Outputs]]) -> list[int]:
    """The versions whose answer a reply is."""
    index, answer, _ = reply
    return [
        version
        for version, answers in expected.items()
        if answer.version in (None, version) and agree(answer, answers[index])
    ]


def test_no_request_fails_and_no_answer_is_mixed_while_a_version_is_replaced(
    server: ServerProcess, trapped: Trapped, requests: list[Request]
) -> None:
    old, answered = answers(server, requests)
    expected = {old: answered}
    # No retries: they would hide a failure.
    least = REQUESTS // CLIENTS
    load = Load(server, requests, clients=CLIENTS, retries=0, least=least)
    load.wait_for(REQUESTS // 10)
    export(trapped, server.base_path, seed=2)
    new, answered = answers(server, requests)
    expected[new] = answered
    end = time.monotonic() + PATIENCE
    with Client(server.grpc_address, "digits") as client:
        while client.wait_until_available(timeout=PATIENCE) != new:
            assert time.monotonic() < end
            time.sleep(0.02)
    shutil.rmtree(server.base_path / str(old))
    load.wait_for(load.count() + 50 * CLIENTS)
    by_client = load.finish()
    assert sum(map(len, by_client)) >= REQUESTS
    for own in by_client:
        given = [versions_of(reply, expected) for reply in own]
        # Each client saw the old version, then the new one, and never the old again.
        assert given == sorted(given)
        assert {*map(tuple, given)} == {(old,), (new,)}


def test_clients_survive_a_server_that_is_killed_and_comes_back(
    server: ServerProcess, requests: list[Request]
) -> None:
    expected = dict([answers(server, requests)])
    load = Load(server, requests, clients=8, retries=10_000, least=100)
    load.wait_for(400)
    server.kill()
    before = load.count()
    server.start()
    load.wait_for(before + 400)
    for own in load.finish():
        assert all(versions_of(reply, expected) for reply in own)
        # Every client was at work when the server went.
        assert max(seconds for _, _, seconds in own) > 0.5
