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


def logits_under_loss(logits: Logits, labels: tf.Tensor, loss: Loss) -> Logits:
    """Returns logits whose cross-entropy has the gradient direction of `loss`.

    cleverhans follows the cross-entropy by itself, and takes it from logits in
    float32. The given class and one other stand for the lead of `rivals_lead`,
    divided by its own size, a constant to the gradient, so that the factor between
    the gradients never vanishes.

    Args:
        logits: A function from a batch to `(batch, num_classes)`.
        labels: `(batch,)`, int64: the given classes. May be a variable.
        loss: What is to be followed.

    Returns:
        A function of the same form; all but two classes lie far below.
    """

    def two_classes(images: tf.Tensor) -> tf.Tensor:
        values = logits(images)
        given = tf.convert_to_tensor(labels)
        lead = rivals_lead(values, given, loss)
        size = tf.stop_gradient(tf.maximum(tf.abs(lead), 1e-12))
        count = tf.shape(values)[-1]
        classes = tf.range(tf.cast(count, given.dtype))
        other = (given + 1) % tf.cast(count, given.dtype)
        lowest = values.dtype.min / 4
        return tf.where(
            classes == given[:, None],
            (-lead / size)[:, None],
            tf.where(classes == other[:, None], tf.zeros_like(values), lowest),
        )

    return two_classes
