"""Randomness that belongs to an example, not to the batch it is in."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from keras_traps._validation import IntArray

Draw = Callable[[np.random.Generator], npt.ArrayLike]


def per_example(
    draw: Draw,
    ids: IntArray,
    seed: int,
    stream: int,
) -> npt.NDArray[np.generic]:
    """Draws for each example from a generator of its own.

    Args:
        draw: Draws one example's array from a generator.
        ids: `(batch,)`: which example each is, not below 0.
        seed: The attack's seed, not below 0.
        stream: Tells uses of the same seed apart.

    Returns:
        `(batch, ...)`: the same for an example in whatever batch it is.
    """
    return np.stack(
        [
            draw(np.random.default_rng(np.random.SeedSequence([seed, stream, int(i)])))
            for i in ids
        ]
    )
