"""The three conditions of detection and the thresholds that decide them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from keras_traps._checks import (
    FloatArray,
    check_number,
    check_share,
    is_integer,
)

CONDITIONS = ("C1", "C2", "C3")
"""High correlation, low correlation, large spread: Section V-C."""


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """The three thresholds of Section V-C, set jointly.

    Args:
        upper: U: an input with max w above it is adversarial (C1).
        lower: L: an input with min w below it is adversarial (C2).
        deviation: sigma_0: an input with stdev(w) above it is adversarial (C3).
        fpr: The false-positive rate that they were set for.
        num_images: On how many clean images.
        centre: Mean of max w, -min w and stdev(w) on those images.
        scale: Standard deviation of the same.
        score: The score at the thresholds: how many of its standard deviations the
            largest of the three lies above its mean.
    """

    upper: float
    lower: float
    deviation: float
    fpr: float
    num_images: int
    centre: tuple[float, float, float]
    scale: tuple[float, float, float]
    score: float

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Makes thresholds from `dataclasses.asdict` of others, or from its JSON.

        Args:
            data: The fields by name.

        Returns:
            The thresholds.

        Raises:
            TypeError: If a field is missing or unknown, or `centre` or `scale` is no
                sequence.
            ValueError: If a number is not finite or out of its range, or `centre` or
                `scale` does not hold three.
        """
        triples = {
            name: tuple(data[name]) for name in ("centre", "scale") if name in data
        }
        made = cls(**{**data, **triples})
        made._check()
        return made

    def _check(self) -> None:
        # A limit that is not a number would switch its condition off without a word.
        for name in ("upper", "lower", "deviation", "score"):
            check_number(getattr(self, name), name=name)
        for name, above in (("centre", -math.inf), ("scale", 0.0)):
            values = getattr(self, name)
            if len(values) != len(CONDITIONS):
                raise ValueError(
                    f"Invalid value for argument `{name}`. Expected "
                    f"{len(CONDITIONS)} numbers, one for each condition. "
                    f"Received: {name}={values}"
                )
            for value in values:
                check_number(value, name=name, above=above)
        check_share(self.fpr, name="fpr")
        if not (is_integer(self.num_images) and self.num_images >= 1):
            raise ValueError(
                "Invalid value for argument `num_images`. Expected an integer of at "
                f"least 1. Received: num_images={self.num_images!r}"
            )


def statistics_of(correlations: FloatArray) -> npt.NDArray[np.float64]:
    """Returns what the three conditions look at; each is higher for more adversarial.

    Args:
        correlations: `(images, num_classes)`, W(x).

    Returns:
        `(images, 3)`: max w, -min w and stdev(w).
    """
    w = np.asarray(correlations, np.float64)
    return np.stack([w.max(axis=1), -w.min(axis=1), w.std(axis=1)], axis=1)


def set_thresholds(correlations: FloatArray, fpr: float) -> Thresholds:
    """Sets the three thresholds jointly for a false-positive rate.

    Args:
        correlations: `(images, num_classes)`, W on clean images.
        fpr: Share of clean images that may be flagged, between 0 and 1.

    Returns:
        The thresholds.

    Raises:
        ValueError: If `fpr` is out of range, or there are too few images for it; the
            message says how many are needed.
    """
    # A NumPy number could not be saved.
    fpr = check_share(fpr, name="fpr")
    count = len(correlations)
    needed = math.ceil(1 / fpr - 1e-9) - 1
    if count < needed:
        raise ValueError(
            f"Invalid value for argument `images`. Expected at least {needed} "
            f"clean images for a false-positive rate of {fpr:g}. "
            f"Received: {count} images."
        )
    statistics = statistics_of(correlations)
    centre, scale = statistics.mean(axis=0), statistics.std(axis=0)
    if not (scale > 0).all():
        raise ValueError(
            "Invalid value for argument `images`. Expected clean images that "
            "differ. Received images whose correlations are all the same."
        )
    scores = ((statistics - centre) / scale).max(axis=1)
    # The rank at which a new clean image exceeds it with probability fpr at most.
    rank = math.ceil((count + 1) * (1 - fpr) - 1e-9)
    last = np.argsort(scores, kind="stable")[rank - 1]
    score = float(scores[last])
    # Scaled back, a limit may fall a rounding short of the image that set it.
    limits = np.maximum(centre + score * scale, statistics[last])
    return Thresholds(
        upper=float(limits[0]),
        lower=float(-limits[1]),
        deviation=float(limits[2]),
        fpr=fpr,
        num_images=count,
        centre=(float(centre[0]), float(centre[1]), float(centre[2])),
        scale=(float(scale[0]), float(scale[1]), float(scale[2])),
        score=score,
    )
