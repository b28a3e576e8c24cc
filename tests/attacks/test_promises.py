import re
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_traps.attacks.loop import watched
from keras_traps.attacks.promises import check_result, naming_examples
from tests.attacks.victims import some_images

IMAGES = some_images(3)
IDS = np.array([10, 11, 12])


def check(images: Any, ids: Any = IDS, **bounds: float | None) -> None:
    both = {"linf_bound": None, "l2_bound": None, **bounds}
    clean = np.resize(IMAGES, images.shape)
    check_result("It", clean, images.astype(np.float32), ids, **both)


def moved(by: float) -> Any:
    """Returns the images, with one pixel of the last two moved."""
    images = IMAGES.astype(np.float64)
    images[1:, 0, 1] += by
    return images


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_images_that_are_not_finite_are_named_as_such(value: float) -> None:
    expected = "It gave images that are not finite, at the examples [11 12]."
    with pytest.raises(RuntimeError, match=re.escape(expected) + "$"):
        check(moved(value), linf_bound=0.1)


@pytest.mark.parametrize("by", [1, -1])
def test_images_that_leave_their_range_are_named(by: float) -> None:
    expected = r"It left \[0, 1\] at the examples \[11 12\]: its images reach from "
    with pytest.raises(RuntimeError, match=expected):
        check(moved(by))


@pytest.mark.parametrize(
    ("bound", "ball"), [("linf_bound", "ball"), ("l2_bound", "L2 ball")]
)
def test_images_that_leave_their_ball_are_named(bound: str, ball: str) -> None:
    expected = rf"It left its {ball} of radius 0.1 at the examples \[11 12\]: .* by 0.2"
    with pytest.raises(RuntimeError, match=expected):
        check(moved(0.201), **{bound: 0.1})


def test_of_many_examples_the_first_and_the_last_are_named() -> None:
    images = np.full((100, 2, 3, 1), 2.0)
    with pytest.raises(RuntimeError, match=r"examples \[0 1 2 3 \.\.\. 96 97 98 99\]"):
        check(images, np.arange(100))


@pytest.mark.parametrize("by", [0.1, -0.1, 0.0])
def test_rounding_is_not_held_against_an_attack(by: float) -> None:
    check(moved(by), linf_bound=abs(by), l2_bound=abs(by))
    everywhere = IMAGES + np.float32(by)
    check(everywhere, l2_bound=abs(by) * float(np.sqrt(6)))


@pytest.mark.parametrize("compiled", [True, False])
def test_an_example_in_many_rows_is_named_once(compiled: bool) -> None:
    def gradient(images: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(images)
            roots = watched(tf.sqrt, ids)(images)
        return tape.gradient(roots, images)

    ids = tf.constant([10, 10, 11, 12, 11, 10], tf.int64)
    expected = r"It: The gradient .* not finite, at the examples \[10 11 12\]\.$"
    take = tf.function(gradient) if compiled else gradient
    with pytest.raises(RuntimeError, match=expected), naming_examples("It"):
        take(tf.zeros((6, 2, 3, 1)))


def test_of_many_examples_the_first_are_named() -> None:
    take = tf.function(watched(tf.sqrt, tf.range(100, dtype=tf.int64)))
    expected = r"at the examples \[0 1 2 3 4 5 6 7\.\.\.\]\.$"
    with pytest.raises(RuntimeError, match=expected), naming_examples("It"):
        tf.function(lambda images: tf.gradients(take(images), images))(
            tf.zeros((100, 6))
        )


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError), naming_examples("It"):
        tf.debugging.Assert(tf.constant(False), ["another"])
