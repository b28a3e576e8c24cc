"""The sum of two output vectors, scaled to norm 1."""

import tensorflow as tf


def normalized_sum(c: tf.Tensor, w: tf.Tensor, ord: float = 1) -> tf.Tensor:
    r"""Adds two vectors and divides the sum by its norm.

    $$M(x) = \frac{C(x) + W(x)}{|C(x) + W(x)|}$$

    Args:
        c: `(batch, num_classes)`, floating point: a classifier's output.
        w: The same shape and dtype: a decoder's output.
        ord: Order of the norm: 1, 2 or `np.inf`. Defaults to `1`.

    Returns:
        A tensor of the shape and dtype of `c`; each row has norm 1. A row whose sum
        is 0 in every class stays 0.

    Raises:
        ValueError: If `ord` is another number.

    Reference:
        Zhang, Chang, Lee, Detection and Recovery of Adversarial Attacks with Injected
        Attractors, equation 2.
    """
    check_ord(ord)
    total = tf.convert_to_tensor(c) + w
    # The quotient does not change with the scale, and the L2 norm squares: entries are
    # brought to 1 first, so that neither tiny nor huge ones are lost.
    largest = tf.stop_gradient(tf.reduce_max(tf.abs(total), axis=-1, keepdims=True))
    scaled = tf.math.divide_no_nan(total, largest)
    # The L2 norm has no gradient at 0: there, another vector's norm serves.
    safe = tf.where(tf.equal(largest, 0), tf.ones_like(scaled), scaled)
    return scaled / tf.norm(safe, ord=ord, axis=-1, keepdims=True)


def check_ord(ord: float) -> None:
    """Refuses an order of a norm that `normalized_sum` does not know."""
    # A truth value is equal to 1.
    if isinstance(ord, bool) or ord not in (1, 2, float("inf")):
        raise ValueError(
            "Invalid value for argument `ord`. Expected 1, 2 or infinity. "
            f"Received: ord={ord!r}"
        )
