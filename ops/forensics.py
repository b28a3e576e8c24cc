"""The forensic step: what the decoder and the classifier say of an input."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

# High correlation, low correlation, large spread: Section V-C. C's lead is small.
CONDITIONS = ("C1", "C2", "C3", "C4")
_W_CONDITIONS = 3


class Judgement(NamedTuple):
    """What the evidence on a batch says.

    Args:
        fired: `(batch, 4)`, bool: which of C1 to C4 hold.
        score: `(batch,)`, float32, higher for more adversarial.
        flagged: `(batch,)`, bool: whether any condition holds.
        recovered: `(batch,)`, int64: the class that a flagged input had before the
            attack, else -1.
    """

    fired: tf.Tensor
    score: tf.Tensor
    flagged: tf.Tensor
    recovered: tf.Tensor


def judge(
    correlations: tf.Tensor,
    logits: tf.Tensor,
    limits: Sequence[float],
    *,
    centre: Sequence[float],
    scale: Sequence[float],
) -> Judgement:
    r"""Tells attacked inputs from clean ones, and which class they were.

    With the statistics $t = (\max w, -\min w, \mathrm{stdev}(w), -\ln l)$, of which
    $l$ is how far the largest logit of C leads the next, and with limits $\tau$,
    condition i holds where $t_i > \tau_i$, and the score is $\max_i (t_i - c_i) / s_i$.

    C1 to C3 see an attack that followed the slope of W. It left its class for another
    one, so that the class before it is that of lowest correlation. C4 sees one that
    followed no slope and stopped just behind C's own border; where it holds alone, the
    class before is C's second.

    Nothing of it has a gradient.

    Args:
        correlations: `(batch, num_classes)`, float32 or float64: w = W(x). All is
            computed in its dtype.
        logits: The same shape and dtype: C's logits, or logarithms of probabilities.
        limits: U, -L, sigma_0 and -ln of the least lead: tau.
        centre: Four numbers c that the score is measured from.
        scale: Four numbers s that it is measured in.

    Returns:
        Conditions, score, flag and recovered class of each input.

    Reference:
        Zhang, Chang, Lee, Detection and Recovery of Adversarial Attacks with Injected
        Attractors, Sections V-C and V-D; C4 is not of the paper.
    """
    correlations, logits = tf.stop_gradient(correlations), tf.stop_gradient(logits)
    found = statistics(correlations, logits)
    fired = found > tf.constant(limits, found.dtype)
    score = joint_score(found, centre, scale)
    flagged = tf.reduce_any(fired, axis=-1)
    nothing = tf.constant(-1, tf.int64)
    recovered = tf.where(flagged, recover(correlations, logits, fired), nothing)
    return Judgement(fired, score, flagged, recovered)


def joint_score(
    found: tf.Tensor, centre: Sequence[float], scale: Sequence[float]
) -> tf.Tensor:
    """Returns the score of `judge`, `(batch,)`, float32, of what `statistics` says."""
    scores = found - tf.constant(centre, found.dtype)
    scores /= tf.constant(scale, found.dtype)
    return tf.cast(tf.reduce_max(scores, axis=-1), tf.float32)


def recover(correlations: tf.Tensor, logits: tf.Tensor, fired: tf.Tensor) -> tf.Tensor:
    """Returns the class before the attack, `(batch,)`, int64; see `judge`."""
    by_watermark = tf.reduce_any(fired[:, :_W_CONDITIONS], axis=-1)
    second = tf.cast(tf.math.top_k(logits, 2).indices[:, 1], tf.int64)
    return tf.where(by_watermark, tf.argmin(correlations, axis=-1), second)


def statistics(correlations: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns t of `judge`, `(batch, 4)`, which has a finite gradient."""
    w, least = correlations, np.finfo(np.float32).tiny
    highest, lowest = tf.reduce_max(w, axis=-1), tf.reduce_min(w, axis=-1)
    best = tf.math.top_k(logits, 2).values
    lead = tf.maximum(best[:, 0] - best[:, 1], least)
    # The root's slope at 0 is infinite, and infinity times 0 no number.
    spread = tf.sqrt(tf.maximum(tf.math.reduce_variance(w, axis=-1), least))
    return tf.stack([highest, -lowest, spread, -tf.math.log(lead)], axis=-1)
