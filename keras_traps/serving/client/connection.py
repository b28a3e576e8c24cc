"""Which transport an address asks for. gRPC is imported only when it does."""

import importlib
from typing import Any
from urllib.parse import urlsplit

from keras_traps.serving.client.signatures import Transport


def connect(address: str) -> Transport:
    """Returns the transport that an address asks for; nothing is sent yet.

    Args:
        address: E.g. `"http://localhost:8501"` or `"grpc://localhost:8500"`.

    Raises:
        ValueError: If it has another form.
        ImportError: If gRPC is asked for and its packages are not installed.
    """
    parts = urlsplit(address)
    # Without what follows the host another service would be asked.
    further = parts.path not in ("", "/") or parts.query or parts.fragment
    known = parts.scheme in ("http", "https", "grpc", "grpcs")
    if not (known and parts.hostname) or further:
        raise ValueError(
            "Invalid value for argument `address`. Expected 'http://host:port' or "
            "'grpc://host:port', or the same with https or grpcs, and nothing after "
            f"it. Received: {address!r}"
        )
    if parts.scheme.startswith("grpc"):
        return _grpc(parts.netloc, secure=parts.scheme == "grpcs")
    rest = importlib.import_module("keras_traps.serving.client.rest")
    transport: Transport = rest.RestTransport(f"{parts.scheme}://{parts.netloc}")
    return transport


def _grpc(address: str, *, secure: bool) -> Transport:
    try:
        module: Any = importlib.import_module("keras_traps.serving.client.grpc_api")
    except ImportError as error:
        raise ImportError(
            "gRPC needs the packages grpcio and tensorflow-serving-api. Install the "
            "latter with `pip install --no-deps tensorflow-serving-api`: otherwise it "
            "brings the full tensorflow, which does not work beside tensorflow-cpu. "
            f"REST needs neither. ({error})"
        ) from error
    transport: Transport = module.GrpcTransport(address, secure=secure)
    return transport
