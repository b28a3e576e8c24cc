"""How far attacked images are from the clean ones."""

from typing import NamedTuple

import numpy as np

from keras_traps._checks import FloatArray, IntArray


class Distances(NamedTuple):
    """The size of the change of each image.

    Args:
        l0: `(batch,)`, int64: how many values changed.
        l2: `(batch,)`, float32: L2 norm of the change, pixels in [0, 1].
        linf: `(batch,)`, float32: largest change of a value.
    """

    l0: IntArray
    l2: FloatArray
    linf: FloatArray


def distances(clean: FloatArray, images: FloatArray) -> Distances:
    """Measures the change of each image.

    Args:
        clean: `(batch, ...)`, float32.
        images: What became of them, of the same shape.

    Returns:
        The norms of the differences.
    """
    change = (images - clean).reshape(len(clean), -1)
    return Distances(
        l0=(change != 0).sum(axis=1),
        l2=np.linalg.norm(change, axis=1).astype(np.float32),
        linf=np.abs(change).max(axis=1),
    )
