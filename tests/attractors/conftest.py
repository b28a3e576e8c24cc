"""A small classifier of the digits that needs no training loop, and an analyzer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps.attractors import Calibration, ForensicAnalyzer, calibrate, inject
from keras_traps.datasets import Dataset
from keras_traps.layers import QIMDecoder
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
    return ForensicAnalyzer(decoder()).fit(clean(400), fpr=0.05)


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


def decoder(seed: int = 1, size: int = 6) -> QIMDecoder:
    """For images of `size` by `size`; half of the sum of steps lies at u = 0.3."""
    middle = 65.5 * size * size / 2
    return QIMDecoder.from_seed(
        seed, num_classes=5, shape=(size, size, 1), a0=-1 / middle, a1=-1.3
    )


def clean(count: int, seed: int = 0, size: int = 6) -> FloatArray:
    return np.random.default_rng(seed).random((count, size, size, 1), np.float32)


def noise(count: int, seed: int = 0) -> FloatArray:
    """Correlations without ties, with a part that all classes share."""
    rng = np.random.default_rng(seed)
    own, shared = rng.normal(size=(count, 5)), rng.normal(size=(count, 1))
    return (0.03 + 0.02 * own + 0.01 * shared).astype(np.float32)
