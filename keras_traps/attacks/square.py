"""Square: random search by squares, all examples of a batch at once."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_traps._checks import FloatArray
from keras_traps.attacks.base import Batch, NormAttack, Perturbed, Share
from keras_traps.attacks.loop import Stream, generators
from keras_traps.attacks.queries import QueryAttack, Teller

# After so many squares the share of the pixels that one covers is halved.
_HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
# How many queries' draws are held at once.
_DRAWN = 500
# What the authors' code adds to a length that it divides by.
_LEAST = 1e-12

_Floats = npt.NDArray[np.floating[Any]]
_Draws = Sequence[np.random.Generator]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Square(NormAttack, QueryAttack):
    """Random search by squares at the border of a ball.

    Andriushchenko et al., Square Attack: a query-efficient black-box adversarial attack
    via random search, 2020. In the L-infinity ball it starts with vertical stripes, and
    in a square each channel moves by `eps`, up or down; in the L2 ball it starts with a
    grid of bumps, and a square gets the length of another one. What lessens the margin
    of the true class is kept; an example ends at its first success. Squares lie at the
    right and lower border too, which the authors' code leaves out.
    """

    p_init: Share = 0.8  # of the pixels: what the first square covers
    # Whether squares shrink as `nb_queries` are used up, as in the attack's own code;
    # AutoAttack's shrink as if these were 10,000.
    resc_schedule: bool = True
    name = "Square"
    needs_channels_last = True

    def perturb(self, batch: Batch) -> Perturbed:
        """Draws squares, one in each turn for all examples that still stand."""
        images, count = batch.images.copy(), len(batch.ids)
        draws = generators(batch.ids, batch.seed, Stream.QUERIES)
        start, change, columns = (
            (_stripes, _recoloured, 2) if self.norm == "Linf" else (_bumps, _shifted, 5)
        )
        columns += images.shape[-1]
        drawn = np.empty((count, _DRAWN, columns), np.float32)
        spent = np.ones(count, np.int64)
        rows = np.arange(count)
        teller = Teller(self, batch)
        rows = rows[teller.tell(rows, images) <= 0]
        best = np.full(count, -math.inf, np.float32)
        # Before each query the first square's number is 0.
        for number in range(-1, self.nb_queries - 2):
            if not len(rows):
                break
            clean = batch.images[rows]
            if number < 0:
                tried = start(clean, self.eps, [draws[row] for row in rows])
            else:
                if number % _DRAWN == 0:
                    for row in rows:
                        draws[row].random(out=drawn[row], dtype=np.float32)
                numbers = drawn[rows, number % _DRAWN]
                side = self._side(number, *clean.shape[1:3])
                tried = change(clean, images[rows], self.eps, side, numbers)
            told = teller.tell(rows, tried)
            spent[rows] += 1
            better = told > best[rows]
            images[rows[better]], best[rows[better]] = tried[better], told[better]
            rows = rows[best[rows] <= 0]
        return Perturbed(images, spent, teller.rejections)

    def _side(self, number: int, height: int, width: int) -> int:
        """Returns the length of a square's sides; in the L2 ball an odd one above 2."""
        if self.resc_schedule:
            number = number * 10_000 // self.nb_queries
        share = self.p_init / 2 ** int(np.searchsorted(_HALVED, number))
        side = round(math.sqrt(share * height * width))
        if self.norm == "L2":
            side = max(side, 3) // 2 * 2 + 1
        return min(max(side, 1), height, width)


def _stripes(clean: FloatArray, eps: float, draws: _Draws) -> FloatArray:
    _, _, width, channels = clean.shape
    up = np.stack([draw.random((1, width, channels)) < 0.5 for draw in draws])
    return _corners(clean, eps, up)


def _corners(clean: FloatArray, eps: float, up: npt.NDArray[np.bool_]) -> FloatArray:
    moved = clean + np.where(up, np.float32(eps), np.float32(-eps))
    return np.clip(moved, 0, 1)


def _recoloured(
    clean: FloatArray, best: FloatArray, eps: float, side: int, drawn: FloatArray
) -> FloatArray:
    """Returns images with a square in which each channel has moved by `eps`."""
    inside = _squares(clean.shape, side, drawn[:, :2])
    up = drawn[:, None, None, 2:] < 0.5
    tried = np.where(inside, _corners(clean, eps, up), best)
    # One that changes nothing is not worth a query.
    same = (tried == best).all(axis=(1, 2, 3))
    if same.any():
        other = _corners(clean[same], eps, ~up[same])
        tried[same] = np.where(inside[same], other, best[same])
    return tried


def _places(size: int, side: int, drawn: _Floats) -> npt.NDArray[np.int64]:
    """Returns where squares begin, from numbers below 1."""
    return (drawn.astype(np.float64) * (size - side + 1)).astype(np.int64)


def _squares(
    shape: tuple[int, ...], side: int, drawn: _Floats
) -> npt.NDArray[np.bool_]:
    """Returns `(rows, height, width, 1)`: what lies in a square."""
    _, height, width, _ = shape
    top = _places(height, side, drawn[:, 0])[:, None]
    left = _places(width, side, drawn[:, 1])[:, None]
    down, across = np.arange(height), np.arange(width)
    in_rows = (down >= top) & (down < top + side)
    in_columns = (across >= left) & (across < left + side)
    return (in_rows[:, :, None] & in_columns[:, None, :])[..., None]


def _bumps(clean: FloatArray, eps: float, draws: _Draws) -> FloatArray:
    """Fills images with squares of a fifth of their height."""
    _, height, width, channels = clean.shape
    side = min(max(height // 5, 1), width)
    tops, lefts = (
        range(size % side // 2, size - side + 1, side) for size in (height, width)
    )
    tiles = len(tops), len(lefts)
    drawn = np.stack([draw.random((*tiles, 1 + channels)) for draw in draws])
    change = np.zeros_like(clean)
    for row, top in enumerate(tops):
        for column, left in enumerate(lefts):
            place = slice(top, top + side), slice(left, left + side)
            change[:, *place] = _signed_bumps(side, drawn[:, row, column])
    return _on_sphere(clean, change, eps)


def _on_sphere(clean: FloatArray, change: FloatArray, eps: float) -> FloatArray:
    length = np.sqrt(np.square(change).sum(axis=(1, 2, 3), keepdims=True))
    return np.clip(clean + change / (length + _LEAST) * np.float32(eps), 0, 1)


def _shifted(
    clean: FloatArray, best: FloatArray, eps: float, side: int, drawn: FloatArray
) -> FloatArray:
    """Returns images of which one square has the length of another one's change too."""
    change, channels = best - clean, clean.shape[-1]
    inside, other = (_squares(clean.shape, side, drawn[:, i : i + 2]) for i in (0, 2))
    lengths = np.square(change).sum(axis=(1, 2, 3), keepdims=True)
    both = np.square(change * (inside | other)).sum(axis=(1, 2), keepdims=True)
    shape = len(clean), side, side, channels
    old = change[np.broadcast_to(inside, change.shape)].reshape(shape)
    new = _signed_bumps(side, drawn[:, 4:]) + _of_length_1(old)
    unused = np.maximum(np.float32(eps) ** 2 - lengths, 0) / channels
    new = _of_length_1(new) * np.sqrt(unused + both)
    change[np.broadcast_to(other, change.shape)] = 0
    change[np.broadcast_to(inside, change.shape)] = new.ravel()
    return _on_sphere(clean, change, eps)


def _of_length_1(squares: _Floats) -> _Floats:
    length = np.sqrt(np.square(squares).sum(axis=(1, 2), keepdims=True))
    return squares / (length + np.float32(_LEAST))


def _signed_bumps(side: int, drawn: _Floats) -> FloatArray:
    """Returns `(rows, side, side, channels)`: a hill and a dale beside each other."""
    lying = drawn[:, 0, None, None] < 0.5
    bump = _bump(side)
    signs = np.where(drawn[:, None, None, 1:] < 0.5, -1, 1).astype(np.float32)
    return np.where(lying, bump.T, bump)[..., None] * signs


@functools.lru_cache
def _bump(side: int) -> FloatArray:
    half = side // 2
    bump = np.concatenate([_hill(half, side), -_hill(side - half, side)])
    return (bump / np.linalg.norm(bump)).astype(np.float32)


def _hill(height: int, width: int) -> npt.NDArray[np.float64]:
    """Returns the sum of rectangles around the middle, the larger the lower."""
    hill = np.zeros((height, width))
    top, left = height // 2, width // 2
    for ring in range(max(top, left) + 1):
        rows = slice(max(top - ring, 0), top + ring + 1)
        columns = slice(max(left - ring, 0), left + ring + 1)
        hill[rows, columns] += 1 / (ring + 1) ** 2
    return hill / (np.linalg.norm(hill) + _LEAST)
