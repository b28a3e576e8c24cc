"""What the luring component is trained with: pure functions of logits.

The letters are those of the authors' public code; in the text of equation 1, a and b
are swapped.
"""

from typing import Literal, get_args

import tensorflow as tf

from keras_traps._checks import check_number

LuringLoss = Literal["luring", "margin", "cross_entropy"]
"""What P is trained with: the paper's L, its alternative L', or as the baseline C_E."""


def luring_loss(
    logits: tf.Tensor,
    answer: tf.Tensor,
    runner_up: tf.Tensor,
    luring_weight: float | tf.Tensor = 1.0,
) -> tf.Tensor:
    """The luring loss L of each image, equation 1 of the luring paper.

    With z the logits of M(P(x)), c the class that M gives x and b the one that M ranks
    second: L = max(0, max_{j != c} z_j - z_c) - lambda (z_c - z_b).

    The first part keeps the answer, the second parts it from the class that M would
    be fooled into. At a hinge of exactly 0 the first part has no gradient.
    """
    logits = tf.cast(logits, tf.float32)
    parted = _at(logits, answer) - _at(logits, runner_up)
    return tf.nn.relu(margin_loss(logits, answer)) - luring_weight * parted


def margin_loss(logits: tf.Tensor, answer: tf.Tensor) -> tf.Tensor:
    """The paper's alternative L' of each image, max_{j != c} z_j - z_c; Section 3.2."""
    logits = tf.cast(logits, tf.float32)
    others = tf.where(
        tf.one_hot(answer, tf.shape(logits)[-1], on_value=True, off_value=False),
        logits.dtype.min,
        logits,
    )
    return tf.reduce_max(others, axis=-1) - _at(logits, answer)


def cross_entropy(logits: tf.Tensor, answer: tf.Tensor) -> tf.Tensor:
    """The cross-entropy of each image, of the baselines C_E and Stack."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=tf.cast(answer, tf.int32), logits=tf.cast(logits, tf.float32)
    )


def check_loss(loss: LuringLoss, luring_weight: float | None) -> float | None:
    """Refuses an unknown loss, and a lambda that is none or that it has no use for."""
    check_known("loss", loss, get_args(LuringLoss))
    if luring_weight is None:
        return 1.0 if loss == "luring" else None
    check_number(luring_weight, name="luring_weight", above=0.0)
    if loss != "luring":
        raise ValueError(
            "Invalid value for argument `luring_weight`. Expected none with "
            f"loss={loss!r}. Received: luring_weight={luring_weight!r}"
        )
    return float(luring_weight)


def check_known(name: str, value: str, known: tuple[str, ...]) -> None:
    """Refuses a name that is not one of those that are known."""
    if value not in known:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected one of {known}. "
            f"Received: {name}={value!r}"
        )


def _at(logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    return tf.gather(logits, tf.cast(classes, tf.int32), axis=-1, batch_dims=1)
