"""The search over c, the weight of the penalty against the distance."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

_LARGEST = 1e10


class Constant(NamedTuple):
    """Where each example stands in its search over c.

    Args:
        value: `(rows,)`, float32: c as it is tried now, at most 1e10.
        lower: `(rows,)`, float32: the largest c that failed, 0 before.
        upper: `(rows,)`, float32: the smallest c that succeeded, infinity before.
        number: `(rows,)`, int32: which search this is, from 0.
    """

    value: tf.Tensor
    lower: tf.Tensor
    upper: tf.Tensor
    number: tf.Tensor


def first_constant(value: tf.Tensor, count: tf.Tensor) -> Constant:
    """Returns the start of the search.

    Args:
        value: Scalar, float32: the first c.
        count: Scalar, int32: how many examples.

    Returns:
        One row for each.
    """
    shape = tf.reshape(count, (1,))
    return Constant(
        value=tf.fill(shape, value),
        lower=tf.zeros(shape),
        upper=tf.fill(shape, np.float32(np.inf)),
        number=tf.zeros(shape, tf.int32),
    )


def next_constant(
    constant: Constant, found: tf.Tensor, searches: tf.Tensor
) -> Constant:
    """Returns the c to try next.

    Ten times the last one as long as none has succeeded, then the middle between the
    largest that failed and the smallest that succeeded. The last of ten or more
    searches takes 1e10 where none has succeeded, so that only the penalty counts;
    where one has, cleverhans repeats that one, which finds the same again: here it
    goes on to the middle.

    Args:
        constant: Where the search stands.
        found: `(rows,)`, bool: whether the c of now succeeded.
        searches: Scalar, int32: how many there are in all.

    Returns:
        Where it stands then.

    Reference:
        Carlini and Wagner, Towards evaluating the robustness of neural networks, 2017.
    """
    upper = tf.where(found, tf.minimum(constant.upper, constant.value), constant.upper)
    lower = tf.where(found, constant.lower, tf.maximum(constant.lower, constant.value))
    number = constant.number + 1
    desperate = (searches >= 10) & (number == searches - 1)
    larger = tf.where(desperate, _LARGEST, tf.minimum(10 * constant.value, _LARGEST))
    value = tf.where(tf.math.is_inf(upper), larger, (lower + upper) / 2)
    return Constant(value, lower, upper, number)
