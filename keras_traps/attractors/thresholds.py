"""The three conditions of detection and the thresholds that decide them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps import ops
from keras_traps._checks import check_count, check_number, check_share
from keras_traps.ops.forensics import CONDITIONS, statistics


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

    def judge(self, correlations: tf.Tensor) -> ops.Judgement:
        """Tells attacked inputs from clean ones; the score does not depend on `fpr`.

        Args:
            correlations: `(batch, num_classes)`, floating point: W(x).

        Returns:
            What `keras_traps.ops.judge` says of them, computed in float64; the score is
            in standard deviations of clean images.
        """
        return ops.judge(
            tf.cast(correlations, tf.float64),
            self.upper,
            self.lower,
            self.deviation,
            centre=self.centre,
            scale=self.scale,
        )

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
        check_count("num_images", self.num_images)


def set_thresholds(correlations: npt.ArrayLike, fpr: float) -> Thresholds:
    """Sets the three thresholds jointly for a false-positive rate; see `fit`."""
    # A NumPy number could not be saved.
    fpr = check_share(fpr, name="fpr")
    found = statistics(tf.cast(correlations, tf.float64)).numpy()
    count = len(found)
    needed = math.ceil(1 / fpr - 1e-9) - 1
    if count < needed:
        raise ValueError(
            f"Invalid value for argument `images`. Expected at least {needed} "
            f"clean images for a false-positive rate of {fpr:g}. "
            f"Received: {count} images."
        )
    centre, scale = found.mean(axis=0), found.std(axis=0)
    if not (scale > 0).all():
        raise ValueError(
            "Invalid value for argument `images`. Expected clean images that "
            "differ. Received images whose correlations are all the same."
        )
    scores = ((found - centre) / scale).max(axis=1)
    # The rank at which a new clean image exceeds it with probability fpr at most.
    rank = math.ceil((count + 1) * (1 - fpr) - 1e-9)
    last = np.argsort(scores, kind="stable")[rank - 1]
    score = float(scores[last])
    # Scaled back, a limit may fall a rounding short of the image that set it.
    limits = np.maximum(centre + score * scale, found[last])
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
