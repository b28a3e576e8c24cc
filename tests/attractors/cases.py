"""Small decoders, and images and correlations to fit an analyzer to."""

import numpy as np

from keras_traps._checks import FloatArray
from keras_traps.layers import QIMDecoder


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
