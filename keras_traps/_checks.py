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

Bounds = tuple[float, float]
"""The least and the largest value of a pixel, as a model takes it."""


class KnowsBounds:
    """A layer that was made for pixels of some range, in its attribute `bounds`."""

    bounds: Bounds


# So few images may all be alike.
_SOME = 32

UNIT: Bounds = (0.0, 1.0)
"""The bounds of who says nothing of them."""

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


def check_bounds(bounds: object, *, name: str = "bounds") -> Bounds:
    """Returns the range of pixels as two floats, the second above the first."""
    values = np.asarray(bounds).ravel().tolist() if bounds is not None else []
    if not (len(values) == 2 and all(map(is_number, values)) and values[0] < values[1]):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected two numbers, the least and "
            f"the largest value of a pixel, such as (0, 255). Received: {bounds!r}"
        )
    return float(values[0]), float(values[1])


def check_images(
    images: npt.ArrayLike,
    shape: Sequence[int | None] | None = None,
    *,
    bounds: Bounds = UNIT,
    name: str = "images",
) -> FloatArray:
    """Returns images as a float32 array, or says what is wrong with them.

    They are `(batch, ...)`, in `bounds`, and of `shape`, whose `None` entries fit any
    size; integers only where the bounds are integers, more than 2 apart. There is no
    copy where they were float32.
    """
    low, high = bounds
    pixels = f"pixels in [{low:g}, {high:g}]"
    array = np.asarray(images)
    if array.dtype.name == "bfloat16":
        # To NumPy it is no floating point.
        array = array.astype(np.float32)
    if array.dtype.kind == "O":
        # NumPy makes one object of what it cannot read as numbers.
        raise TypeError(
            f"Invalid value for argument `{name}`. Expected an array of {pixels}. "
            f"Received: {type(images).__name__}, dtype=object"
        )
    if array.dtype.kind != "f" and not _takes_integers(array.dtype.name, bounds):
        raise TypeError(
            f"Invalid value for argument `{name}`. Expected floating point {pixels}; "
            "divide integer pixels by 255, or pass the range that the model was "
            f"trained on, bounds=(0, 255). Received: dtype={array.dtype}"
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
    least, largest = array.min(), array.max()
    # A NaN makes both of them NaN, and the comparison false.
    if not (least >= low and largest <= high):
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected finite {pixels}; a model "
            "of another range is taken with `bounds`. "
            f"Received: minimum {least}, maximum {largest}."
        )
    return array.astype(np.float32, copy=False)


def check_range_is_used(
    images: FloatArray, bounds: Bounds, *, name: str = "images"
) -> None:
    """Refuses images that all lie in a fiftieth of the range of a pixel."""
    if len(images) < _SOME:
        # A few may be black.
        return
    low, high = bounds
    least, largest = images.min(), images.max()
    if largest - least < (high - low) / 50:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected images that use the range "
            f"of pixels, {low:g} to {high:g}: were they divided twice, or are the "
            "bounds another model's? Received images that reach from "
            f"{least:g} to {largest:g}."
        )


def _takes_integers(dtype: str, bounds: Bounds) -> bool:
    # In a range of 1 or 2 they are black, grey and white: more likely one forgotten.
    whole = all(float(bound).is_integer() for bound in bounds)
    return "int" in dtype and whole and bounds[1] - bounds[0] > 2


def check_floating(dtype: str, *, bounds: Bounds = UNIT, name: str = "images") -> None:
    """Refuses pixels that are neither floating point nor integers of integer bounds."""
    if "float" not in dtype and not _takes_integers(dtype, bounds):
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
    at_most: float = math.inf,
) -> None:
    """Refuses what is no number, or one that is not finite or out of its range."""
    if is_number(value) and above < value < below and at_least <= value <= at_most:
        return
    limits = {
        "above": above,
        "of at least": at_least,
        "below": below,
        "at most": at_most,
    }
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
