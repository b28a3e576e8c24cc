"""What the client and its two ways to a server share: errors, specs and arrays."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Inputs: TypeAlias = npt.ArrayLike | Sequence[bytes] | Mapping[str, npt.ArrayLike]
Outputs: TypeAlias = dict[str, Array]

# By the names of tensorflow.DataType, without their prefix DT_.
_DTYPES = {
    "FLOAT": "float32",
    "DOUBLE": "float64",
    "HALF": "float16",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "BOOL": "bool",
    "STRING": "string",
}

# What is cast without a change of the values, or refused for its range.
_KINDS = {"f": "f", "i": "iu", "u": "iu", "b": "b"}

_PASSED = "Invalid value for argument `images`."

# About 24 days. A socket waits for milliseconds of 32 bits: of more it takes what is
# left after they overflow, which may be no time at all.
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
    """Returns the exception for a status that a server sent."""
    return _BY_CODE.get(code, ServingError)(message, code=code)


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """The type and shape of an input or output.

    Args:
        dtype: NumPy's name of it, or `"string"`.
        shape: `None` for a size that is free; the whole is `None` if the rank is.
    """

    dtype: str
    shape: tuple[int | None, ...] | None

    @classmethod
    def of(cls, dtype: str, sizes: Sequence[int] | None) -> "TensorSpec":
        """Makes one of a type's name, such as `"DT_FLOAT"`, and sizes, -1 for free."""
        known = _DTYPES.get(dtype.removeprefix("DT_"))
        if known is None:
            raise ValueError(f"tensors of type {dtype} are not supported")
        if sizes is None:
            return cls(known, None)
        return cls(known, tuple(None if size < 0 else size for size in sizes))

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


def to_inputs(images: Inputs, signature: Signature) -> dict[str, Array]:
    """Returns what a caller passed as arrays of a signature's names and dtypes.

    Shapes are left to the server, which knows them best.
    """
    expected = signature.inputs
    if not isinstance(images, Mapping):
        if len(expected) != 1:
            raise ValueError(
                f"{_PASSED} Expected a dictionary with the keys {sorted(expected)}. "
                f"Received: {type(images).__name__}"
            )
        images = dict.fromkeys(expected, images)
    if set(images) != set(expected):
        raise ValueError(
            f"{_PASSED} Expected the keys {sorted(expected)}. "
            f"Received: {sorted(images)}"
        )
    arrays = {name: _to_array(value, expected[name]) for name, value in images.items()}
    sizes = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
    if len(sizes) != 1 or 0 in sizes:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise ValueError(
            f"{_PASSED} Expected at least one image, and as many in every input. "
            f"Received: shapes {shapes}"
        )
    return arrays


def _to_array(value: Any, spec: TensorSpec) -> Array:
    if spec.dtype == "string":
        return _to_strings(value)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(
            f"{_PASSED} Expected images of one shape. Received: {error}"
        ) from error
    dtype = spec.numpy_dtype
    if array.dtype.kind not in _KINDS[dtype.kind]:
        hint = "; divide integer pixels by 255" if dtype.kind == "f" else ""
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
    """Puts the outputs of parts of a batch together, each with its size.

    Text is decoded, but not in outputs whose name ends in `_bytes`.
    """
    for size, outputs in chunks:
        for name, array in outputs.items():
            if len(chunks) > 1 and array.shape[:1] != (size,):
                raise ResponseError(
                    f"expected one row per example in output {name!r} for a batch of "
                    f"{size}, received shape {array.shape}; such a signature is "
                    "called with a `max_batch_size` of the whole batch"
                )
    joined = {}
    for name in chunks[0][1]:
        parts = [outputs[name] for _, outputs in chunks]
        array = np.concatenate(parts) if len(parts) > 1 else parts[0]
        is_text = array.dtype == object and not name.endswith("_bytes")
        joined[name] = _decoded(array) if is_text else array
    return joined


def _decoded(array: Array) -> Array:
    texts = [
        value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        for value in array.ravel()
    ]
    return np.array(texts, dtype=np.str_).reshape(array.shape)


def describe(arrays: Mapping[str, Array]) -> str:
    """Returns names, dtypes and shapes for a message."""
    return ", ".join(
        f"{name!r}: {'string' if array.dtype == object else array.dtype} {array.shape}"
        for name, array in arrays.items()
    )
