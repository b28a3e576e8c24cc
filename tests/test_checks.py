import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_traps._checks import (
    check_count,
    check_distinct,
    check_flag,
    check_ids,
    check_images,
    check_labels,
    check_number,
    check_share,
    is_integer,
    is_number,
)


@pytest.mark.parametrize("shape", [(3, 4), (None, 4), None])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_images_become_float32_and_are_copied_only_then(dtype: str, shape: Any) -> None:
    images = tf.cast(np.linspace(0, 1, 24).reshape(2, 3, 4), dtype).numpy()
    result = check_images(images, shape)
    assert result.dtype == np.float32
    assert (result is images) == (dtype == "float32")
    np.testing.assert_array_equal(result, images.astype(np.float32))


@pytest.mark.parametrize("dtype", ["uint8", "object"])
def test_images_that_are_not_floats_are_refused(dtype: str) -> None:
    with pytest.raises(TypeError, match=rf"argument `suspects`.*{dtype}"):
        check_images(np.zeros((2, 3), dtype), name="suspects")


def test_images_of_another_shape_or_none_are_refused() -> None:
    images = np.zeros((3, 4, 4), np.float32)
    for shape in ((4,), (5, None)):
        with pytest.raises(ValueError, match=r"Expected images of shape.*\(3, 4, 4\)"):
            check_images(images, shape)
    with pytest.raises(ValueError, match="at least one image"):
        check_images(images[:0])


@pytest.mark.parametrize("pixel", [np.nan, -1e-6, 1 + 1e-6])
def test_a_pixel_outside_0_and_1_is_refused(pixel: float) -> None:
    images = np.full((3, 4, 4), 0.5)
    images[1, 2, 3] = pixel
    with pytest.raises(ValueError, match=r"argument `images`.*finite pixels in \[0, 1"):
        check_images(images)


def test_labels_and_ids_become_int64() -> None:
    largest = np.iinfo(np.int64).max
    for result, expected in (
        (check_labels(np.array([2, 0, 1], np.uint8), 3, 3), [2, 0, 1]),
        (check_ids(np.array([largest, 0], np.uint64), 2), [largest, 0]),
    ):
        assert result.dtype == np.int64
        assert result.tolist() == expected


@pytest.mark.parametrize(
    ("labels", "error", "expected"),
    [
        (np.eye(3, dtype=int), ValueError, r"argument `y`.*not one-hot rows"),
        (np.ones(3, "float32"), TypeError, r"argument `y`.*integer class ids"),
        (np.ones(3, bool), TypeError, r"argument `y`.*integer class ids"),
        (np.zeros((3, 1), int), ValueError, r"Expected shape \(3,\)"),
        ([0, -1, 2], ValueError, "from 0 to 2. Received.*-1"),
        ([0, 3, 2], ValueError, "from 0 to 2. Received.*3"),
    ],
)
def test_what_are_no_labels_is_refused(
    labels: Any, error: type[Exception], expected: str
) -> None:
    with pytest.raises(error, match=expected):
        check_labels(np.asarray(labels), 3, 3)


@pytest.mark.parametrize("ids", [[0, -1], np.array([0, 2**63], np.uint64)])
def test_numbers_of_examples_out_of_range_are_named_as_such(ids: Any) -> None:
    with pytest.raises(ValueError, match=r"`ids`. Expected numbers from 0 to .*from"):
        check_ids(ids, 2)


@pytest.mark.parametrize(
    ("value", "number", "integer"),
    [
        (np.int8(1), True, True),
        (np.float32(0.5), True, False),
        (math.nan, False, False),
        (np.bool_(True), False, False),
        ("1", False, False),
        (1j, False, False),
    ],
)
def test_numbers_and_integers_are_told_from_other_things(
    value: object, number: bool, integer: bool
) -> None:
    assert is_number(value) is number
    assert is_integer(value) is integer


@pytest.mark.parametrize("value", [0, 1, np.nan, "0.5", True])
def test_another_share_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=rf"argument `fpr`.*fpr={value!r}"):
        check_share(value, name="fpr")
    half: Any = np.float32(0.5)
    assert type(check_share(half, name="fpr")) is float


@pytest.mark.parametrize(
    ("value", "limits", "expected"),
    [
        (np.nan, {}, "a finite number. Received"),
        (-1e-9, {"at_least": 0.0}, "a finite number of at least 0. Received"),
        (1.0, {"below": 1.0}, "a finite number below 1. Received"),
        (0, {"above": 0.0, "below": 0.5}, "above 0 and below 0.5. Received"),
        (True, {"above": 0.0}, "a finite number above 0. Received"),
    ],
)
def test_a_number_out_of_its_limits_is_refused(
    value: Any, limits: dict[str, float], expected: str
) -> None:
    with pytest.raises(ValueError, match=f"argument `a0`.*{expected}: a0={value!r}"):
        check_number(value, name="a0", **limits)


def test_counts_and_flags_are_told_from_other_things() -> None:
    wrong: Any = np.int64(1)
    check_count("n", wrong)
    check_flag("on", False)
    for wrong in (2.0, True, "1", math.nan):
        with pytest.raises(ValueError, match=f"argument `n`.*an integer.*n={wrong!r}"):
            check_count("n", wrong)
    with pytest.raises(ValueError, match=r"argument `n`.*at least 1.*n=0"):
        check_count("n", 0)
    wrong = 1
    with pytest.raises(ValueError, match=r"argument `on`.*`False`.*on=1"):
        check_flag("on", wrong)


@pytest.mark.parametrize("names", [[], ["a", "b", "a"]])
def test_names_that_are_none_or_come_twice_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="argument `attacks`"):
        check_distinct("attacks", names)
