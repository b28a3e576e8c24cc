"""What the attacks in an L-infinity ball share."""

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from keras_traps._validation import FloatArray
from keras_traps.attacks.base import Attack, Batch
from keras_traps.attacks.checks import check_positive
from keras_traps.attacks.randomness import per_example

_NOISE_STREAM = 2

Draw = Callable[[tuple[int, ...], np.random.Generator], npt.ArrayLike]
"""Draws an array of a shape from a generator."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinfAttack(Attack):
    """An attack in an L-infinity ball.

    Args:
        eps: The ball's radius, above 0; pixels are in [0, 1].
    """

    eps: float

    def __post_init__(self) -> None:
        check_positive("eps", self.eps)

    @property
    def linf_bound(self) -> float:
        """The radius of the ball."""
        return self.eps


def noise(batch: Batch, draw: Draw) -> FloatArray:
    """Draws noise for each image of a batch, from a generator of its own.

    Args:
        batch: The batch.
        draw: Draws one image's noise.

    Returns:
        The shape of the images, float32.
    """
    shape = batch.images.shape[1:]
    drawn = per_example(
        lambda generator: draw(shape, generator), batch.ids, batch.seed, _NOISE_STREAM
    )
    return drawn.astype(np.float32)
