"""The forensic step: what the decoder's correlations say of an input."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

# High correlation, low correlation, large spread: Section V-C.
CONDITIONS = ("C1", "C2", "C3")


class Judgement(NamedTuple):
    """What the correlations of a batch say.

    Args:
        fired: `(batch, 3)`, bool: which of C1, C2 and C3 hold.
        score: `(batch,)`, float32, higher for more adversarial.
        flagged: `(batch,)`, bool: whether any condition holds.
        recovered: `(batch,)`, int64: the class of lowest correlation where an input is
            flagged, else -1.
    """

    fired: tf.Tensor
    score: tf.Tensor
    flagged: tf.Tensor
    recovered: tf.Tensor


def judge(
    correlations: tf.Tensor,
    upper: float,
    lower: float,
    deviation: float,
    *,
    centre: Sequence[float] | None = None,
    scale: Sequence[float] = (1.0, 1.0, 1.0),
) -> Judgement:
    r"""Tells attacked inputs from clean ones, and which class they were.

    With the statistics $t(w) = (\max w, -\min w, \mathrm{stdev}(w))$ and the limits
    $\tau = (U, -L, \sigma_0)$, condition i holds where $t_i > \tau_i$, and the score is
    $\max_i (t_i - c_i) / s_i$. An attack leaves its class for another one, so that the
    class before it is that of lowest correlation.

    Nothing of it has a gradient.

    Args:
        correlations: `(batch, num_classes)`, float32 or float64: w = W(x). All is
            computed in its dtype.
        upper: U; a max w above it is adversarial (C1).
        lower: L; a min w below it is adversarial (C2).
        deviation: sigma_0; a stdev(w) above it is adversarial (C3).
        centre: Three numbers c that the score is measured from. Defaults to `None`, the
            limits: the score is by how much the condition that is exceeded most is.
        scale: Three numbers s that it is measured in. Defaults to 1 for each.

    Returns:
        Conditions, score, flag and recovered class of each input.

    Reference:
        Zhang, Chang, Lee, Detection and Recovery of Adversarial Attacks with Injected
        Attractors, Sections V-C and V-D.
    """
    fired = conditions(correlations, upper, lower, deviation)
    found = statistics(correlations)
    if centre is None:
        centre = (upper, -lower, deviation)
    scores = found - tf.constant(centre, found.dtype)
    scores /= tf.constant(scale, found.dtype)
    flagged = tf.reduce_any(fired, axis=-1)
    nothing = tf.constant(-1, tf.int64)
    return Judgement(
        fired=fired,
        score=tf.cast(tf.reduce_max(scores, axis=-1), tf.float32),
        flagged=flagged,
        recovered=tf.where(flagged, recover(correlations), nothing),
    )


def conditions(
    correlations: tf.Tensor, upper: float, lower: float, deviation: float
) -> tf.Tensor:
    """Returns which of C1, C2 and C3 hold, `(batch, 3)`, bool; see `judge`."""
    found = statistics(correlations)
    return found > tf.constant((upper, -lower, deviation), found.dtype)


def recover(correlations: tf.Tensor) -> tf.Tensor:
    """Returns the class of lowest correlation, `(batch,)`, int64; see `judge`."""
    return tf.argmin(correlations, axis=-1)


def statistics(correlations: tf.Tensor) -> tf.Tensor:
    """Returns max w, -min w and stdev(w), `(batch, 3)`, without a gradient."""
    w = tf.stop_gradient(correlations)
    highest, lowest = tf.reduce_max(w, axis=-1), tf.reduce_min(w, axis=-1)
    return tf.stack([highest, -lowest, tf.math.reduce_std(w, axis=-1)], axis=-1)
