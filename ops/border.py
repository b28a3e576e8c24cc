"""How much the pixels of an image weigh by where they lie."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from keras_traps._validation import FloatArray, check_number
from keras_traps.ops.blocks import block_grid, check_shape, spread_blocks


def border_factors(shape: Sequence[int], border_weight: float) -> FloatArray:
    """Weighs the pixels of the border against those of the middle.

    Most images have their subject in the middle. An attack that changes few pixels,
    and those where the gradient is largest, is led to the border by traps that pull
    harder there, where the classifier hardly looks.

    The pixels of a block of `draw_messages` share one factor, so that a balanced
    message stays balanced. Factors grow linearly from the middle to the border.

    Args:
        shape: Shape of one image, such as `(height, width, channels)`.
        border_weight: What a block at the border weighs, where one in the very middle
            weighs 1; above 0.

    Returns:
        `(pixels,)`, float32, of mean 1; all 1 for a `border_weight` of 1.

    Raises:
        ValueError: If `shape` is empty or `border_weight` is not above 0.
    """
    shape = check_shape(shape)
    check_number(border_weight, name="border_weight", above=0.0)
    grid = block_grid(shape)
    across = np.meshgrid(*(_eccentricity(size) for size in grid[:2]), indexing="ij")
    factors = 1.0 + (float(border_weight) - 1.0) * np.max(across, axis=0)
    factors = factors.reshape(*factors.shape, *[1] * len(grid[2:]), 1)
    pixels = spread_blocks(np.broadcast_to(factors, (*grid, 4)), shape).ravel()
    return (pixels / pixels.mean()).astype(np.float32)


def _eccentricity(count: int) -> npt.NDArray[np.float64]:
    """How far blocks lie from the middle of an axis: 1 for the two at its ends."""
    if count == 1:
        return np.zeros(1)
    return np.abs(np.linspace(-1.0, 1.0, count))
