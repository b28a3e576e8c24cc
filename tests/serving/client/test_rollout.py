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
from keras_traps.serving.client import NotFoundError, VersionStatus
from tests.serving.conftest import SETTINGS, Trapped
from tests.serving.load import Load, Outputs, Reply, Request, agree
from tests.serving.server_process import ServerProcess
from tests.serving.tiny_model import Offline

pytestmark = pytest.mark.slow

SIGNATURES: tuple[serving.Signature, ...] = ("serving_default", "analyze")
REQUESTS = 20_000
CLIENTS = 16
PATIENCE = 400.0


def export(trapped: Trapped, base_path: Path, seed: int) -> int:
    """Exports another untrained classifier as the next version."""
    keras.utils.set_random_seed(seed)
    model = inject(digits_cnn(), SETTINGS)
    analyzer = ForensicAnalyzer(model).fit(trapped.images[:500], fpr=0.05)
    return serving.export(
        model,
        base_path,
        analyzer=analyzer,
        signatures=SIGNATURES,
        class_names=[f"{seed}-{name}" for name in "abcdefghij"],
        warmup_batch_sizes=(1,),
        verbose=False,
    ).version


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


def latest(base_path: Path) -> int:
    return max(int(p.name) for p in base_path.iterdir() if p.name.isdecimal())


def answers(
    base_path: Path, version: int, requests: Sequence[Request]
) -> dict[int, Outputs]:
    """By request, a version's answer without a server."""
    offline = Offline(base_path, version)
    return {
        index: offline(request.signature, request.images)
        for index, request in enumerate(requests)
    }


def wrong(
    replies: Sequence[Reply], expected: dict[int, dict[int, Outputs]]
) -> list[Reply]:
    """Returns failures, and answers that are not those of one of the versions."""
    return [
        reply
        for reply in replies
        if reply.error is not None
        or not any(
            agree(reply.outputs, answers[reply.request])
            for version, answers in expected.items()
            if reply.version in (None, version)
        )
    ]


def test_no_request_fails_and_no_answer_is_mixed_while_a_version_is_replaced(
    server: ServerProcess, trapped: Trapped, requests: list[Request]
) -> None:
    old = latest(server.base_path)
    expected = {old: answers(server.base_path, old, requests)}
    with ExitStack() as stack:
        # No retries: they would hide a failure.
        clients = connect(server, CLIENTS, retries=0, stack=stack)
        load = Load(clients, requests, least=REQUESTS // CLIENTS)
        load.start()
        load.wait_for(REQUESTS // 10, PATIENCE)
        new = export(trapped, server.base_path, seed=2)
        expected[new] = answers(server.base_path, new, requests)
        wait_for(clients[0], new)
        shutil.rmtree(server.base_path / str(old))
        load.wait_for(load.count() + 50 * CLIENTS, PATIENCE)
        by_client = load.finish(PATIENCE)
    replies = [reply for own in by_client for reply in own]
    assert len(replies) >= REQUESTS
    assert wrong(replies, expected) == []
    for own in by_client:
        given = [versions_of(reply, expected) for reply in own]
        # Each client saw the old version, then the new one, and never the old again.
        assert given == sorted(given)
        assert set(given) == {old, new}


def versions_of(reply: Reply, expected: dict[int, dict[int, Outputs]]) -> int:
    (version,) = (
        version
        for version, answers in expected.items()
        if agree(reply.outputs, answers[reply.request])
    )
    return version


def wait_for(client: Client, version: int) -> None:
    end = time.monotonic() + PATIENCE
    while client.wait_until_available(timeout=PATIENCE) != version:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_clients_survive_a_server_that_is_killed_and_comes_back(
    server: ServerProcess, requests: list[Request]
) -> None:
    version = latest(server.base_path)
    expected = {version: answers(server.base_path, version, requests)}
    with ExitStack() as stack:
        clients = connect(server, 8, retries=10_000, stack=stack)
        load = Load(clients, requests, least=100)
        load.start()
        load.wait_for(400, PATIENCE)
        server.kill()
        before = load.count()
        server.start()
        load.wait_for(before + 400, PATIENCE)
        by_client = load.finish(PATIENCE)
    assert wrong([reply for own in by_client for reply in own], expected) == []
    # Every client was at work when the server went.
    assert all(max(reply.seconds for reply in own) > 0.5 for own in by_client)


def test_damaged_and_foreign_versions_are_told_and_the_good_one_goes_on(
    server: ServerProcess, requests: list[Request]
) -> None:
    good = latest(server.base_path)
    expected = answers(server.base_path, good, requests)
    for version, name, content in [
        (90, "saved_model.pb", b"\xff no protocol buffer"),
        (91, "model.onnx", b""),
        (92, "saved_model.pb", b""),
    ]:
        beside = server.base_path / f".{version}"
        beside.mkdir()
        (beside / name).write_bytes(content)
        beside.rename(server.base_path / str(version))
    beside = server.base_path / ".93"
    shutil.copytree(server.base_path / str(good), beside)
    (beside / "variables" / "variables.index").write_bytes(b"torn")
    beside.rename(server.base_path / "93")
    with ExitStack() as stack:
        for client in connect(server, 2, retries=0, stack=stack):
            states = until_seen(client, {90, 91, 92, 93})
            assert states.pop(good) == VersionStatus(good, "AVAILABLE")
            for bad in (90, 91, 92, 93):
                assert states[bad].state == "END"
                assert states[bad].error
            for index, request in enumerate(requests[:4]):
                answer = client.predict(request.images, signature=request.signature)
                assert agree(dict(answer), expected[index])
            with pytest.raises(NotFoundError, match=r"90 END \(DecodeError"):
                client.predict(requests[0].images, version=90)
    for bad in (90, 91, 92, 93):
        shutil.rmtree(server.base_path / str(bad))


def until_seen(client: Client, versions: set[int]) -> dict[int, VersionStatus]:
    end = time.monotonic() + PATIENCE
    while True:
        states = {state.version: state for state in client.status()}
        if all(v in states and states[v].state == "END" for v in versions):
            return states
        assert time.monotonic() < end, states
        time.sleep(0.02)
