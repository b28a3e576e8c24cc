"""What each attack made of each image, and what M and M∘P answer to that."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from keras_traps._checks import FloatArray, IntArray


@dataclasses.dataclass(frozen=True)
class LuringRecord:
    """What one attack made of some images; arrays have one row per image.

    Args:
        ids: Index in the test set.
        labels: True class.
        augmented: What M∘P answers to the attacked image.
        target: What M answers.
        l0: How many values changed.
        l2: L2 distance to the clean image, pixels in [0, 1].
        linf: Largest change of a value.
        iterations: How many steps the attack spent.
    """

    ids: IntArray
    labels: IntArray
    augmented: IntArray
    target: IntArray
    l0: IntArray
    l2: FloatArray
    linf: FloatArray
    iterations: IntArray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def answers(self) -> dict[str, IntArray]:
        """What is counted, by the names that `keras_traps.luring`'s metrics take."""
        return {
            "augmented": self.augmented,
            "target": self.target,
            "labels": self.labels,
        }

    def take(self, count: int) -> LuringRecord:
        """Returns the record of the first images."""
        return self.only(slice(count))

    def only(self, chosen: slice | npt.NDArray[np.bool_]) -> LuringRecord:
        """Returns the record of the chosen images."""
        return LuringRecord(
            *(getattr(self, field.name)[chosen] for field in dataclasses.fields(self))
        )

    @staticmethod
    def join(records: Sequence[LuringRecord]) -> LuringRecord:
        """Joins the records of several pieces into one."""
        return LuringRecord(
            *(
                np.concatenate([getattr(record, field.name) for record in records])
                for field in dataclasses.fields(LuringRecord)
            )
        )
