"""An HTTP server that answers as a script says."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, bytes]
Script = Callable[[str], Reply]

SPEC = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}]}}
METADATA = {
    "model_spec": {"name": "m", "signature_name": "", "version": "1"},
    "metadata": {
        "signature_def": {
            "signature_def": {
                "serving_default": {
                    "inputs": {"x": SPEC},
                    "outputs": {"a": SPEC, "b": {**SPEC, "dtype": "DT_STRING"}},
                }
            }
        }
    },
}


def answering(outputs: Any) -> Script:
    def script(path: str) -> Reply:
        answer = {"outputs": outputs} if path.endswith(":predict") else METADATA
        return 200, json.dumps(answer).encode()

    return script


def start(script: Script) -> ThreadingHTTPServer:
    """Starts a server on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = script(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    # The poll is how long a shutdown takes.
    poll = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    poll.start()
    return server
