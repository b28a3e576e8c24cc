"""The three conditions of detection and the thresholds that decide them."""

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from keras_traps._validation import FloatArray, check_share

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
    check_share(fpr, name="fpr")
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
