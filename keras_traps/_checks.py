"""Checks of what users pass in: images, labels, numbers.

Each raises a `TypeError` for another kind of thing and a `ValueError` for a value out
of its range. `name` is the argument's name in the caller.
"""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


def check_images(
    images: npt.ArrayLike,
    shape: Sequence[int | None] | None = None,
    *,
    name: str = "images",
) -> FloatArray:
    """Returns images as a float32 array, or says what is wrong with them.

    They are `(batch, ...)`, floating point, in [0, 1], and of `shape`, whose `None`
    entries fit any size. There is no copy where they were float32.
    """
    array = np.asarray(images)
    if array.dtype.name == "bfloat16":
        # To NumPy it is no floating point.
        array = array.astype(np.float32)
    if array.dtype.kind == "O":
        # NumPy makes one object of what it cannot read as numbers.
        raise TypeError(
            f"Invalid value for argument `{name}`. Expected an array of floating point "
            f"pixels in [0, 1]. Received: {type(images).__name__}, dtype=object"
        )
    if array.dtype.kind != "f":
        raise TypeError(
            f"Invalid value for argument `{name}`. Expected floating point pixels in "
            f"[0, 1]; divide integer pixels by 255. Received: dtype={array.dtype}"
        )
    if shape is not None and not _fits(array.shape[1:], shape):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected images of shape (batch, "
            f"{', '.join(str(size) for size in shape)}). Received: shape={array.shape}"
        )
    if array.size == 0:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected at least one image. "
            f"Received: shape={array.shape}"
        )
    low, high = array.min(), array.max()
    # A NaN makes both of them NaN, and the comparison false.
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected finite pixels in [0, 1]. "
            f"Received: minimum {low}, maximum {high}."
        )
    return array.astype(np.float32, copy=False)


def check_floating(dtype: str, *, name: str = "images") -> None:
    """Refuses pixels whose dtype is not floating point."""
    if "float" not in dtype:
        raise TypeError(
            f"Invalid value for argument `{name}`. Expected floating point pixels. "
            f"Received: dtype={dtype}"
        )


def check_labels(
    labels: npt.ArrayLike, count: int, num_classes: int, *, name: str = "y"
) -> IntArray:
    """Returns labels in [0, num_classes) as an int64 array `(count,)`."""
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == num_classes:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected integer class ids of shape "
            f"({count},), not one-hot rows. Received: shape={array.shape}"
        )
    return _check_integers(array, count, num_classes - 1, name=name, what="class ids")


def check_ids(ids: npt.ArrayLike, count: int, *, name: str = "ids") -> IntArray:
    """Returns the numbers of examples as an int64 array `(count,)`."""
    largest = int(np.iinfo(np.int64).max)
    return _check_integers(np.asarray(ids), count, largest, name=name, what="numbers")


def check_share(value: float, *, name: str) -> float:
    """Returns a share strictly between 0 and 1 as a float."""
    if not (is_number(value) and 0 < value < 1):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a number between 0 and 1. "
            f"Received: {name}={value!r}"
        )
    return float(value)


def is_number(value: object) -> bool:
    """Tells whether a value is a finite number.

    NumPy's numbers are some; truth values are none.
    """
    if isinstance(value, bool):
        return False
    return isinstance(value, numbers.Real) and math.isfinite(value)


def is_integer(value: object) -> bool:
    """Tells whether a value is an integer.

    NumPy's integers are some; truth values are none, and nor is `2.0`.
    """
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_number(
    value: float,
    *,
    name: str,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
) -> None:
    """Refuses what is no number, or one that is not finite or out of its range."""
    if is_number(value) and above < value < below and value >= at_least:
        return
    limits = {"above": above, "of at least": at_least, "below": below}
    words = [
        f" {word} {limit:g}" for word, limit in limits.items() if abs(limit) < math.inf
    ]
    raise ValueError(
        f"Invalid value for argument `{name}`. Expected a finite number"
        f"{' and'.join(words)}. Received: {name}={value!r}"
    )


def check_count(name: str, value: float, *, at_least: int = 1) -> None:
    """Refuses what is not an integer, or too small."""
    if not is_integer(value):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected an integer. "
            f"Received: {name}={value!r}"
        )
    if value < at_least:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected at least {at_least}. "
            f"Received: {name}={value}"
        )


def check_positive(name: str, value: float) -> None:
    """Refuses a hyper-parameter that is not a finite number above 0."""
    check_number(value, name=name, above=0)


def check_flag(name: str, value: bool) -> None:
    """Refuses a hyper-parameter that is neither `True` nor `False`."""
    if not isinstance(value, bool):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected `True` or `False`. "
            f"Received: {name}={value!r}"
        )


def check_distinct(argument: str, names: Sequence[str]) -> None:
    """Refuses no names at all, and a name that comes twice."""
    # Records and counts are kept by these names: two of one name would share theirs.
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected at least one, and none "
            f"twice. Received: {', '.join(names) or 'none'}"
        )


def _check_integers(
    array: npt.NDArray[Any], count: int, largest: int, *, name: str, what: str
) -> IntArray:
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"Invalid value for argument `{name}`. Expected integer {what}. "
            f"Received: dtype={array.dtype}"
        )
    if array.shape != (count,):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected shape ({count},). "
            f"Received: shape={array.shape}"
        )
    if array.size and (array.min() < 0 or array.max() > largest):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected {what} from 0 to "
            f"{largest}. Received {what} from {array.min()} to {array.max()}."
        )
    return array.astype(np.int64, copy=False)


def _fits(actual: Sequence[int], expected: Sequence[int | None]) -> bool:
    return len(actual) == len(expected) and all(
        size is None or size == got for size, got in zip(expected, actual, strict=True)
    )
