"""What the attacks in an L-infinity ball share."""

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from keras_traps._checks import FloatArray, check_positive
from keras_traps.attacks.base import Attack, Batch
from keras_traps.attacks.randomness import Stream, per_example

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
        """Checks the settings."""
        super().__post_init__()
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
        lambda generator: draw(shape, generator),
        batch.ids,
        batch.seed,
        Stream.BALL_NOISE,
    )
    return drawn.astype(np.float32)


def ball(images: FloatArray, eps: float) -> tuple[FloatArray, FloatArray]:
    """Returns the least and the largest pixels of a ball.

    Args:
        images: Clean images, float32, in [0, 1].
        eps: Its radius.

    Returns:
        Two arrays of the shape of the images, float32, in [0, 1].
    """
    radius = np.float32(eps)
    return np.maximum(images - radius, 0), np.minimum(images + radius, 1)


def uniform_start(batch: Batch, eps: float) -> FloatArray:
    """Draws a uniformly random point of each image's ball.

    Args:
        batch: The batch; each image's point is drawn by a generator of its own.
        eps: The ball's radius.

    Returns:
        The shape of the images, float32, in [0, 1].
    """
    shift = noise(batch, lambda shape, draw: draw.uniform(-1, 1, shape))
    return np.clip(batch.images + eps * shift, *ball(batch.images, eps))
