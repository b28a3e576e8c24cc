"""What a gradient attack raises or lowers."""

from collections.abc import Callable
from typing import Literal, get_args

import tensorflow as tf

Loss = Literal["cross_entropy", "margin"]
"""`"cross_entropy"` of the softmax of the logits; `"margin"` between two classes.

The margin is that of the given class to its strongest rival.
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


def rivals_lead(logits: tf.Tensor, labels: tf.Tensor, loss: Loss) -> tf.Tensor:
    """Returns how far the other classes lie above the given one.

    The cross-entropy is log(1 + exp(lead)) of the lead that is taken over all rivals
    by log-sum-exp. Both have the same gradient up to a positive factor, which the
    attacks here do not look at; but the cross-entropy's vanishes in float32 where the
    model is sure, and the lead's does not.

    Args:
        logits: `(batch, num_classes)`, floating point.
        labels: `(batch,)`, integers: the given classes.
        loss: `"cross_entropy"` for the log-sum-exp over all rivals, `"margin"` for the
            strongest rival alone.

    Returns:
        `(batch,)`: what an attack away from the class raises, and one towards it
        lowers.
    """
    given = tf.one_hot(labels, tf.shape(logits)[-1], on_value=True, off_value=False)
    # A quarter of the lowest number, so that differences of two are finite.
    rivals = tf.where(given, logits.dtype.min / 4, logits)
    if loss == "margin":
        # One rival where several are alike: `reduce_max` shares the gradient out.
        strongest = tf.argmax(rivals, axis=-1)
        highest = tf.gather(logits, strongest, axis=-1, batch_dims=1)
    else:
        highest = tf.reduce_logsumexp(rivals, axis=-1)
    return highest - tf.gather(logits, labels, axis=-1, batch_dims=1)
