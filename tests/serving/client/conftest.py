"""A server of a tiny model, and clients over both transports."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keras_traps.serving import Client
from tests.serving.client.foreign_server import Script, start
from tests.serving.server_process import ServerProcess
from tests.serving.tiny_model import Offline, write_version


@pytest.fixture(scope="session")
def base_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "tiny"
    write_version(path, 3)
    return path


@pytest.fixture(scope="session")
def server(base_path: Path) -> Iterator[ServerProcess]:
    pytest.importorskip("tensorflow_serving.apis")
    with ServerProcess(base_path, "tiny") as process:
        yield process


@pytest.fixture(scope="session")
def offline(base_path: Path) -> Offline:
    return Offline(base_path, 3)


@pytest.fixture(scope="session", params=["grpc", "rest"])
def address(server: ServerProcess, request: pytest.FixtureRequest) -> str:
    return server.grpc_address if request.param == "grpc" else server.rest_address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address, "tiny") as client:
        yield client


@pytest.fixture
def serve() -> Iterator[Callable[[Script], str]]:
    """Starts servers that answer as scripts say, and returns their addresses."""
    servers = []

    def address_of(script: Script) -> str:
        servers.append(start(script))
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield address_of
    for server in servers:
        server.shutdown()
        server.server_close()
