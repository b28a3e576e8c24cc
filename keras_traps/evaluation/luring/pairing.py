"""Two variants of M∘P on the images that both met."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from keras_traps.evaluation.luring.records import LuringRecord
from keras_traps.evaluation.pairing import LEVEL, Pair, compare, on_common_images
from keras_traps.luring.metrics import defended


@dataclasses.dataclass(frozen=True)
class Paired:
    """In how many cells one variant is above another on common images.

    Args:
        cells: Of how many.
        images: The smallest and the largest number of common images.
        above: In how many it did well on more of them.
        surely_above: In how many of these beyond chance, at 5 % for each cell.
        surely_below: In how many it did well on fewer, beyond chance.
    """

    cells: int
    images: tuple[int, int]
    above: int
    surely_above: int
    surely_below: int


def pair(first: LuringRecord, second: LuringRecord, measure: str) -> Pair:
    """Compares two variants image by image.

    Args:
        first: What an attack made of the images of one variant.
        second: Of those of another.
        measure: `"ac_m"`, that M is right, or `"dac"`, that it is or that M∘P differs.

    Returns:
        The counts, over the images that are in both records.
    """
    outcomes = ((record.ids, _good(record, measure)) for record in (first, second))
    return compare(*on_common_images(*outcomes))


def count_pairs(pairs: Sequence[Pair]) -> Paired:
    """Counts in how many cells the first variant is above the second.

    Args:
        pairs: One for each cell, at least one.

    Returns:
        The counts.
    """
    sure = [one for one in pairs if one.p_value < LEVEL]
    sizes = [one.images for one in pairs]
    return Paired(
        cells=len(pairs),
        images=(min(sizes), max(sizes)),
        above=sum(one.ahead > one.behind for one in pairs),
        surely_above=sum(one.ahead > one.behind for one in sure),
        surely_below=sum(one.ahead < one.behind for one in sure),
    )


def _good(record: LuringRecord, measure: str) -> npt.NDArray[np.bool_]:
    if measure == "ac_m":
        return record.target == record.labels
    return defended(**record.answers)
