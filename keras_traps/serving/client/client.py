"""The client of a model server."""

import functools
import time
from types import TracebackType
from typing import Self

from keras_traps.serving.client.arrays import (
    Answer,
    Inputs,
    Outputs,
    join,
    to_inputs,
)
from keras_traps.serving.client.catalogue import (
    Catalogue,
    describe_states,
    with_expectation,
)
from keras_traps.serving.client.connection import connect
from keras_traps.serving.client.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    NotFoundError,
    ServingError,
    UnavailableError,
)
from keras_traps.serving.client.retries import Backoff, Deadline
from keras_traps.serving.client.signatures import (
    Array,
    Metadata,
    Signature,
    Target,
    VersionStatus,
)

# A roll-out can take the version from under a split batch, or change the signature.
_MOST_RESTARTS = 5


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
            Defaults to `30.0`.
        retries: How often a request is made again while the server is unavailable,
            with growing pauses of at most 2 s. Defaults to `8`.
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
        if isinstance(max_batch_size, bool) or max_batch_size < 1:
            raise ValueError(
                "Invalid value for argument `max_batch_size`. Expected an integer of "
                f"at least 1. Received: {max_batch_size!r}"
            )
        Deadline(timeout)
        self._target = _target(model, version)
        self._timeout = timeout
        self._backoff = Backoff(retries)
        self._max_batch_size = max_batch_size
        self._address = address
        self._transport = connect(address)
        self._catalogue = Catalogue(self._transport, self._backoff)

    def predict(
        self,
        images: Inputs,
        *,
        signature: str = "serving_default",
        version: int | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """Runs a signature on a batch.

        Args:
            images: `(batch, height, width, channels)`, float32 pixels in [0, 1], for
                the usual signatures; a list of PNG or JPEG files as bytes for one that
                takes encoded images; a dictionary for one of several inputs. Floats
                and integers are cast to the width that the signature has.
            signature: The signature's name. Defaults to `"serving_default"`.
            version: One version, or `None` for the client's. Defaults to `None`.
            timeout: The deadline in seconds, or `None` for the client's. Defaults to
                `None`.

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
        target = self._target_of(version)
        deadline = self._deadline(timeout)
        for _ in range(_MOST_RESTARTS):
            served = self._catalogue.signature(target, signature, deadline)
            try:
                arrays = to_inputs(images, served)
            except (TypeError, ValueError):
                if not self._catalogue.has_changed(target, signature, served, deadline):
                    raise
                continue
            try:
                return self._predict(target, signature, served, arrays, deadline)
            except InvalidArgumentError as error:
                if not self._catalogue.has_changed(target, signature, served, deadline):
                    raise with_expectation(error, signature, served, arrays) from error
            except _ChangedError:
                self._catalogue.forget(target)
            except NotFoundError as error:
                raise self._catalogue.explain(error, target, deadline) from error
        raise ServingError(
            f"the versions or outputs of {target} kept changing", code="ABORTED"
        )

    def signatures(
        self, *, version: int | None = None, timeout: float | None = None
    ) -> Metadata:
        """Asks which signatures the model has.

        Args:
            version: One version, or `None` for the client's. Defaults to `None`.
            timeout: The deadline in seconds, or `None` for the client's. Defaults to
                `None`.

        Returns:
            The version and its signatures by name.

        Raises:
            NotFoundError: If there is no such model or version.
            ServingError: As `predict` does.
        """
        return self._catalogue.refresh(
            self._target_of(version), self._deadline(timeout)
        )

    def status(self, *, timeout: float | None = None) -> list[VersionStatus]:
        """Asks which versions there are and whether they are served.

        Args:
            timeout: The deadline in seconds, or `None` for the client's. Defaults to
                `None`.

        Returns:
            One entry per version that the server knows.

        Raises:
            NotFoundError: If there is no such model.
            ServingError: As `predict` does.
        """
        return self._backoff.run(
            functools.partial(self._transport.status, self._target),
            self._deadline(timeout),
        )

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
        deadline = Deadline(timeout)
        attempt, seen = 1, "nothing"
        while (seconds := deadline.remaining()) > 0:
            try:
                states = self._transport.status(self._target, seconds)
            except (UnavailableError, NotFoundError) as error:
                seen = str(error)
            else:
                versions = [s.version for s in states if s.state == "AVAILABLE"]
                if versions:
                    return max(versions)
                seen = describe_states(states)
            pause = self._backoff.pause(attempt)
            time.sleep(max(0.0, min(pause, deadline.remaining())))
            attempt += 1
        raise DeadlineExceededError(
            f"{self._target} is not available after {timeout:g} s: {seen}",
            attempts=attempt,
        )

    def close(self) -> None:
        """Closes all connections. The client cannot be used afterwards."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._address!r}, {self._target.model!r})"

    def _target_of(self, version: int | None) -> Target:
        if version is None:
            return self._target
        return _target(self._target.model, version)

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self._timeout if timeout is None else timeout)

    def _predict(
        self,
        target: Target,
        name: str,
        served: Signature,
        arrays: dict[str, Array],
        deadline: Deadline,
    ) -> Answer:
        total = len(next(iter(arrays.values())))
        step = self._max_batch_size
        pinned = target
        if total > step and target.version is None:
            pinned = _target(
                target.model, self._catalogue.refresh(target, deadline).version
            )
        parts: list[tuple[int, Outputs]] = []
        answered: int | None = None
        for start in range(0, total, step):
            part = {key: array[start : start + step] for key, array in arrays.items()}
            ask = functools.partial(self._transport.predict, pinned, name, served, part)
            try:
                outputs, answered = self._backoff.run(ask, deadline)
            except NotFoundError as error:
                if pinned == target:
                    raise
                raise _ChangedError(error.message) from error
            if set(outputs) != set(served.outputs):
                raise _ChangedError("other outputs")
            parts.append((min(step, total - start), outputs))
        return Answer(join(parts), pinned.version if answered is None else answered)


class _ChangedError(ServingError):
    """The version of the first part of a batch is gone, or has other outputs."""


def _target(model: str, version: int | None) -> Target:
    if version is not None and (isinstance(version, bool) or version < 0):
        raise ValueError(
            "Invalid value for argument `version`. Expected an integer of at least 0. "
            f"Received: {version!r}"
        )
    return Target(model, version)
