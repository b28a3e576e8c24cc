"""What the client and its two ways to a server share: errors, specs and arrays."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from google.protobuf import json_format
from google.protobuf.message import DecodeError

Array = npt.NDArray[Any]
Inputs: TypeAlias = npt.ArrayLike | Sequence[bytes] | Mapping[str, npt.ArrayLike]
Outputs: TypeAlias = dict[str, Array]

# What is cast without a change of the values, or refused for its range.
_KINDS = {"f": "f", "i": "iu", "u": "iu", "b": "b"}

_PASSED = "Invalid value for argument `images`."

# About 24 days: a socket waits for milliseconds of 32 bits, and more overflow.
_LONGEST_SECONDS = (2**31 - 1) // 1000


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


def error_of(code: str, message: str) -> ServingError:
    """Returns the exception for a status that a server sent."""
    known = InvalidArgumentError, NotFoundError, DeadlineExceededError, UnavailableError
    kinds = {kind.default_code: kind for kind in known}
    return kinds.get(code, ServingError)(message, code=code)


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """The type and shape of an input or output.

    Args:
        dtype: NumPy's name of it, or `"string"`.
        shape: `None` for a size that is free; the whole is `None` if the rank is.
    """

    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype} of any shape"
        sizes = ["?" if size is None else str(size) for size in self.shape]
        if self.shape and self.shape[0] is None:
            sizes[0] = "batch"
        return f"{self.dtype} ({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype of an array that holds such a tensor."""
        return np.dtype(object if self.dtype == "string" else self.dtype)


@dataclasses.dataclass(frozen=True)
class Signature:
    """One entry point of a served model.

    Args:
        inputs: By name.
        outputs: By name.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a server says about one version of a model.

    Args:
        version: The version.
        signatures: By name.
    """

    version: int
    signatures: Mapping[str, Signature]


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """Where a version of a model stands.

    Args:
        version: The version.
        state: `"START"`, `"LOADING"`, `"AVAILABLE"`, `"UNLOADING"` or `"END"`.
        error: Why it could not be loaded, or an empty string.
    """

    version: int
    state: str
    error: str = ""

    def __str__(self) -> str:
        return f"{self.version} {self.state}{f' ({self.error})' if self.error else ''}"


class Answer(dict[str, Array]):
    """The outputs of a signature by name.

    Args:
        outputs: By name, `(batch, ...)`.
        version: The version that gave them, or `None` where the server does not say:
            over REST, unless a version was asked for or the batch was split.
    """

    def __init__(self, outputs: Outputs, version: int | None) -> None:
        super().__init__(outputs)
        self.version = version


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Says with a `ResponseError` that a part of an answer has another form."""
    try:
        yield
    except (
        *(AttributeError, KeyError, OverflowError, TypeError, ValueError),
        *(DecodeError, json_format.Error),
    ) as error:
        raise ResponseError(f"{what} cannot be read ({error!r})") from error


class Deadline:
    """A moment, so many seconds from now, after which a call is given up."""

    def __init__(self, seconds: float) -> None:
        if not 0 < seconds <= _LONGEST_SECONDS:
            raise ValueError(
                "Invalid value for argument `timeout`. Expected seconds greater than "
                f"0 and at most {_LONGEST_SECONDS}. Received: timeout={seconds}"
            )
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Returns the seconds until then; negative when it has passed."""
        return self._end - time.monotonic()


def read_signatures(definitions: Mapping[str, Any]) -> dict[str, Signature]:
    """Reads `SignatureDef`s by name, but for those that are TensorFlow's own."""

    def read(tensor: Any) -> TensorSpec:
        dtype = tf.as_dtype(tensor.dtype)
        if np.dtype(dtype.as_numpy_dtype).kind not in "biuf" and dtype != tf.string:
            raise ValueError(f"tensors of type {dtype.name} are not supported")
        shape = tf.TensorShape(tensor.tensor_shape)
        return TensorSpec(dtype.name, None if shape.rank is None else tuple(shape))

    return {
        name: Signature(
            {key: read(tensor) for key, tensor in value.inputs.items()},
            {key: read(tensor) for key, tensor in value.outputs.items()},
        )
        for name, value in definitions.items()
        if not name.startswith("__")
    }


def to_inputs(images: Inputs, signature: Signature) -> dict[str, Array]:
    """Returns what a caller passed as arrays of a signature's names and dtypes."""
    expected = signature.inputs
    if not isinstance(images, Mapping) and len(expected) == 1:
        images = dict.fromkeys(expected, images)
    if not isinstance(images, Mapping) or set(images) != set(expected):
        got = sorted(images) if isinstance(images, Mapping) else type(images).__name__
        raise ValueError(
            f"{_PASSED} Expected a dictionary with the keys {sorted(expected)}. "
            f"Received: {got}"
        )
    arrays = {name: _to_array(value, expected[name]) for name, value in images.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    sizes = {shape[:1] for shape in shapes.values()}
    if len(sizes) != 1 or sizes <= {(), (0,)}:
        raise ValueError(
            f"{_PASSED} Expected at least one image, and as many in every input. "
            f"Received: shapes {shapes}"
        )
    return arrays


def _to_array(value: Any, spec: TensorSpec) -> Array:
    if spec.dtype == "string":
        return _to_strings(value)
    array = np.asarray(value)
    dtype = spec.numpy_dtype
    if array.dtype.kind not in _KINDS[dtype.kind]:
        hint = "; divide integer pixels by 255, or pass them as floats to a model of "
        hint = f"{hint}bounds 0 and 255" if dtype.kind == "f" else ""
        raise TypeError(
            f"{_PASSED} Expected {spec}{hint}. Received: dtype={array.dtype}"
        )
    if dtype.kind in "iu" and array.size:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        if array.min() < low or array.max() > high:
            raise ValueError(
                f"{_PASSED} Expected {spec}, from {low} to {high}. "
                f"Received values from {array.min()} to {array.max()}."
            )
    return array.astype(dtype, copy=False)


def _to_strings(value: Any) -> Array:
    is_one = isinstance(value, bytes | str)
    wrong = [value] if is_one else [v for v in value if not isinstance(v, bytes | str)]
    if wrong:
        raise TypeError(
            f"{_PASSED} Expected a list of encoded images, each bytes. "
            f"Received: {type(wrong[0]).__name__}"
        )
    return np.array([v.encode() if isinstance(v, str) else v for v in value], object)


def join(chunks: Sequence[tuple[int, Outputs]]) -> Outputs:
    """Puts the outputs of parts, each with its size, together, and decodes text."""
    joined = {}
    for name, array in chunks[0][1].items():
        if len(chunks) > 1:
            for size, outputs in chunks:
                if (shape := outputs[name].shape)[:1] != (size,):
                    raise ResponseError(
                        f"expected one row per example in output {name!r}, received "
                        f"shape {shape}; raise `max_batch_size` to that of the whole "
                        "batch"
                    )
            array = np.concatenate([outputs[name] for _, outputs in chunks])
        if array.dtype == object and not name.endswith("_bytes"):
            array = np.char.decode(array.astype(np.bytes_), "utf-8", "replace")
        joined[name] = array
    return joined
