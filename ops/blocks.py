"""Blocks of four neighbouring pixels, which share a step size and a weight."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from keras_traps._checks import is_integer


def check_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the shape of one image as plain integers, or says what is wrong with it.

    Args:
        shape: What the caller passed.

    Returns:
        The same sizes.

    Raises:
        ValueError: If there is none, or one is no positive integer.
    """
    if len(shape) == 0 or any(not is_integer(n) or n < 1 for n in shape):
        raise ValueError(
            "Invalid value for argument `shape`. Expected the positive sizes of one "
            f"image. Received: shape={tuple(shape)}"
        )
    # Products of NumPy's small integers overflow.
    return tuple(int(n) for n in shape)


def block_grid(shape: Sequence[int]) -> tuple[int, ...]:
    """Counts the blocks along each axis; a part of a block counts as one.

    A block is 2x2 pixels of one channel, or four in a row where images have one axis.

    Args:
        shape: Shape of one image, checked.

    Returns:
        How many there are, an axis of the image each.
    """
    if len(shape) == 1:
        return (-(-shape[0] // 4),)
    height, width, *rest = shape
    return (-(-height // 2), -(-width // 2), *rest)


def spread_blocks(
    blocks: npt.NDArray[np.generic], shape: Sequence[int]
) -> npt.NDArray[np.generic]:
    """Lays blocks out as an image, cutting what sticks out.

    Args:
        blocks: `(*grid, 4)`: the pixels of each block, row by row.
        shape: Shape of one image, checked.

    Returns:
        The image, of this shape.
    """
    if len(shape) == 1:
        return blocks.reshape(-1)[: shape[0]]
    rows, columns, *rest = blocks.shape[:-1]
    image = blocks.reshape(rows, columns, *rest, 2, 2)
    image = np.moveaxis(image, (-2, -1), (1, 3)).reshape(2 * rows, 2 * columns, *rest)
    return image[: shape[0], : shape[1]]
