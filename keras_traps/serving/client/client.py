"""The client of a model server."""

import contextlib
import functools
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.parse import urlsplit

from keras_traps._checks import check_count
from keras_traps.serving.client import protocol

if TYPE_CHECKING:
    from keras_traps.serving.client.grpc_api import GrpcTransport
    from keras_traps.serving.client.rest import RestTransport

# A roll-out can take the version from under a split batch, or change the signature.
_MOST_RESTARTS = 5

_T = TypeVar("_T")


class Client:
    """Asks a server of the TensorFlow Serving API, over REST or gRPC.

    It knows the signatures from the server, so it serves any exported model. It is
    safe to share between threads.

    Args:
        address: Where the server is: `"http://host:8501"` for REST,
            `"grpc://host:8500"` for gRPC, `https` or `grpcs` for the same with TLS.
        model: The model's name on the server.
        version: One version, or `None` for the latest. Defaults to `None`.
        timeout: The deadline of a call in seconds, over all its parts and attempts.
            Over REST a server that sends many small pieces, each of them in time, can
            go on beyond it. Defaults to `30.0`.
        retries: How often a request is made again while the server is unavailable,
            at once, then after pauses that double up to 2 s. Defaults to `8`.
        max_batch_size: A longer batch goes in parts of as many images, all of them
            answered by one version. Defaults to `64`.

    Raises:
        ValueError: If an argument is out of its range.
        ImportError: If gRPC is asked for and its packages are not installed.

    Example:
        >>> from keras_traps.serving import Client
        >>> with Client("http://localhost:8501", "mnist_attractors") as client:
        ...     client.predict(images)["label"]
        ...     client.predict(images, signature="analyze")["is_adversarial"]
    """

    def __init__(
        self,
        address: str,
        model: str,
        *,
        version: int | None = None,
        timeout: float = 30.0,
        retries: int = 8,
        max_batch_size: int = 64,
    ) -> None:
        if not model:
            raise ValueError(
                "Invalid value for argument `model`. Expected a name. "
                f"Received: {model!r}"
            )
        check_count("max_batch_size", max_batch_size)
        check_count("retries", retries, at_least=0)
        self._model = model
        self._version, self._timeout = version, timeout
        self._given(version, timeout)
        self._retries = retries
        self._max_batch_size = max_batch_size
        self._transport = _connect(address, model)
        self._known: dict[int | None, protocol.Metadata] = {}

    def predict(
        self,
        images: protocol.Inputs,
        *,
        signature: str = "serving_default",
        version: int | None = None,
        timeout: float | None = None,
    ) -> protocol.Answer:
        """Runs a signature on a batch.

        Args:
            images: `(batch, ...)`, float32 pixels in the bounds of the model, mostly
                [0, 1], for the usual signatures; a list of PNG or JPEG files as bytes
                for one that takes encoded images; a dictionary for one of several
                inputs. Floats and integers are cast to the width that the signature
                has.
            signature: The signature's name. Defaults to `"serving_default"`.
            version: One version, or `None` for the client's. Defaults to `None`.
            timeout: The deadline in seconds. Defaults to `None`, for the client's.

        Returns:
            The outputs by name, each `(batch, ...)`, in the signature's dtypes, text as
            `str`. Its attribute `version` is the version that answered.

        Raises:
            TypeError: If the images are of another kind than the signature's, such as
                integers for floats; they are not sent.
            ValueError: If the batch is empty; it is not sent.
            InvalidArgumentError: If the server refuses them. The message has its own
                reason and the shapes that it expects.
            NotFoundError: If there is no such model, version or signature.
            UnavailableError: If the server cannot be reached, after the retries.
            DeadlineExceededError: If the deadline passes.
            ResponseError: If what answers is no such server.
            ServingError: If the server fails in another way.
        """
        version, deadline = self._given(version, timeout)
        for _ in range(_MOST_RESTARTS):
            known = metadata = self._known.get(version)
            if metadata is None or signature not in metadata.signatures:
                metadata = self._refresh(version, deadline)
            served = metadata.signatures.get(signature)
            if served is None:
                raise protocol.NotFoundError(
                    f"no signature {signature!r} in version {metadata.version} of "
                    f"model {self._model!r}; it has {sorted(metadata.signatures)}"
                )
            try:
                return self._predict(version, signature, served, images, deadline)
            except _ChangedError:
                self._known.pop(version, None)
            except (TypeError, ValueError):
                # They may fit a newer signature than the one that was known.
                new = None if known is None else self._refresh(version, deadline)
                if new is None or new.signatures.get(signature) == served:
                    raise
        raise protocol.ServingError(
            f"the versions or outputs of model {self._model!r} kept changing",
            code="ABORTED",
        )

    def signatures(
        self, *, version: int | None = None, timeout: float | None = None
    ) -> protocol.Metadata:
        """Asks which signatures the model has.

        Args:
            version: One version, or `None` for the client's. Defaults to `None`.
            timeout: The deadline in seconds. Defaults to `None`, for the client's.

        Returns:
            The version and its signatures by name.

        Raises:
            NotFoundError: If there is no such model or version.
            ServingError: As `predict` does.
        """
        return self._refresh(*self._given(version, timeout))

    def status(self, *, timeout: float | None = None) -> list[protocol.VersionStatus]:
        """Asks which versions there are and whether they are served.

        Args:
            timeout: The deadline in seconds. Defaults to `None`, for the client's.

        Returns:
            One entry per version that the server knows.

        Raises:
            NotFoundError: If there is no such model.
            ServingError: As `predict` does.
        """
        ask = functools.partial(self._transport.status, self._version)
        return self._retried(ask, self._given(None, timeout)[1])

    def wait_until_available(self, *, timeout: float = 60.0) -> int:
        """Waits for a server to come up and to have loaded the model.

        Args:
            timeout: In seconds. Defaults to `60.0`.

        Returns:
            The highest version that is available.

        Raises:
            DeadlineExceededError: If none is by then; the message says what was seen.
            ServingError: If the server fails in a way that does not pass.
        """
        deadline = protocol.Deadline(timeout)
        seen, pauses = "nothing", _pauses()
        while (seconds := deadline.remaining()) > 0:
            try:
                states = self._transport.status(self._version, seconds)
                found = [s.version for s in states if s.state == "AVAILABLE"]
                if found:
                    return max(found)
                seen = _listed(states)
            except (
                protocol.DeadlineExceededError,
                protocol.UnavailableError,
                protocol.NotFoundError,
            ) as error:
                seen = str(error)
            time.sleep(max(0.0, min(next(pauses), deadline.remaining())))
        raise protocol.DeadlineExceededError(
            f"model {self._model!r} is not available after {timeout:g} s: {seen}"
        )

    def close(self) -> None:
        """Closes all connections. The client cannot be used afterwards."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _given(
        self, version: int | None, timeout: float | None
    ) -> tuple[int | None, protocol.Deadline]:
        """Returns the version and the deadline of a call: its own or the client's."""
        if version is not None:
            check_count("version", version, at_least=0)
        return (
            self._version if version is None else version,
            protocol.Deadline(self._timeout if timeout is None else timeout),
        )

    def _retried(self, call: Callable[[float], _T], deadline: protocol.Deadline) -> _T:
        """Makes a call again while the server is unavailable, until the deadline."""
        for attempt, pause in enumerate(_pauses(), start=1):
            seconds = deadline.remaining()
            if seconds <= 0:
                break
            try:
                return call(seconds)
            except protocol.ServingError as error:
                error.attempts = attempt
                if isinstance(error, protocol.NotFoundError):
                    with contextlib.suppress(protocol.ServingError):
                        left = max(0.1, deadline.remaining())
                        there = _listed(self._transport.status(None, left))
                        error.message += f". Versions there: {there}"
                away = isinstance(error, protocol.UnavailableError)
                if not away or attempt > self._retries or pause >= deadline.remaining():
                    raise
            time.sleep(pause)
        raise protocol.DeadlineExceededError(
            f"no answer within {deadline.seconds:g} s", attempts=attempt
        )

    def _refresh(
        self, version: int | None, deadline: protocol.Deadline
    ) -> protocol.Metadata:
        """Asks for a version's signatures, whatever is known."""
        ask = functools.partial(self._transport.metadata, version)
        self._known[version] = self._retried(ask, deadline)
        return self._known[version]

    def _predict(
        self,
        version: int | None,
        name: str,
        served: protocol.Signature,
        images: protocol.Inputs,
        deadline: protocol.Deadline,
    ) -> protocol.Answer:
        arrays = protocol.to_inputs(images, served)
        total = len(next(iter(arrays.values())))
        step = self._max_batch_size
        pinned = version
        if total > step and version is None:
            pinned = self._refresh(version, deadline).version
        parts: list[tuple[int, protocol.Outputs]] = []
        for start in range(0, total, step):
            part = {key: array[start : start + step] for key, array in arrays.items()}
            ask = functools.partial(self._transport.predict, pinned, name, served, part)
            try:
                outputs, answered = self._retried(ask, deadline)
            except protocol.InvalidArgumentError as error:
                # The server's own message may come from within the graph.
                expected = ", ".join(f"{k!r}: {v}" for k, v in served.inputs.items())
                got = ", ".join(
                    f"{k!r}: {served.inputs[k].dtype} {v.shape}"
                    for k, v in arrays.items()
                )
                error.message += (
                    f". Signature {name!r} expects {expected}. Received: {got}"
                )
                raise
            except protocol.NotFoundError as error:
                if pinned == version:
                    raise
                raise _ChangedError(error.message) from error
            if set(outputs) != set(served.outputs):
                raise _ChangedError("other outputs")
            parts.append((min(step, total - start), outputs))
        return protocol.Answer(
            protocol.join(parts), pinned if answered is None else answered
        )


class _ChangedError(protocol.ServingError):
    """The version of a batch's first part is gone, or has other outputs."""


def _connect(address: str, model: str) -> "RestTransport | GrpcTransport":
    """Returns the transport that an address asks for; nothing is sent yet."""
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
    if parts.scheme.startswith("http"):
        from keras_traps.serving.client.rest import RestTransport

        return RestTransport(f"{parts.scheme}://{parts.netloc}", model)
    try:
        from keras_traps.serving.client.grpc_api import GrpcTransport
    except ImportError as error:
        raise ImportError(
            "gRPC needs grpcio and tensorflow-serving-api. Install the latter with "
            "`pip install --no-deps tensorflow-serving-api`: otherwise it brings the "
            f"full tensorflow. REST needs neither. ({error})"
        ) from error
    return GrpcTransport(parts.netloc, model, secure=parts.scheme == "grpcs")


def _pauses() -> Iterator[float]:
    """Yields the seconds between attempts: ever more, at most 2, some by chance."""
    yield 0.0
    for least in (0.2, 0.4, 0.8, 1.6):
        yield least + random.uniform(0.0, 0.1)
    yield from itertools.repeat(2.0)


def _listed(states: Sequence[protocol.VersionStatus]) -> str:
    return ", ".join(map(str, states)) or "none"
