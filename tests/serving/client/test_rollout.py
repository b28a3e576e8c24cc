"""Clients under load while versions come and go and the server dies."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import keras
import pytest

from keras_traps import ForensicAnalyzer, inject, serving
from keras_traps.models import digits_cnn
from keras_traps.serving import Client
from tests.serving.conftest import SETTINGS, Offline, Trapped
from tests.serving.load import Load, Outputs, Reply, Request, agree
from tests.serving.server_process import ServerProcess

pytestmark = pytest.mark.slow

SIGNATURES: tuple[serving.Signature, ...] = ("serving_default", "analyze")
REQUESTS = 20_000
CLIENTS = 16
PATIENCE = 400.0


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
        Request(SIGNATURES[i % 2], trapped.images[3 * i : 3 * i + 1 + i % 3])
        for i in range(60)
    ]


def connect(
    server: ServerProcess, count: int, *, retries: int, stack: ExitStack
) -> list[Client]:
    """Half of the clients speak gRPC, the other half REST."""
    addresses = (server.grpc_address, server.rest_address)
    return [
        stack.enter_context(
            Client(addresses[i % 2], "digits", retries=retries, timeout=PATIENCE)
        )
        for i in range(count)
    ]


def answers(
    server: ServerProcess, requests: Sequence[Request]
) -> tuple[int, list[Outputs]]:
    """The highest version, and its answer to each request without a server."""
    names = [p.name for p in server.base_path.iterdir() if p.name.isdecimal()]
    version = max(map(int, names))
    offline = Offline(server.base_path / str(version))
    return version, [offline(one.signature, one.images) for one in requests]


def versions_of(reply: Reply, expected: dict[int, list[Outputs]]) -> list[int]:
    """The versions whose answer a reply is; none if it failed."""
    return [
        version
        for version, answers in expected.items()
        if reply.error is None
        and reply.version in (None, version)
        and agree(reply.outputs, answers[reply.request])
    ]


def test_no_request_fails_and_no_answer_is_mixed_while_a_version_is_replaced(
    server: ServerProcess, trapped: Trapped, requests: list[Request]
) -> None:
    old, answered = answers(server, requests)
    expected = {old: answered}
    with ExitStack() as stack:
        # No retries: they would hide a failure.
        clients = connect(server, CLIENTS, retries=0, stack=stack)
        load = Load(clients, requests, least=REQUESTS // CLIENTS)
        load.wait_for(REQUESTS // 10, PATIENCE)
        export(trapped, server.base_path, seed=2)
        new, answered = answers(server, requests)
        expected[new] = answered
        end = time.monotonic() + PATIENCE
        while clients[0].wait_until_available(timeout=PATIENCE) != new:
            assert time.monotonic() < end
            time.sleep(0.02)
        shutil.rmtree(server.base_path / str(old))
        load.wait_for(load.count() + 50 * CLIENTS, PATIENCE)
        by_client = load.finish(PATIENCE)
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
    with ExitStack() as stack:
        clients = connect(server, 8, retries=10_000, stack=stack)
        load = Load(clients, requests, least=100)
        load.wait_for(400, PATIENCE)
        server.kill()
        before = load.count()
        server.start()
        load.wait_for(before + 400, PATIENCE)
        by_client = load.finish(PATIENCE)
    for own in by_client:
        assert all(versions_of(reply, expected) for reply in own)
        # Every client was at work when the server went.
        assert max(reply.seconds for reply in own) > 0.5
