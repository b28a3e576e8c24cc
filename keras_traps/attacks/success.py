"""Whether an attack that looks at its own steps has reached what it wanted."""

import numpy as np
import tensorflow as tf

from keras_traps.attacks.losses import rivals_lead

# Some ten roundings of float32. An answer that is closer than this to another one may
# be that other one when the image is looked at in a batch of another size.
_ROUNDING = 1e-5
# Of two classes that tie, a model that subtracts each row's largest logit leaves two
# small numbers with the rounding of large ones. The other logits tell how large those
# were; but one of -1e9 masks its class, and tells nothing.
_LARGEST_OTHER = 10.0
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
        one lies behind it by more than `rounding`.
    """
    lead = rivals_lead(logits, labels, "margin")
    return tf.where(targeted, -lead, lead) > rounding(logits, labels)


def rounding(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Returns how far apart two answers have to be to be told apart for sure.

    Args:
        logits: `(rows, num_classes)`, float32, of any scale.
        labels: `(rows,)`, int64: the classes that are compared with their strongest
            rivals.

    Returns:
        `(rows,)`, float32, above 0: 1e-5 of the larger of the two logits, or of the
        row's largest, as far as that is not above 10; a constant to gradients.
    """
    given = tf.gather(logits, labels, axis=-1, batch_dims=1)
    rival = given + rivals_lead(logits, labels, "margin")
    compared = tf.maximum(tf.abs(given), tf.abs(rival))
    others = tf.minimum(tf.reduce_max(tf.abs(logits), axis=-1), _LARGEST_OTHER)
    largest = tf.stop_gradient(tf.maximum(compared, others))
    return tf.maximum(_ROUNDING * largest, _LEAST)
