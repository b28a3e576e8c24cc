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
    return lambda batch: tf.reshape(batch, (-1, len(kernel))) @ kernel + shift


def kernel(seed: int = 1) -> FloatArray:
    return np.random.default_rng(seed).normal(size=(6, 3)).astype(np.float32)


def decoder(*steps: float) -> QIMDecoder:
    """For three classes, with distances of about half the steps' sum at u = 0.3."""
    steps = steps or (3.0, 128.0)
    middle = float(np.prod(SHAPE)) * sum(steps) / len(steps) / 2
    return QIMDecoder.from_seed(
        3,
        num_classes=3,
        shape=SHAPE,
        steps=steps,
        step_weights=(1.0,) * len(steps),
        messages="random",
        a0=-0.1 / middle,
        a1=-0.4,
    )
