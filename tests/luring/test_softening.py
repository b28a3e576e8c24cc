from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps.evaluation.luring.softening import _soft_sigmoid, soften
from keras_traps.layers import LuringInput
from keras_traps.luring.variants import join
from keras_traps.models.inference import predict
from tests.luring.conftest import SHAPE, tiny_lure, tiny_target


@pytest.fixture(scope="module")
def lure() -> LuringInput:
    """P whose sigmoid is as good as a step: little comes back through it."""
    keras.utils.set_random_seed(3)
    layer = LuringInput("cifar10", width=1 / 64, dropout=0.0, name="lure")
    layer.build((None, *SHAPE))
    last = layer.until_sigmoid().layers[-1]
    last.gamma.assign(last.gamma * 1e4)
    return layer


def gradient(model: keras.Model, images: np.ndarray) -> np.ndarray:
    pixels = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        first = tf.reduce_sum(model(pixels, training=False)[:, 0])
    return tape.gradient(first, pixels).numpy()


@pytest.mark.parametrize("whole", [False, True])
def test_answers_stay_and_the_gradient_comes_back(
    lure: LuringInput, images: np.ndarray, whole: bool
) -> None:
    target = tiny_target()
    inputs = keras.Input(SHAPE, name="image")
    # M∘P of one piece, as that of `stack`, or P a model of its own.
    part = lure if whole else keras.Model(inputs, lure(inputs), name="lure")
    augmented = join(part, target)
    flat, own = gradient(augmented, images), gradient(soften(augmented, 1.0), images)
    np.testing.assert_allclose(own, flat, rtol=1e-4, atol=1e-7)
    softer = soften(augmented, 1e5)
    np.testing.assert_array_equal(predict(softer, images), predict(augmented, images))
    came_back = np.abs(gradient(softer, images)).mean(axis=(1, 2, 3))
    assert (came_back > 5 * np.abs(flat).mean(axis=(1, 2, 3))).mean() > 0.9
    assert not {id(w) for w in softer.weights} - {id(w) for w in augmented.weights}


def test_the_slope_is_that_of_a_stretched_sigmoid() -> None:
    z = tf.constant([-80.0, -4.0, 0.0, 8.0])
    for softness in (1.0, 4.0, 64.0):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(z)
            pixels = _soft_sigmoid(z, softness)
            stretched = softness * tf.sigmoid(z / softness)
        np.testing.assert_array_equal(pixels, tf.sigmoid(z))
        np.testing.assert_allclose(
            tape.gradient(pixels, z), tape.gradient(stretched, z), rtol=1e-5
        )


def test_what_has_no_sigmoid_to_soften_is_refused() -> None:
    target = tiny_target()
    with pytest.raises(ValueError, match=r"`augmented`.*`LuringInput`.*target"):
        soften(target, 4.0)
    brought: Any = LuringInput(network=tiny_lure(), name="lure")
    with pytest.raises(ValueError, match="network of a preset"):
        soften(join(brought, target), 4.0)
