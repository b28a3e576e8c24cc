"""The best pair of pixels of a saliency map, without the map of all pairs."""

from typing import NamedTuple

import tensorflow as tf

# How many pairs are looked at together.
_BLOCK = 2**22


class Pairs(NamedTuple):
    """The best pair of each row.

    Args:
        first: `(rows,)`, int32: one of the pair.
        second: `(rows,)`, int32: the other one.
        found: `(rows,)`, bool: whether any pair is admissible. Where none is, the
            others say nothing.
    """

    first: tf.Tensor
    second: tf.Tensor
    found: tf.Tensor


def best_pairs(target: tf.Tensor, others: tf.Tensor, allowed: tf.Tensor) -> Pairs:
    r"""Finds the two features that are most worth to raise.

    $$\arg\max_{p \ne q} (\alpha_p + \alpha_q) |\beta_p + \beta_q|
    \quad\text{among}\quad \alpha_p + \alpha_q > 0,\ \beta_p + \beta_q < 0$$

    The map of all pairs has no place in memory, and needs none. The value grows with
    alpha and with minus beta. In the order of falling alpha, let two features before q
    have no larger beta than q: one of them is not p, and taken for q it makes the pair
    no worse. So a best pair is among the features before which fewer than two are at
    least as good in both; they are some dozens, and all of their pairs are compared.

    Args:
        target: `(rows, features)`, float32: alpha, the derivatives of the target's
            output.
        others: `(rows, features)`, float32: beta, the derivatives of the sum of the
            other outputs.
        allowed: `(rows, features)`, bool: which may be taken.

    Returns:
        The best pair of each row; any of them where several are alike.

    Reference:
        Papernot et al., The limitations of deep learning in adversarial settings, 2016,
        algorithm 3.
    """
    # Of a scale at which products neither vanish nor overflow.
    rise = _scaled(target, allowed)
    fall = _scaled(-others, allowed)
    order = tf.argsort(rise, axis=1, direction="DESCENDING", stable=True)
    falls = tf.gather(fall, order, batch_dims=1)
    largest = _largest_before(falls)
    second = _largest_before(tf.minimum(falls, largest))
    kept = falls > second
    number = tf.reduce_max(tf.math.count_nonzero(kept, axis=1, dtype=tf.int32))
    _, places = tf.math.top_k(tf.cast(kept, tf.int32), number)
    candidates = tf.gather(order, places, batch_dims=1)
    # Where a row has fewer candidates, the others repeat what is no better.
    return _best_of(
        candidates,
        tf.gather(rise, candidates, batch_dims=1),
        tf.gather(fall, candidates, batch_dims=1),
    )


def _scaled(values: tf.Tensor, allowed: tf.Tensor) -> tf.Tensor:
    size = tf.reduce_max(tf.abs(values), axis=1, keepdims=True)
    scaled = tf.math.divide_no_nan(values, size)
    # Lower than any sum with an allowed one can make up for.
    return tf.where(allowed, scaled, -4.0)


def _largest_before(values: tf.Tensor) -> tf.Tensor:
    """Returns for each column the largest value of the columns before it."""
    lowest = values.dtype.min
    shifted = tf.pad(values[:, :-1], [(0, 0), (1, 0)], constant_values=lowest)
    step = 1
    while step < values.shape[1]:
        before = tf.pad(shifted[:, :-step], [(0, 0), (step, 0)], constant_values=lowest)
        shifted = tf.maximum(shifted, before)
        step *= 2
    return shifted


def _best_of(candidates: tf.Tensor, rise: tf.Tensor, fall: tf.Tensor) -> Pairs:
    rows, number = tf.unstack(tf.shape(candidates))
    block = tf.maximum(_BLOCK // tf.maximum(rows * number, 1), 1)
    columns = tf.range(number)

    def look(
        start: tf.Tensor, best: tf.Tensor, place: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        end = tf.minimum(start + block, number)
        rises = rise[:, start:end, None] + rise[:, None, :]
        falls = fall[:, start:end, None] + fall[:, None, :]
        others = tf.range(start, end)[:, None] < columns
        fit = (rises > 0) & (falls > 0) & others
        values = tf.reshape(tf.where(fit, rises * falls, 0.0), (rows, -1))
        here = tf.argmax(values, axis=1, output_type=tf.int32)
        value = tf.gather(values, here, batch_dims=1)
        better = value > best
        return (
            end,
            tf.where(better, value, best),
            tf.where(better, start * number + here, place),
        )

    _, best, place = tf.while_loop(
        lambda start, *_: start < number,
        look,
        (tf.constant(0), tf.zeros((rows,)), tf.zeros((rows,), tf.int32)),
    )
    return Pairs(
        tf.gather(candidates, place // number, batch_dims=1),
        tf.gather(candidates, place % number, batch_dims=1),
        best > 0,
    )
