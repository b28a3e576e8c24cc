"""The decoder's secrets, drawn from a seed: messages and step sizes.

Both use the raw 64-bit stream of NumPy's Philox generator, which NumPy keeps the same
on every machine and in every version, unlike the streams of its distributions.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from keras_traps._checks import check_count, is_integer
from keras_traps.ops.blocks import block_grid, check_shape, spread_blocks

MessageKind = Literal["balanced", "random"]

# The six ways to give two pixels of a block of four the bit 1.
_BALANCED_BLOCKS = np.array(
    [
        [0, 0, 1, 1],
        [0, 1, 0, 1],
        [0, 1, 1, 0],
        [1, 0, 0, 1],
        [1, 0, 1, 0],
        [1, 1, 0, 0],
    ],
    dtype=np.uint8,
)
# One seed feeds independent streams, told apart by the generator's second key word.
_MESSAGE_STREAM, _STEP_STREAM = 1, 2


def draw_messages(
    shape: Sequence[int],
    num_classes: int,
    *,
    seed: int,
    kind: MessageKind = "balanced",
) -> npt.NDArray[np.uint8]:
    """Draws one watermark message per class.

    `"random"` draws every bit alone. `"balanced"` gives every block of 2x2 pixels (of
    four in a row where images have one axis) two bits of each value. Neighbouring
    pixels of an image are nearly equal, so in a balanced message what they add to the
    distance nearly cancels: the distance of clean images spreads less, while its
    gradient, one unit of weight per pixel, stays the same.

    Args:
        shape: Shape of one image, such as `(height, width, channels)`.
        num_classes: How many messages, at least 2.
        seed: A non-negative integer below 2**64.
        kind: How bits are drawn. Defaults to `"balanced"`.

    Returns:
        Bits `(num_classes, pixels)`, uint8, pixels in row-major order of `shape`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    shape = check_shape(shape)
    check_count("num_classes", num_classes, at_least=2)
    num_classes = int(num_classes)
    if kind not in ("balanced", "random"):
        raise ValueError(
            'Invalid value for argument `kind`. Expected "balanced" or "random". '
            f"Received: kind={kind!r}"
        )
    if kind == "random":
        draws = _uniform_integers(num_classes * math.prod(shape), 2, seed)
        return draws.astype(np.uint8).reshape(num_classes, -1)
    grid = block_grid(shape)
    draws = _uniform_integers(num_classes * math.prod(grid), 6, seed)
    blocks = _BALANCED_BLOCKS[draws].reshape(num_classes, *grid, 4)
    return np.stack([spread_blocks(message, shape).ravel() for message in blocks])


def draw_steps(
    shape: Sequence[int],
    steps: Sequence[float],
    *,
    seed: int,
) -> npt.NDArray[np.intp]:
    """Draws which step size each pixel has; the pixels of a block share one.

    Blocks are those of `draw_messages`, so that a balanced message is balanced within
    each step size. Every step size gets the same number of blocks, to within one.

    Args:
        shape: Shape of one image.
        steps: The step sizes, in grey levels.
        seed: A non-negative integer below 2**64.

    Returns:
        `(pixels,)`, an index into `steps` for each pixel in row-major order.

    Raises:
        ValueError: If `shape` is empty or `steps` is.
    """
    shape = check_shape(shape)
    # An array has no truth value.
    if len(steps) == 0:
        raise ValueError(
            "Invalid value for argument `steps`. Expected at least one step size. "
            f"Received: steps={tuple(steps)}"
        )
    grid = block_grid(shape)
    count = math.prod(grid)
    # A stable order of raw 64-bit draws is a permutation that needs no distribution.
    order = np.argsort(_raw(count, seed, _STEP_STREAM), kind="stable")
    index = np.empty(count, dtype=np.intp)
    index[order] = np.arange(count) % len(steps)
    blocks = np.repeat(index[:, None], 4, axis=1).reshape(*grid, 4)
    return spread_blocks(blocks, shape).ravel().astype(np.intp)


def _uniform_integers(count: int, below: int, seed: int) -> npt.NDArray[np.intp]:
    # The top 32 bits scaled: the bias of below / 2**32 is far under one draw in all.
    draws = _raw(count, seed, _MESSAGE_STREAM) >> np.uint64(32)
    return ((draws * np.uint64(below)) >> np.uint64(32)).astype(np.intp)


def _raw(count: int, seed: int, stream: int) -> npt.NDArray[np.uint64]:
    if not (is_integer(seed) and 0 <= seed < 2**64):
        raise ValueError(
            "Invalid value for argument `seed`. Expected an integer from 0 to 2**64 - "
            f"1. Received: seed={seed!r}"
        )
    key = np.array([int(seed), stream], dtype=np.uint64)
    return np.random.Philox(key=key).random_raw(count)
