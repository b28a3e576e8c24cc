"""A classifier's output as soft labels that tell how sure it is in steps."""

import tensorflow as tf

# From one tread of the stairs to the next.
ROUNDING = 0.05


def soft_labels(answers: tf.Tensor, *, from_logits: bool = True) -> tf.Tensor:
    r"""Turns logits or probabilities into soft labels that change in steps alone.

    With the probability $p$ of the best class, $r = 0.05$ and

    $$s = r \lfloor p / r \rfloor + r / 2,$$

    but at most $1 - r/2$ and at least $r$ and $1/n + r/2$ of $n$ classes, so that the
    best remains the best, it gets $s$ and each of the others an equal part of $1 - s$.
    So the soft label of the best class is its probability to within $r/2$, and nothing
    of it has a slope: where a watermark decoder is added, the slope of the sum is the
    decoder's alone.

    Args:
        answers: `(batch, num_classes)`, floating point: a classifier's output.
        from_logits: Whether `answers` are logits; if not, each row is probabilities.
            Defaults to `True`.

    Returns:
        `(batch, num_classes)`, float32; each row sums to 1. The gradient is 0.
    """
    answers = tf.cast(answers, tf.float32)
    shares = tf.nn.softmax(answers, axis=-1) if from_logits else answers
    highest = tf.reduce_max(shares, axis=-1, keepdims=True)
    middle = ROUNDING * (tf.floor(highest / ROUNDING) + 0.5)
    classes = tf.shape(answers)[-1]
    count = tf.cast(classes, tf.float32)
    least = tf.maximum(ROUNDING, 1.0 / count + ROUNDING / 2)
    share = tf.clip_by_value(middle, least, 1.0 - ROUNDING / 2)
    best = tf.one_hot(tf.argmax(answers, axis=-1), classes)
    rest = (1.0 - share) / (count - 1.0)
    return tf.where(best > 0, share, rest)
