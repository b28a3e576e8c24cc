"""What can go wrong between a client and a model server, one class per case."""

from typing import Any


class ServingError(Exception):
    """A call to a model server failed.

    Args:
        message: What went wrong, in a sentence.
        code: The canonical status name, e.g. `"INTERNAL"`.
        attempts: How many times the call was tried.
    """

    default_code = "UNKNOWN"

    def __init__(
        self, message: str, *, code: str | None = None, attempts: int = 1
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.attempts = attempts

    def __str__(self) -> str:
        tries = f" ({self.attempts} attempts)" if self.attempts > 1 else ""
        return f"{self.code}: {self.message}{tries}"

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception's own way to be pickled drops keyword arguments.
        state = {"code": self.code, "attempts": self.attempts}
        return type(self), (self.message,), state


class InvalidArgumentError(ServingError, ValueError):
    """The server refused the inputs: their names, shape or type."""

    default_code = "INVALID_ARGUMENT"


class NotFoundError(ServingError, LookupError):
    """The server has no such model, version or signature."""

    default_code = "NOT_FOUND"


class DeadlineExceededError(ServingError, TimeoutError):
    """No answer came within the call's deadline."""

    default_code = "DEADLINE_EXCEEDED"


class UnavailableError(ServingError, ConnectionError):
    """The server could not be reached, or said that it cannot answer now."""

    default_code = "UNAVAILABLE"


class ResponseError(ServingError):
    """What came back is not an answer of the TensorFlow Serving API."""

    default_code = "DATA_LOSS"


_BY_CODE: dict[str, type[ServingError]] = {
    error.default_code: error
    for error in (
        InvalidArgumentError,
        NotFoundError,
        DeadlineExceededError,
        UnavailableError,
    )
}


def error_of(code: str, message: str) -> ServingError:
    """Returns the exception for a status that a server sent.

    Args:
        code: The canonical status name, e.g. `"INVALID_ARGUMENT"`.
        message: The server's message.
    """
    return _BY_CODE.get(code, ServingError)(message, code=code)
