"""A small classifier of the digits that needs no training loop, and an analyzer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps._checks import FloatArray, IntArray
from keras_traps.attractors import (
    Calibration,
    ForensicAnalyzer,
    TrapSettings,
    calibrate,
    inject,
)
from keras_traps.datasets import Dataset
from keras_traps.ops import Key


@pytest.fixture
def classifier(digits_train: Dataset) -> keras.Model:
    return least_squares_classifier(digits_train, "linear")


@pytest.fixture(scope="session")
def calibration(digits_train: Dataset) -> Calibration:
    model = least_squares_classifier(digits_train, "linear")
    return calibrate(
        model, digits_train.images, output="logits", budget=0.005, key=Key.from_seed(3)
    )


@pytest.fixture
def trapped(classifier: keras.Model, calibration: Calibration) -> keras.Model:
    return inject(classifier, calibration.settings)


@pytest.fixture
def fitted() -> ForensicAnalyzer:
    return ForensicAnalyzer(tiny()).fit(clean(400), fpr=0.05)


def least_squares_classifier(data: Dataset, activation: str) -> keras.Model:
    """Linear, with the weights that least squares gives: about 94 % right."""
    inputs = keras.Input((8, 8, 1), name="pixels")
    flat = keras.layers.Flatten(name="flat")(inputs)
    head = keras.layers.Dense(10, activation=activation, name="head")
    model = keras.Model(inputs, head(flat), name="digits_linear")
    pixels = data.images.reshape(len(data), -1).astype(np.float64)
    table = np.hstack([pixels, np.ones((len(data), 1))])
    ridge = table.T @ table + 1e-2 * np.eye(65)
    kernel = 8 * np.linalg.solve(ridge, table.T @ np.eye(10)[data.labels])
    head.set_weights([kernel[:-1], kernel[-1]])
    return model


def nan_on_black_images(classifier: keras.Model) -> keras.Model:
    """The same on images whose brightest pixel is scaled to 1: 0 / 0 on black ones."""
    inputs = keras.Input((8, 8, 1))
    brightest = keras.ops.max(inputs, axis=(1, 2, 3), keepdims=True)
    return keras.Model(inputs, classifier(inputs / brightest))


def softmax(logits: FloatArray) -> FloatArray:
    return np.asarray(tf.nn.softmax(logits))


def tiny(seed: int = 1, size: int = 6) -> keras.Model:
    """A trapped model of random weights, for images of `size` by `size`."""
    inputs = keras.Input((size, size, 1))
    draw = keras.initializers.RandomNormal(seed=0)
    head = keras.layers.Dense(5, kernel_initializer=draw)
    # Half of the sum of steps lies at u = 0.3.
    middle = 65.5 * size * size / 2
    settings = TrapSettings(
        output="logits",
        a0=-1 / middle,
        a1=-1.3,
        a2=1.0,
        step_weights=(1.0, 1.0),
        key=Key.from_seed(seed),
    )
    model = keras.Model(inputs, head(keras.layers.Flatten()(inputs)))
    return inject(model, settings)


def clean(count: int, seed: int = 0, size: int = 6) -> FloatArray:
    return np.random.default_rng(seed).random((count, size, size, 1), np.float32)


def noise(count: int, seed: int = 0) -> FloatArray:
    """Evidence without ties: correlations with a part that all share, and logits."""
    rng = np.random.default_rng(seed)
    own, shared = rng.normal(size=(count, 5)), rng.normal(size=(count, 1))
    w = 0.03 + 0.02 * own + 0.01 * shared
    return np.stack([w, 3 * rng.normal(size=(count, 5))], axis=1).astype(np.float32)


def across_the_border(
    trapped: keras.Model, analyzer: ForensicAnalyzer, data: Dataset
) -> tuple[FloatArray, IntArray, IntArray]:
    """Images just behind C's border on the way to one of another class.

    Also the classes of C before the border and behind it.
    """
    classes = trapped.get_layer("classifier")
    images, labels = data.images, classes(data.images).numpy().argmax(axis=1)
    first, last = images[:60], np.roll(images, 7, axis=0)[:60]
    before, goal = labels[:60], np.roll(labels, 7)[:60]
    near, far = np.zeros(60, np.float32), np.ones(60, np.float32)
    # Halves the way on which the class changes.
    for _ in range(20):
        middle = (near + far) / 2
        found = first + middle[:, None, None, None] * (last - first)
        same = classes(found).numpy().argmax(axis=1) == before
        near, far = np.where(same, middle, near), np.where(same, far, middle)
    found = first + far[:, None, None, None] * (last - first)
    kept = before != goal
    logits = analyzer.evidence(found[kept])[:, 1]
    return found[kept], before[kept], logits.argmax(axis=1)
