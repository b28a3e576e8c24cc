"""A tiny classifier of small images and a tiny network before it."""

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from keras_traps.datasets import Dataset, load
from keras_traps.layers import LuringInput
from keras_traps.luring import LuredClassifier
from keras_traps.models.inference import predict

SHAPE, CLASSES = (6, 6, 1), 3
GREY = (0.0, 255.0)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """Digits of the size that MNIST's lure takes, which is the quickest to trace."""
    few = load("digits").take(24)
    pixels = np.pad(few.pixels, ((0, 0), (2, 2), (2, 2), (0, 0)))
    return dataclasses.replace(few, name="mnist", pixels=pixels)


def tiny_target(*, ends: str = "logits", name: str = "target") -> keras.Model:
    """A frozen classifier with all that acts otherwise in training.

    `ends` is "logits" or "softmax".
    """
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input(SHAPE, name="image")
    x = layers.Conv2D(4, 3, activation="relu")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.5)(layers.Flatten()(x))
    activation = "softmax" if ends == "softmax" else None
    x = layers.Dense(CLASSES, activation=activation)(x)
    model = keras.Model(inputs, x, name=name)
    model.trainable = False
    return model


def tiny_lure() -> keras.Model:
    """Two convolutions, the last with a sigmoid."""
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(3, 3, padding="same", activation="relu"),
            layers.Conv2D(1, 3, padding="same", activation="sigmoid"),
        ]
    )


def lured(lure: keras.layers.Layer | None = None, **compiling: Any) -> LuredClassifier:
    target = tiny_target()
    model = LuredClassifier(target, lure or tiny_lure(), output="logits")
    model.compile(keras.optimizers.Adam(0.01), **compiling)
    return model


def weights_of(layer: keras.layers.Layer) -> list[np.ndarray]:
    return [np.array(weight) for weight in layer.weights]


def assert_alike(first: keras.layers.Layer, second: keras.layers.Layer) -> None:
    for a, b in zip(weights_of(first), weights_of(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return np.random.default_rng(0).random((40, *SHAPE), np.float32)


@pytest.fixture(scope="session")
def labels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, CLASSES, 40)


def small_classifier(
    *first: keras.layers.Layer, shape: tuple[int, ...] = (8, 8, 1), outputs: int = 10
) -> keras.Model:
    """A frozen classifier that begins with layers of the caller's."""
    keras.utils.set_random_seed(0)
    squash = "softmax" if outputs > 1 else "sigmoid"
    hidden = [layers.Flatten(), layers.Dense(32, activation="relu")]
    last = layers.Dense(outputs, activation=squash)
    model = keras.Sequential([keras.Input(shape), *first, *hidden, last])
    model.trainable = False
    return model


def grey_lured(
    target: keras.Model,
    *,
    bounds: tuple[float, float] = GREY,
    run_eagerly: bool = False,
    **settings: Any,
) -> LuredClassifier:
    """A classifier of 8x8 images behind one convolution.

    A few steps take less than their trace: `run_eagerly` where that is not the matter.
    """
    keras.utils.set_random_seed(0)
    network = layers.Conv2D(1, 3, padding="same", activation="sigmoid")
    lure = LuringInput(network=network, bounds=bounds)
    model = LuredClassifier(target, lure, **settings)
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=run_eagerly)
    return model


def answers_to(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return predict(model, images.astype(np.float32))


@pytest.fixture(scope="session")
def grey_digits() -> Dataset:
    return load("digits").take(400)


@pytest.fixture(scope="session")
def grey_target(grey_digits: Dataset) -> keras.Model:
    """A trained classifier that divides its grey levels by 255 itself."""
    model = small_classifier(layers.Rescaling(1 / 255))
    model.trainable = True
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(0.01), loss, jit_compile=False)
    model.fit(grey_digits.pixels, grey_digits.labels, epochs=10, verbose=0)
    model.trainable = False
    return model
