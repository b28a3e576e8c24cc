"""Runs the reference server until it is killed.

Example:
    python -m tests.serving.reference_server --model_name=digits \
        --model_base_path=saved_models/digits --port=8500 --rest_api_port=8501
"""

import argparse
import sys
import threading
from pathlib import Path

from tests.serving.reference_server import grpc_api, rest
from tests.serving.reference_server.models import Folder


def main() -> None:
    """Serves, with the flags of tensorflow_model_server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model_name", required=True)
    parser.add_argument("--model_base_path", required=True, type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rest_api_port", type=int, required=True)
    parser.add_argument("--file_system_poll_wait_seconds", type=float, default=0.2)
    options = parser.parse_args()
    folder = Folder(options.model_base_path, options.file_system_poll_wait_seconds)
    folder.start()
    # A gRPC server stops when nobody holds it.
    servers = [
        rest.start(options.model_name, folder, options.rest_api_port),
        grpc_api.start(options.model_name, folder, options.port),
    ]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    threading.Event().wait()
    del servers


if __name__ == "__main__":
    main()
