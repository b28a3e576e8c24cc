"""Randomness that belongs to an example, not to the batch it is in."""

import enum
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from keras_traps._checks import IntArray

Draw = Callable[[np.random.Generator], npt.ArrayLike]


@enum.unique
class Stream(enum.IntEnum):
    """What is drawn: each has draws of its own. Results depend on the numbers."""

    TARGETS = 1
    BALL_NOISE = 2
    DIVERSITY = 3
    SPSA_SEEDS = 4
    OPTMARGIN_NOISES = 5


def per_example(
    draw: Draw,
    ids: IntArray,
    seed: int,
    stream: Stream,
) -> npt.NDArray[np.generic]:
    """Draws for each example from a generator of its own.

    Args:
        draw: Draws one example's array from a generator.
        ids: `(batch,)`: which example each is, not below 0.
        seed: The attack's seed, not below 0.
        stream: What it is drawn for.

    Returns:
        `(batch, ...)`: the same for an example in whatever batch it is.
    """
    return np.stack(
        [
            draw(np.random.default_rng(np.random.SeedSequence([seed, stream, int(i)])))
            for i in ids
        ]
    )
