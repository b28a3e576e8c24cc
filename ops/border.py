"""How much the pixels of an image weigh by where they lie."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from keras_traps._checks import FloatArray, is_number
from keras_traps.ops.blocks import block_grid, check_shape, spread_blocks

# Beyond these a part of the image would have no say at all.
_LIGHTEST, _HEAVIEST = 1e-3, 1e3


def border_factors(shape: Sequence[int], border_weight: float) -> FloatArray:
    """Weighs the pixels of the border against those of the middle.

    Most images have their subject in the middle. An attack that changes few pixels,
    and those where the gradient is largest, is led to the border by traps that pull
    harder there, and away from what the classifier is to see.

    A factor grows linearly with the distance from the middle along the height or the
    width, whichever is larger in units of half an image; an axis of at most two blocks
    has no middle and does not count. The pixels of a block of `draw_messages` share one
    factor, so that a balanced message stays balanced.

    Args:
        shape: Shape of one image, such as `(height, width, channels)`.
        border_weight: What a block at the border weighs, where one in the very middle
            has 1, from 0.001 to 1000. Of an even number of blocks none lies in the very
            middle: on 32 by 32 pixels the lightest has 0.38 of the heaviest for 3.

    Returns:
        `(pixels,)`, float32, of mean 1; all 1 for a `border_weight` of 1.

    Raises:
        ValueError: If `shape` is empty, a size is no positive integer, or
            `border_weight` is out of its range.
    """
    shape = check_shape(shape)
    check_border_weight(border_weight)
    grid = block_grid(shape)
    across = np.meshgrid(*(_eccentricity(size) for size in grid[:2]), indexing="ij")
    factors = 1.0 + (float(border_weight) - 1.0) * np.max(across, axis=0)
    # Every channel, and each of a block's four pixels.
    factors = np.expand_dims(factors, tuple(range(factors.ndim, len(grid) + 1)))
    pixels = spread_blocks(np.broadcast_to(factors, (*grid, 4)), shape).ravel()
    return (pixels / pixels.mean()).astype(np.float32)


def check_border_weight(border_weight: float) -> None:
    """Refuses a weight of the border that leaves a part of the image without a say.

    Args:
        border_weight: The weight asked for.

    Raises:
        ValueError: If it is not a number from 0.001 to 1000.
    """
    if not is_number(border_weight) or not _LIGHTEST <= border_weight <= _HEAVIEST:
        raise ValueError(
            "Invalid value for argument `border_weight`. Expected a number from "
            f"{_LIGHTEST:g} to {_HEAVIEST:g}. Received: border_weight={border_weight!r}"
        )


def _eccentricity(count: int) -> npt.NDArray[np.float64]:
    """How far blocks lie from the middle of an axis: 1 for the two at its ends."""
    if count <= 2:
        return np.zeros(count)
    return np.abs(np.linspace(-1.0, 1.0, count))
