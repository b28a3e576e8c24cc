"""What a caller passes and gets: NumPy arrays that fit a signature."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from keras_traps.serving.client.errors import ResponseError
from keras_traps.serving.client.signatures import Array, Signature, TensorSpec

Inputs: TypeAlias = npt.ArrayLike | Sequence[bytes] | Mapping[str, npt.ArrayLike]
Outputs: TypeAlias = dict[str, Array]


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


# What is cast without a change of the values, or refused for its range.
_KINDS = {"f": "f", "i": "iu", "u": "iu", "b": "b"}

_PASSED = "Invalid value for argument `images`."


def to_inputs(images: Inputs, signature: Signature) -> dict[str, Array]:
    """Returns what a caller passed as arrays of a signature's names and dtypes.

    Shapes are left to the server, which knows them best.

    Args:
        images: An array for a signature of one input, or arrays by input name.
        signature: The signature.

    Returns:
        By name, `(batch, ...)`.

    Raises:
        TypeError: If a dtype is of another kind than the signature's, such as integers
            where float pixels are expected.
        ValueError: If names or batch sizes are wrong, or there is nothing to send.
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


def join(chunks: Sequence[tuple[int, Outputs]]) -> Outputs:
    """Puts the outputs of consecutive parts of a batch together.

    Args:
        chunks: The size and the outputs of each part.

    Returns:
        By name, `(batch, ...)`. Text is decoded, but not in outputs whose name ends in
        `_bytes`.

    Raises:
        ResponseError: If a part has not one row per example.
    """
    first = chunks[0][1]
    for size, outputs in chunks:
        for name, array in outputs.items():
            if len(chunks) > 1 and array.shape[:1] != (size,):
                raise ResponseError(
                    f"expected one row per example in output {name!r} for a batch of "
                    f"{size}, received shape {array.shape}; such a signature is "
                    "called with a `max_batch_size` of the whole batch"
                )
    joined = {}
    for name in first:
        parts = [outputs[name] for _, outputs in chunks]
        array = np.concatenate(parts) if len(parts) > 1 else parts[0]
        is_text = array.dtype == object and not name.endswith("_bytes")
        joined[name] = _decode(array) if is_text else array
    return joined


def describe(arrays: Mapping[str, Array]) -> str:
    """Returns names, dtypes and shapes for a message."""
    return ", ".join(
        f"{name!r}: {'string' if array.dtype == object else array.dtype} {array.shape}"
        for name, array in arrays.items()
    )


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
    if array.dtype == dtype:
        return array
    if array.dtype.kind not in _KINDS[dtype.kind]:
        hint = "; divide integer pixels by 255" if dtype.kind == "f" else ""
        raise TypeError(
            f"{_PASSED} Expected {spec}{hint}. Received: dtype={array.dtype}"
        )
    if dtype.kind == "f":
        return array.astype(dtype)
    if array.size:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        if array.min() < low or array.max() > high:
            raise ValueError(
                f"{_PASSED} Expected {spec}, from {low} to {high}. "
                f"Received values from {array.min()} to {array.max()}."
            )
    return array.astype(dtype)


def _to_strings(value: Any) -> Array:
    if isinstance(value, (bytes, str)):
        raise TypeError(
            f"{_PASSED} Expected a list of encoded images. "
            f"Received: {type(value).__name__}"
        )
    items = list(value)
    array = np.empty(len(items), object)
    for index, item in enumerate(items):
        if not isinstance(item, (bytes, str)):
            raise TypeError(
                f"{_PASSED} Expected a list of encoded images, each bytes. "
                f"Received: {type(item).__name__}"
            )
        array[index] = item.encode() if isinstance(item, str) else item
    return array


def _decode(array: Array) -> Array:
    texts = [
        value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        for value in array.ravel()
    ]
    return np.array(texts, dtype=np.str_).reshape(array.shape)
