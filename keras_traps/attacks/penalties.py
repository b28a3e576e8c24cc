"""What optimisation attacks pay as long as the answer is not the one they want."""

import tensorflow as tf

from keras_traps.attacks.losses import rivals_lead
from keras_traps.attacks.success import rounding


def hinge(
    logits: tf.Tensor, labels: tf.Tensor, targeted: tf.Tensor, confidence: tf.Tensor
) -> tf.Tensor:
    r"""Returns how far the answer is from the one that is wanted.

    $$f(x') = \max(\max_{i \ne t} Z(x')_i - Z(x')_t + \kappa, 0)$$

    towards class t, and the same with the difference the other way round away from it.
    Kappa is raised by `rounding`: where f is 0, the answer is the one that is wanted in
    a batch of any size.

    Args:
        logits: `(rows, num_classes)`, float32, of any scale.
        labels: `(rows,)`, int64: the targets, or the true classes.
        targeted: Scalar, bool: whether `labels` are targets.
        confidence: Scalar, float32: kappa, not below 0.

    Returns:
        `(rows,)`, float32: 0 where the answer is the one that is wanted, above
        elsewhere.

    Reference:
        Carlini and Wagner, Towards evaluating the robustness of neural networks, 2017,
        function f6.
    """
    lead = rivals_lead(logits, labels, "margin")
    missing = tf.where(targeted, lead, -lead) + confidence + rounding(logits, labels)
    return tf.maximum(missing, 0)
