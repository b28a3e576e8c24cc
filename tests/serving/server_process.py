"""Runs the reference server in a process of its own, which tests may kill."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]


class ServerProcess:
    """The reference server for one model, on ports that it keeps over restarts."""

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
        """Starts it, and waits until it answers."""
        module = "tests.serving.reference_server"
        command = [sys.executable, "-m", module, self.model, str(self.base_path)]
        # Many small requests: more threads for one of them only cost.
        threads = dict.fromkeys(
            ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"
        )
        self._process = subprocess.Popen(
            [*command, *self._ports],
            cwd=ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **threads},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            self.kill()
            raise RuntimeError("the server did not start; it says why above")

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
