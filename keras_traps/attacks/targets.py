"""Which class a targeted attack aims at."""

import numpy as np

from keras_traps._validation import FloatArray, IntArray
from keras_traps.attacks.randomness import per_example

_TARGET_STREAM = 1


def random_targets(
    y: IntArray, num_classes: int, *, seed: int, ids: IntArray
) -> IntArray:
    """Draws a wrong class for each example, each as likely as the others.

    Args:
        y: `(batch,)`: the true classes.
        num_classes: How many classes, at least 2.
        seed: Seed of the draw.
        ids: `(batch,)`: which example each is; its draw depends on nothing else.

    Returns:
        `(batch,)`, int64; never the true class.
    """
    offsets = per_example(
        lambda generator: generator.integers(1, num_classes), ids, seed, _TARGET_STREAM
    )
    return (y + offsets.astype(np.int64)) % num_classes


def least_likely_targets(outputs: FloatArray) -> IntArray:
    """Returns the class that the model holds least likely.

    Args:
        outputs: `(batch, num_classes)`: logits or probabilities on clean images.

    Returns:
        `(batch,)`, int64.
    """
    return outputs.argmin(axis=1).astype(np.int64)
