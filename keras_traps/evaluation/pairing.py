"""Two outcomes on the images that both met, and whether chance explains the rest."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from keras_traps._checks import IntArray

LEVEL = 0.05
"""A pair whose `p_value` is below this is taken to be beyond chance."""

Outcome = tuple[IntArray, npt.NDArray[np.bool_]]
"""Which images were met, by their ids, and on which of them it went well."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two outcomes on the images that both met.

    Args:
        images: How many these are.
        ahead: On how many of them the first alone did well.
        behind: On how many the second alone did.
        p_value: How likely at least so uneven a split is if neither is better: the
            exact test of McNemar, two-sided.
    """

    images: int
    ahead: int
    behind: int
    p_value: float


def on_common_images(
    first: Outcome, second: Outcome
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Returns what became of the images that both met.

    Args:
        first: One outcome.
        second: Another; the images may be in another order.

    Returns:
        `(images,)` each: where the first and where the second went well.
    """
    _, mine, other = np.intersect1d(first[0], second[0], return_indices=True)
    return first[1][mine], second[1][other]


def compare(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> Pair:
    """Compares two outcomes image by image.

    Args:
        first: `(images,)`: where the first went well.
        second: `(images,)`: where the second did, of the same images.

    Returns:
        The counts.
    """
    ahead, behind = int((first & ~second).sum()), int((second & ~first).sum())
    differ = ahead + behind
    # Where they never differ nothing speaks for either.
    p_value = float(binomtest(ahead, differ).pvalue) if differ else 1.0
    return Pair(len(first), ahead, behind, p_value)
