"""Runs the reference server in a process of its own, which tests may kill."""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Self

ROOT = Path(__file__).parents[2]


class ServerProcess:
    """The reference server for one model, on ports that it keeps over restarts.

    Args:
        base_path: The folder of versions.
        model: The model's name.
    """

    def __init__(self, base_path: Path, model: str) -> None:
        self.base_path = base_path
        self.model = model
        self.grpc_port, self.rest_port = _free_ports()
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[str] | None = None

    @property
    def grpc_address(self) -> str:
        return f"grpc://127.0.0.1:{self.grpc_port}"

    @property
    def rest_address(self) -> str:
        return f"http://127.0.0.1:{self.rest_port}"

    def start(self, *, wait: bool = True) -> None:
        """Starts it; with `wait`, until it answers."""
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed by kill
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.serving.reference_server",
                f"--model_name={self.model}",
                f"--model_base_path={self.base_path}",
                f"--port={self.grpc_port}",
                f"--rest_api_port={self.rest_port}",
            ],
            cwd=ROOT,
            # Many small requests: more threads for one of them only cost.
            env={
                **os.environ,
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "TF_NUM_INTRAOP_THREADS": "1",
                "TF_NUM_INTEROP_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Waits until it answers, or raises with what it wrote."""
        assert self._process is not None
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            written = self.log()
            self.kill()
            raise RuntimeError(f"the server did not start: {written}")

    def log(self) -> str:
        """Returns what it wrote to its standard error."""
        assert self._log is not None
        self._log.seek(0)
        return self._log.read()

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Kills it without a chance to say goodbye."""
        if self._process is not None and self._log is not None:
            self._process.kill()
            self._process.communicate()
            self._log.close()
        self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]
