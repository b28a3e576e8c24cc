"""What a client knows of the signatures of its model."""

import functools
from collections.abc import Iterable, Mapping

from keras_traps.serving.client.arrays import describe
from keras_traps.serving.client.errors import (
    InvalidArgumentError,
    NotFoundError,
    ServingError,
)
from keras_traps.serving.client.retries import Backoff, Deadline
from keras_traps.serving.client.signatures import (
    Array,
    Metadata,
    Signature,
    Target,
    Transport,
    VersionStatus,
)


class Catalogue:
    """Keeps the signatures that a server told, until they turn out to be old.

    Args:
        transport: The way to the server.
        backoff: How requests are made again.
    """

    def __init__(self, transport: Transport, backoff: Backoff) -> None:
        self._transport = transport
        self._backoff = backoff
        self._known: dict[Target, Metadata] = {}

    def refresh(self, target: Target, deadline: Deadline) -> Metadata:
        """Asks the server, whatever is known.

        Args:
            target: The model and its version.
            deadline: Of the call.

        Returns:
            The version and its signatures.

        Raises:
            NotFoundError: If there is no such model or version; the message has the
                versions that there are.
            ServingError: If the server fails in another way.
        """
        ask = functools.partial(self._transport.metadata, target)
        try:
            metadata = self._backoff.run(ask, deadline)
        except NotFoundError as error:
            raise self.explain(error, target, deadline) from error
        self._known[target] = metadata
        return metadata

    def signature(self, target: Target, name: str, deadline: Deadline) -> Signature:
        """Returns a signature, which the server is asked for once.

        Args:
            target: The model and its version.
            name: The signature's name.
            deadline: Of the call.

        Raises:
            NotFoundError: If there is no such model, version or signature.
            ServingError: If the server fails in another way.
        """
        known = self._known.get(target)
        if known is None or name not in known.signatures:
            known = self.refresh(target, deadline)
        if name not in known.signatures:
            raise NotFoundError(
                f"no signature {name!r} in version {known.version} of model "
                f"{target.model!r}; it has {sorted(known.signatures)}"
            )
        return known.signatures[name]

    def forget(self, target: Target) -> None:
        """Drops what is known of a target, so that it is asked for again."""
        self._known.pop(target, None)

    def has_changed(
        self, target: Target, name: str, known: Signature, deadline: Deadline
    ) -> bool:
        """Returns whether the server now has another signature of this name.

        It is asked once. What led here says more than its failure would.
        """
        try:
            seconds = max(0.1, deadline.remaining())
            metadata = self._transport.metadata(target, seconds)
        except ServingError:
            return False
        self._known[target] = metadata
        return metadata.signatures.get(name) != known

    def explain(
        self, error: NotFoundError, target: Target, deadline: Deadline
    ) -> NotFoundError:
        """Returns the error with the state of the versions that there are."""
        try:
            seconds = max(0.1, deadline.remaining())
            states = self._transport.status(Target(target.model), seconds)
        except ServingError:
            return error
        message = f"{error.message}. Versions there: {describe_states(states)}"
        return NotFoundError(message, attempts=error.attempts)


def describe_states(states: Iterable[VersionStatus]) -> str:
    """Returns versions, their states and errors for a message."""
    texts = [
        f"{s.version} {s.state}{f' ({s.error})' if s.error else ''}" for s in states
    ]
    return ", ".join(texts) or "none"


def with_expectation(
    error: InvalidArgumentError,
    name: str,
    signature: Signature,
    inputs: Mapping[str, Array],
) -> InvalidArgumentError:
    """Returns the error with what the signature expects and what it was given.

    A server's own message may come from within the graph and name neither.
    """
    expected = ", ".join(f"{key!r}: {spec}" for key, spec in signature.inputs.items())
    return InvalidArgumentError(
        f"{error.message}. Signature {name!r} expects {expected}. "
        f"Received: {describe(inputs)}",
        attempts=error.attempts,
    )
