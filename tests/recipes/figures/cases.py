"""Models whose gradients and densities are known in closed form."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps.layers import QIMDecoder

SHAPE = (2, 3, 1)


def images(count: int, *, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> FloatArray:
    """Pixels that are no whole grey levels, so that none lies at a cell's border."""
    return np.random.default_rng(seed).random((count, *shape)).astype(np.float32)


def linear(
    kernel: FloatArray, bias: FloatArray | None = None
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Scores x A + b."""
    shift = np.zeros(kernel.shape[1], np.float32) if bias is None else bias

    def scores(batch: tf.Tensor) -> tf.Tensor:
        return tf.reshape(batch, (-1, kernel.shape[0])) @ kernel + shift

    return scores


def kernel(seed: int = 1, classes: int = 3, pixels: int = 6) -> FloatArray:
    drawn = np.random.default_rng(seed).normal(size=(pixels, classes))
    return drawn.astype(np.float32)


def decoder(
    *,
    seed: int = 3,
    shape: tuple[int, ...] = SHAPE,
    num_classes: int = 3,
    steps: tuple[float, ...] = (3.0, 128.0),
    step_weights: tuple[float, ...] = (1.0, 1.0),
) -> QIMDecoder:
    """With distances of about half the steps' sum at u = 0.3."""
    middle = float(np.prod(shape)) * sum(steps) / len(steps) / 2
    return QIMDecoder.from_seed(
        seed,
        num_classes=num_classes,
        shape=shape,
        steps=steps,
        step_weights=step_weights,
        messages="random",
        a0=-0.1 / middle,
        a1=-0.4,
    )
