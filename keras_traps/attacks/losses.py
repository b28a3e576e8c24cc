"""What a gradient attack raises or lowers."""

from collections.abc import Callable
from typing import Literal, get_args

import tensorflow as tf

Loss = Literal["cross_entropy", "margin"]
"""`"cross_entropy"` of the softmax of the logits; `"margin"` between two classes.

The margin is that of the given class to its strongest rival. Its gradient does not
vanish where the model is sure.
"""

Logits = Callable[[tf.Tensor], tf.Tensor]


def check_loss(loss: str) -> None:
    """Refuses an unknown loss.

    Args:
        loss: Its name.

    Raises:
        ValueError: If it is not one of `Loss`; the message lists them.
    """
    if loss not in get_args(Loss):
        raise ValueError(
            f"Invalid value for argument `loss`. Expected one of {get_args(Loss)}. "
            f"Received: loss={loss!r}"
        )


def logits_under_loss(logits: Logits, labels: tf.Tensor, loss: Loss) -> Logits:
    """Returns logits whose cross-entropy has the gradient direction of `loss`.

    cleverhans' momentum attack knows the cross-entropy alone. All attacks here look at
    each example's gradient up to a positive factor, and with all but the given class
    and its rival taken out the cross-entropy's gradient is the margin's times such a
    factor. Both logits are divided by their distance, a constant to the gradient, so
    that the factor never vanishes in float32.

    Args:
        logits: A function from a batch to `(batch, num_classes)`.
        labels: `(batch,)`, int64: the given classes.
        loss: What is to be followed.

    Returns:
        A function of the same form: `logits` itself for the cross-entropy,
        `(batch, num_classes)` with all but two classes far below for the margin.
    """
    if loss == "cross_entropy":
        return logits

    def two_classes(images: tf.Tensor) -> tf.Tensor:
        values = logits(images)
        given = tf.one_hot(labels, tf.shape(values)[-1], dtype=values.dtype)
        lowest = values.dtype.min / 4
        rivals = tf.where(given > 0, lowest, values)
        rival = tf.one_hot(tf.argmax(rivals, -1), tf.shape(values)[-1])
        margin = tf.reduce_sum((given - rival) * values, axis=-1, keepdims=True)
        scaled = values / tf.stop_gradient(tf.maximum(tf.abs(margin), 1e-12))
        # The shift keeps both logits near 0, whatever they are divided by.
        shift = tf.stop_gradient(tf.reduce_sum(given * scaled, axis=-1, keepdims=True))
        return tf.where(given + rival > 0, scaled - shift, lowest)

    return two_classes
