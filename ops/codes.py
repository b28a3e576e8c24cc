"""The decoder's secrets, drawn from a seed: messages and step sizes.

Both use the raw 64-bit stream of NumPy's Philox generator, which NumPy keeps the same
on every machine and in every version, unlike the streams of its distributions.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from keras_traps._checks import check_count, is_integer

MessageKind = Literal["balanced", "random"]

# The six ways to give two pixels of a block of four the bit 1.
_BALANCED_BLOCKS = np.array(
    [bits for bits in itertools.product((0, 1), repeat=4) if sum(bits) == 2],
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
    four in a row where images have one axis) two bits of each value: what the nearly
    equal neighbours of an image add to the distance nearly cancels, so that clean
    images spread less, while the gradient stays the same.

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
    shape = _checked(shape)
    check_count("num_classes", num_classes, at_least=2)
    # Products of NumPy's small integers overflow.
    num_classes = int(num_classes)
    if kind not in ("balanced", "random"):
        raise ValueError(
            'Invalid value for argument `kind`. Expected "balanced" or "random". '
            f"Received: kind={kind!r}"
        )
    grid, values = (shape, 2) if kind == "random" else (_grid(shape), 6)
    # The top 32 bits scaled: the bias of values / 2**32 is far under one draw in all.
    raw = _raw(num_classes * math.prod(grid), seed, _MESSAGE_STREAM) >> np.uint64(32)
    draws = ((raw * np.uint64(values)) >> np.uint64(32)).astype(np.intp)
    if kind == "random":
        return draws.astype(np.uint8).reshape(num_classes, -1)
    blocks = _BALANCED_BLOCKS[draws].reshape(num_classes, *grid, 4)
    return np.stack([_spread(message, shape).ravel() for message in blocks])


def draw_steps(
    shape: Sequence[int], steps: Sequence[float], *, seed: int
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
        ValueError: If `shape` or `steps` is empty, or `seed` is out of its range.
    """
    shape = _checked(shape)
    # An array has no truth value.
    if len(steps) == 0:
        raise ValueError(
            "Invalid value for argument `steps`. Expected at least one step size. "
            f"Received: steps={tuple(steps)}"
        )
    grid = _grid(shape)
    count = math.prod(grid)
    # A stable order of raw 64-bit draws is a permutation that needs no distribution.
    order = np.argsort(_raw(count, seed, _STEP_STREAM), kind="stable")
    index = np.empty(count, dtype=np.intp)
    index[order] = np.arange(count) % len(steps)
    blocks = np.repeat(index[:, None], 4, axis=1).reshape(*grid, 4)
    return _spread(blocks, shape).ravel().astype(np.intp)


def _checked(shape: Sequence[int]) -> tuple[int, ...]:
    if len(shape) == 0 or any(not is_integer(n) or n < 1 for n in shape):
        raise ValueError(
            "Invalid value for argument `shape`. Expected the positive sizes of one "
            f"image. Received: shape={tuple(shape)}"
        )
    return tuple(int(n) for n in shape)


def _grid(shape: tuple[int, ...]) -> tuple[int, ...]:
    """How many blocks each axis has; a part of a block counts as one."""
    if len(shape) == 1:
        return (-(-shape[0] // 4),)
    height, width, *rest = shape
    return (-(-height // 2), -(-width // 2), *rest)


def _spread(
    blocks: npt.NDArray[np.generic], shape: tuple[int, ...]
) -> npt.NDArray[np.generic]:
    """Lays blocks `(*grid, 4)` out as an image, cutting what sticks out."""
    if len(shape) == 1:
        return blocks.reshape(-1)[: shape[0]]
    rows, columns, *rest = blocks.shape[:-1]
    image = blocks.reshape(rows, columns, *rest, 2, 2)
    image = np.moveaxis(image, (-2, -1), (1, 3)).reshape(2 * rows, 2 * columns, *rest)
    return image[: shape[0], : shape[1]]


def _raw(count: int, seed: int, stream: int) -> npt.NDArray[np.uint64]:
    if not (is_integer(seed) and 0 <= seed < 2**64):
        raise ValueError(
            "Invalid value for argument `seed`. Expected an integer from 0 to 2**64 - "
            f"1. Received: seed={seed!r}"
        )
    key = np.array([int(seed), stream], dtype=np.uint64)
    return np.random.Philox(key=key).random_raw(count)
