"""Whether an attack that looks at its own steps has reached what it wanted."""

import numpy as np
import tensorflow as tf

from keras_traps.attacks.losses import rivals_lead

# Some ten roundings of float32. An answer that is closer than this to another one may
# be that other one when the image is looked at in a batch of another size.
_ROUNDING = 1e-5
# Where all logits are 0 no answer is the one that is wanted either.
_LEAST = np.finfo(np.float32).tiny


def fooled(logits: tf.Tensor, labels: tf.Tensor, targeted: tf.Tensor) -> tf.Tensor:
    """Returns which examples have succeeded, clear of rounding.

    Args:
        logits: `(rows, num_classes)`, float32, of any scale.
        labels: `(rows,)`, int64: the targets, or the true classes.
        targeted: Scalar, bool: whether `labels` are targets.

    Returns:
        `(rows,)`, bool: the answer is the target, or not the true class, and the next
        one lies behind it by more than 1e-5 of the row's largest logit.
    """
    lead = rivals_lead(logits, labels, "margin")
    return tf.where(targeted, -lead, lead) > rounding(logits)


def rounding(logits: tf.Tensor) -> tf.Tensor:
    """Returns how far apart two answers have to be to be told apart for sure.

    Args:
        logits: `(rows, num_classes)`, float32, of any scale.

    Returns:
        `(rows,)`, float32, above 0: 1e-5 of the row's largest logit; a constant to
        gradients.
    """
    largest = tf.reduce_max(tf.abs(tf.stop_gradient(logits)), axis=-1)
    return tf.maximum(_ROUNDING * largest, _LEAST)
