"""Small classifiers whose gradients are known on paper."""

import functools

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

Floats = npt.NDArray[np.float64]

SHAPE = (2, 3, 1)
PIXELS = 6

# One row per pixel. Nothing depends on the third.
TWO_CLASSES = np.array(
    [[1.0, -1.0], [-0.5, 0.5], [0.0, 0.0], [0.2, 0.9], [3.0, -2.0], [-1.0, -0.1]],
    np.float32,
)
TOWARDS_1 = np.sign(TWO_CLASSES[:, 1] - TWO_CLASSES[:, 0]).reshape(1, *SHAPE)
"""The sign of the gradient that leads from class 0 to class 1."""


class Root(keras.layers.Layer):
    """Its slope is infinite at 0."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.sqrt(inputs)


class HiddenSoftmax(keras.layers.Layer):
    """A softmax of which its class tells nothing."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(inputs)


def linear(kernel: npt.NDArray[np.float32]) -> keras.Model:
    """Makes a model of logits: one row of `kernel` per pixel, one column per class."""
    image = keras.Input(SHAPE, name="image")
    flat = keras.layers.Flatten()(image)
    dense = keras.layers.Dense(kernel.shape[1], use_bias=False, name="logits")
    model = keras.Model(image, dense(flat), name="linear")
    dense.set_weights([kernel])
    return model


@functools.cache
def two_classes() -> keras.Model:
    """Returns the linear model of `TWO_CLASSES`, one for all tests."""
    return linear(TWO_CLASSES)


def with_softmax(kernel: npt.NDArray[np.float32], kind: str) -> keras.Model:
    """Makes the same model with a softmax as its last layer, written as `kind`."""
    image = keras.Input(SHAPE, name="image")
    flat = keras.layers.Flatten()(image)
    last = "softmax" if kind == "dense" else None
    dense = keras.layers.Dense(
        kernel.shape[1], activation=last, use_bias=False, name="last"
    )
    outputs = dense(flat)
    if kind == "activation":
        outputs = keras.layers.Activation("softmax")(outputs)
    elif kind == "softmax":
        outputs = keras.layers.Softmax()(outputs)
    elif kind == "operation":
        outputs = keras.ops.softmax(outputs)
    elif kind == "tensorflow":
        outputs = keras.layers.Activation(tf.nn.softmax)(outputs)
    elif kind == "cast":
        outputs = keras.layers.Softmax()(outputs)
        outputs = keras.layers.Activation("linear", dtype="float32")(outputs)
    elif kind == "hidden":
        outputs = HiddenSoftmax()(outputs)
    model = keras.Model(image, outputs, name=f"softmax_{kind}")
    dense.set_weights([kernel])
    return model


class TanhNet:
    """tanh(x A) B with three classes, in Keras and in NumPy."""

    def __init__(self, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        self.first = draw.normal(0, 1.5, (PIXELS, 5)).astype(np.float32)
        self.second = draw.normal(0, 2, (5, 3)).astype(np.float32)
        image = keras.Input(SHAPE, name="image")
        flat = keras.layers.Flatten()(image)
        hidden = keras.layers.Dense(5, "tanh", use_bias=False)
        logits = keras.layers.Dense(3, use_bias=False)
        self.model = keras.Model(image, logits(hidden(flat)), name="tanh_net")
        hidden.set_weights([self.first])
        logits.set_weights([self.second])

    def gradient(self, images: Floats, classes: npt.NDArray[np.int64]) -> Floats:
        """Returns the gradient of the cross-entropy of `classes`, in float64."""
        hidden = np.tanh(images.reshape(len(images), -1) @ self.first)
        exponentials = np.exp(hidden @ self.second)
        probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
        error = probabilities - np.eye(3)[classes]
        flat = ((error @ self.second.T) * (1 - hidden**2)) @ self.first.T
        return flat.reshape(images.shape)


@functools.cache
def tanh_net() -> TanhNet:
    """Returns one for all tests."""
    return TanhNet()


def some_images(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Draws images away from 0 and 1."""
    return np.random.default_rng(seed).uniform(0.4, 0.6, (count, *SHAPE)).astype("f4")
