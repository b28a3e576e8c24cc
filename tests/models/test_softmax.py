from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_traps.models.logits import is_logarithm, logits_model
from tests.attacks.victims import SHAPE, TWO_CLASSES, linear, some_images

# Too far apart to be read from the logarithm of a probability.
FAR = TWO_CLASSES * np.float32(1e4)

End = Callable[[Any], Any]


def ending(end: End) -> keras.Model:
    plain = linear(FAR)
    return keras.Model(plain.inputs[0], end(plain.outputs[0]))


def softmax(logits: Any) -> Any:
    return layers.Softmax()(logits)


FOUND: dict[str, End] = {
    "operation": ops.softmax,
    "operation over axis 1": lambda z: ops.softmax(z, axis=1),
    "function": keras.activations.softmax,
    "layer over axis 1": layers.Softmax(axis=1),
    "layer over a list": layers.Softmax(axis=[-1]),
    "layer with a name for its input": lambda z: layers.Softmax()(inputs=z),
    "activation of Keras": layers.Activation(ops.softmax),
    "activation of TensorFlow": layers.Activation(tf.nn.softmax),
    "activation that is a layer": layers.Activation(layers.Softmax()),
    "linear behind": lambda z: layers.Activation("linear", dtype="float32")(softmax(z)),
    "identity behind": lambda z: layers.Identity()(softmax(z)),
    "reshape behind": lambda z: layers.Reshape((2,))(softmax(z)),
    "flatten behind": lambda z: layers.Flatten()(softmax(z)),
    "reshape operation behind": lambda z: ops.reshape(softmax(z), (-1, 2)),
    "cast behind": lambda z: ops.cast(ops.cast(softmax(z), "float64"), "float32"),
    "several behind": lambda z: ops.cast(
        layers.Identity()(layers.Reshape((2,))(ops.softmax(z))), "float32"
    ),
    "of a map of one pixel": lambda z: layers.Flatten()(
        layers.Softmax()(layers.Reshape((1, 1, 2))(z))
    ),
}


@pytest.mark.parametrize("end", FOUND.values(), ids=FOUND)
def test_a_softmax_is_found_in_every_form(end: End) -> None:
    model, images = ending(end), some_images(5)
    logits = logits_model(model, "probabilities")
    assert not is_logarithm(logits)
    assert logits.output_shape == (None, 2)
    np.testing.assert_allclose(logits(images), linear(FAR)(images), rtol=1e-6)


@pytest.mark.parametrize(
    "activation", [ops.softmax, tf.nn.softmax, layers.Softmax(), "softmax"]
)
def test_a_dense_layers_softmax_is_found_in_every_form(activation: Any) -> None:
    image = keras.Input(SHAPE)
    dense = layers.Dense(2, activation=activation, use_bias=False)
    outputs = layers.Identity()(dense(layers.Flatten()(image)))
    model, images = keras.Model(image, outputs), some_images(5)
    dense.set_weights([FAR])
    logits = logits_model(model, "probabilities")(images)
    np.testing.assert_allclose(logits, linear(FAR)(images), rtol=1e-6)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_softmax_of_half_precision_is_found_before_its_cast(precision: str) -> None:
    model = ending(
        lambda z: layers.Activation("linear", dtype="float32")(
            layers.Softmax(dtype=precision)(z / 100)
        )
    )
    images = some_images(5)
    logits = logits_model(model, "probabilities")(images)
    expected = linear(FAR)(images).numpy() / 100
    np.testing.assert_allclose(tf.cast(logits, "float32"), expected, rtol=1e-2)


def test_the_softmax_of_a_model_within_is_found_before_a_cast() -> None:
    within, image = ending(ops.softmax), keras.Input(SHAPE)
    model = keras.Model(image, ops.cast(within(image), "float32"))
    images = some_images(5)
    logits = logits_model(model, "probabilities")(images)
    np.testing.assert_allclose(logits, linear(FAR)(images), rtol=1e-6)


MASK = np.array([[True, True]])

HIDDEN: dict[str, End] = {
    "over the batch": lambda z: layers.Softmax(axis=0)(z),
    "operation over the batch": lambda z: ops.softmax(z, axis=0),
    "over both axes": lambda z: layers.Softmax(axis=[0, 1])(z),
    "masked": lambda z: layers.Softmax()(z, MASK),
    "over pixels": lambda z: layers.Flatten()(
        layers.Softmax(axis=1)(layers.Reshape((2, 1))(z))
    ),
    "of each of two": lambda z: layers.Flatten()(
        layers.Softmax()(layers.Reshape((2, 1))(z))
    ),
    "in an unknown function": layers.Activation(lambda z: tf.nn.softmax(z)),
    "before something else": lambda z: layers.Rescaling(0.5, 0.25)(softmax(z)),
    "before another activation": lambda z: layers.Activation("relu")(softmax(z)),
    "before integers": lambda z: ops.cast(ops.cast(softmax(z), "int32"), "float32"),
}


@pytest.mark.filterwarnings("ignore:You are using a softmax over axis")
@pytest.mark.parametrize("end", HIDDEN.values(), ids=HIDDEN)
def test_what_is_no_plain_softmax_is_left_alone(end: End) -> None:
    model, images = ending(end), some_images(3)
    logits = logits_model(model, "probabilities")
    assert is_logarithm(logits)
    expected = np.log(np.maximum(model(images), 1e-30))
    np.testing.assert_allclose(logits(images), expected, rtol=1e-5, atol=1e-6)
