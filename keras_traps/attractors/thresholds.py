"""The four conditions of detection and the thresholds that decide them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps import ops
from keras_traps._checks import check_count, check_number, check_share
from keras_traps.ops.forensics import CONDITIONS, joint_score, statistics
from keras_traps.rates import threshold_rank


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """The thresholds of Section V-C and that of C's lead, set jointly.

    Args:
        upper: U: an input with max w above it is adversarial (C1).
        lower: L: an input with min w below it is adversarial (C2).
        deviation: sigma_0: an input with stdev(w) above it is adversarial (C3).
        lead: An input whose best logit of C leads the next by less is adversarial (C4).
        fpr: The false-positive rate that they were set for.
        num_images: On how many clean images.
        centre: Mean of max w, -min w, stdev(w) and -ln(lead) on those images.
        scale: Standard deviation of the same.
        score: The score at the thresholds: how many of its standard deviations the
            largest of the four lies above its mean.
    """

    upper: float
    lower: float
    deviation: float
    lead: float
    fpr: float
    num_images: int
    centre: tuple[float, ...]
    scale: tuple[float, ...]
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
                `scale` does not hold four.
        """
        tuples = {
            name: tuple(data[name]) for name in ("centre", "scale") if name in data
        }
        made = cls(**{**data, **tuples})
        made._check()
        return made

    @property
    def limits(self) -> tuple[float, ...]:
        """What max w, -min w, stdev(w) and -ln(lead) of a clean input do not exceed."""
        return (self.upper, -self.lower, self.deviation, -math.log(self.lead))

    def judge(self, evidence: tf.Tensor) -> ops.Judgement:
        """Tells attacked inputs from clean ones; the score does not depend on `fpr`.

        Args:
            evidence: `(batch, 2, num_classes)`, floating point: W(x) and C's logits.

        Returns:
            What `keras_traps.ops.judge` says of them, computed in float64; the score is
            in standard deviations of clean images.
        """
        correlations, logits = tf.unstack(tf.cast(evidence, tf.float64), axis=1)
        return ops.judge(
            correlations, logits, self.limits, centre=self.centre, scale=self.scale
        )

    def tf_score(self, evidence: tf.Tensor) -> tf.Tensor:
        """Returns the score alone, with its gradient.

        Args:
            evidence: `(batch, 2, num_classes)`, floating point: W(x) and C's logits.

        Returns:
            `(batch,)`, float32.
        """
        both = tf.unstack(tf.cast(evidence, tf.float64), axis=1)
        return joint_score(statistics(*both), self.centre, self.scale)

    def _check(self) -> None:
        # A limit that is not a number would switch its condition off without a word.
        for name in ("upper", "lower", "deviation", "score"):
            check_number(getattr(self, name), name=name)
        check_number(self.lead, name="lead", above=0.0)
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


def set_thresholds(evidence: npt.ArrayLike, fpr: float) -> Thresholds:
    """Sets the thresholds jointly for a false-positive rate; see `fit`."""
    # A NumPy number could not be saved.
    fpr = check_share(fpr, name="fpr")
    correlations, logits = tf.unstack(tf.cast(evidence, tf.float64), axis=1)
    found = statistics(correlations, logits).numpy()
    rank = threshold_rank(len(found), fpr)
    centre, scale = found.mean(axis=0), found.std(axis=0)
    if not (scale > 0).all():
        raise ValueError(
            "Invalid value for argument `images`. Expected clean images that "
            "differ. Received images of which W or C's lead is always the same."
        )
    scores = ((found - centre) / scale).max(axis=1)
    last = np.argsort(scores, kind="stable")[rank - 1]
    score = float(scores[last])
    # Scaled back, a limit may fall a rounding short of the image that set it.
    limits = np.maximum(centre + score * scale, found[last])
    return Thresholds(
        upper=float(limits[0]),
        lower=float(-limits[1]),
        deviation=float(limits[2]),
        # Of several that have one logarithm the least.
        lead=float(np.exp(-limits[3]) * (1 - 1e-12)),
        fpr=fpr,
        num_images=len(found),
        centre=tuple(centre.tolist()),
        scale=tuple(scale.tolist()),
        score=score,
    )
