import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps.attacks import Batch
from keras_traps.attacks.diversity import draw_variants, show_variants


@functools.cache
def model(side: int) -> keras.Model:
    image = keras.Input((side, side, 1))
    return keras.Model(image, keras.layers.Flatten()(image))


def batch(count: int, side: int = 5, seed: int = 0, first: int = 0) -> Batch:
    images = np.zeros((count, side, side, 1), np.float32)
    return Batch(
        model=model(side),
        loss="margin",
        images=images,
        labels=np.zeros(count, np.int64),
        ids=np.arange(first, first + count),
        seed=seed,
        background=images,
    )


@pytest.mark.parametrize("side", [3, 5, 28, 32])
@pytest.mark.parametrize(
    ("variant", "smaller", "top", "left"),
    [(1, 1, 0, 0), (2, 2, 0, 0), (3, 2, 0, 1), (4, 2, 1, 0), (5, 2, 1, 1)],
)
def test_a_variant_is_tensorflows_resize_and_pad(
    side: int, variant: int, smaller: int, top: int, left: int
) -> None:
    images = tf.random.stateless_uniform((2, side, side + 3, 3), seed=(0, side))
    size = (side - smaller, side + 3 - smaller)

    shown = show_variants(images, tf.constant([variant, 0]))

    resized = tf.raw_ops.ResizeNearestNeighbor(
        images=images[:1], size=size, align_corners=False, half_pixel_centers=False
    )
    padding = [(0, 0), (top, smaller - top), (left, smaller - left), (0, 0)]
    np.testing.assert_array_equal(shown[:1], np.pad(resized, padding))
    np.testing.assert_array_equal(shown[1], images[1])


def test_the_gradient_goes_back_to_the_pixels_that_were_shown() -> None:
    images = tf.random.stateless_uniform((1, 4, 4, 1), seed=(0, 0))
    weights = tf.random.stateless_uniform((1, 4, 4, 1), seed=(0, 1))
    with tf.GradientTape() as tape:
        tape.watch(images)
        value = tf.reduce_sum(weights * show_variants(images, tf.constant([5])))
    gradient = tape.gradient(value, images).numpy()[0, :, :, 0]
    # Of four pixels a side, the first and the third are shown, in the middle.
    np.testing.assert_allclose(gradient[::2, ::2], weights[0, 1:3, 1:3, 0], rtol=1e-6)
    assert np.count_nonzero(gradient) == 4


def test_each_variant_is_as_likely_as_it_ought_to_be() -> None:
    drawn = draw_variants(batch(100), prob=0.6, steps=400)

    assert drawn.shape == (100, 400)
    shares = np.bincount(drawn.reshape(-1), minlength=6) / drawn.size
    expected = np.array([0.4, 0.3, 0.075, 0.075, 0.075, 0.075])
    deviation = np.sqrt(expected * (1 - expected) / drawn.size)
    assert (np.abs(shares - expected) < 5 * deviation).all()


@pytest.mark.parametrize(("prob", "changed"), [(0.0, False), (1.0, True)])
def test_a_sure_probability_leaves_nothing_to_chance(
    prob: float, changed: bool
) -> None:
    assert ((draw_variants(batch(10), prob, 50) > 0) == changed).all()


def test_draws_are_the_examples_own() -> None:
    drawn = draw_variants(batch(10), 0.5, 30)
    assert len(np.unique(drawn, axis=0)) == 10
    np.testing.assert_array_equal(draw_variants(batch(3, first=4), 0.5, 30), drawn[4:7])
    assert (draw_variants(batch(10, seed=1), 0.5, 30) != drawn).any(axis=1).all()


def test_an_image_of_which_nothing_would_be_left_is_refused() -> None:
    with pytest.raises(ValueError, match=r"argument `x`.*longer sides.*a side of 2"):
        draw_variants(batch(1, side=2), 0.5, 1)
    draw_variants(batch(1, side=3), 0.5, 1)
