"""Runs the reference server in a process of its own, which tests may kill."""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

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
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            second.bind(("127.0.0.1", 0))
            self._ports = [str(s.getsockname()[1]) for s in (first, second)]
        self.grpc_address = f"grpc://127.0.0.1:{self._ports[0]}"
        self.rest_address = f"http://127.0.0.1:{self._ports[1]}"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Starts it, waits until it answers, or raises with what it wrote."""
        module = "tests.serving.reference_server"
        command = [sys.executable, "-m", module, self.model, str(self.base_path)]
        with tempfile.TemporaryFile("w+") as log:
            self._process = subprocess.Popen(
                [*command, *self._ports],
                cwd=ROOT,
                # Many small requests: more threads for one of them only cost.
                env={
                    **os.environ,
                    "TF_CPP_MIN_LOG_LEVEL": "3",
                    "TF_NUM_INTRAOP_THREADS": "1",
                    "TF_NUM_INTEROP_THREADS": "1",
                },
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            assert self._process.stdout is not None
            if self._process.stdout.readline() != "ready\n":
                self.kill()
                log.seek(0)
                raise RuntimeError(f"the server did not start: {log.read()}")

    def kill(self) -> None:
        """Kills it without a chance to say goodbye."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
