"""Sums of an image's numbers by the columns of a code, to messages, and back.

What is linear in the messages of a `Code` needs no table of classes by pixels. Forth,
the numbers of an image are summed by column, then Hadamard's matrix makes of the sums
one number for each of its rows, of which every class has one. Back, the same in
reverse. Of 1000 classes and images of 224x224x3 that is a thousandth of the products.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_traps.ops.codes import Layout

# Of a larger order, the matrix is taken as a product of two.
_LARGEST_ORDER = 64


class Order(NamedTuple):
    """The secret orders of a code, see `keras_traps.ops.codes.Code`.

    Args:
        strips: `(strips,)`, int32.
        places: `(columns,)`, int32.
        rows: `(num_classes,)`, int32.
    """

    strips: tf.Tensor
    places: tf.Tensor
    rows: tf.Tensor


def sum_by_message(values: tf.Tensor, order: Order, layout: Layout) -> tf.Tensor:
    """Sums the numbers of images with the signs of messages but for the pattern.

    Args:
        values: `(batch, pixels)`, floating point.
        order: The orders of the code.
        layout: How images are cut up.

    Returns:
        `(batch, num_classes)`, of the dtype of `values`.
    """
    sums = tf.gather(_sum_by_place(values, order, layout), order.places, axis=1)
    return tf.gather(_walsh_hadamard(sums, layout.columns), order.rows, axis=1)


def spread_by_message(values: tf.Tensor, order: Order, layout: Layout) -> tf.Tensor:
    """Gives every pixel the sum of a number per message with its signs there.

    It is the transpose of `sum_by_message`, and likewise leaves the pattern out.

    Args:
        values: `(batch, num_classes)`, floating point.
        order: The orders of the code.
        layout: How images are cut up.

    Returns:
        `(batch, pixels)`, of the dtype of `values`.
    """
    # Rows that no class has get the 0 that is put in front.
    numbers = tf.range(1, layout.classes + 1)
    owner = tf.scatter_nd(order.rows[:, None], numbers, [layout.columns])
    values = tf.gather(tf.pad(values, [[0, 0], [1, 0]]), owner, axis=1)
    by_column = _walsh_hadamard(values, layout.columns)
    column = tf.math.invert_permutation(order.places)
    return _spread_by_place(tf.gather(by_column, column, axis=1), order, layout)


def signs_of(classes: tf.Tensor, order: Order, layout: Layout) -> tf.Tensor:
    """Returns the signs of messages but for the pattern.

    Args:
        classes: `(batch,)`, integer: whose messages.
        order: The orders of the code.
        layout: How images are cut up.

    Returns:
        `(batch, pixels)`, float32, 1 or -1.
    """
    return spread_by_message(tf.one_hot(classes, layout.classes), order, layout)


def _sum_by_place(values: tf.Tensor, order: Order, layout: Layout) -> tf.Tensor:
    (down, across), (rows, strips) = layout.block, layout.grid
    numbers = layout.cells * across * layout.channels
    parts = tf.reshape(_padded(values, layout), (-1, rows * down * strips, numbers))
    # Where the upper row of pixels of each strip is, and how far the others are.
    upper = order.strips + order.strips // strips * ((down - 1) * strips)
    lower = strips * np.arange(down, dtype=np.int32)[:, None]

    def summed(wanted: tf.Tensor, count: int, length: int) -> tf.Tensor:
        chosen = tf.gather(parts, tf.reshape(wanted + lower, [-1]), axis=1)
        chosen = tf.reshape(chosen, (-1, count * down, length * numbers))
        return tf.reduce_sum(chosen, axis=1)

    period = layout.period
    count, rest = divmod(rows * strips, period)
    sums = []
    if count:
        whole = tf.reshape(upper[: count * period], (count, 1, period))
        sums.append(summed(whole, count, period))
    if rest:
        last = summed(upper[count * period :], 1, rest)
        sums.append(tf.pad(last, [[0, 0], [0, (period - rest) * numbers]]))
    in_blocks = (-1, period * layout.cells, across, layout.channels)
    blocks = tf.reduce_sum(tf.reshape(tf.add_n(sums), in_blocks), axis=2)
    columns = (-1, period * layout.blocks // layout.columns, layout.columns)
    return tf.reduce_sum(tf.reshape(blocks, columns), axis=1)


def _spread_by_place(values: tf.Tensor, order: Order, layout: Layout) -> tf.Tensor:
    (down, across), (rows, strips) = layout.block, layout.grid
    period, (height, width) = layout.period, layout.size
    blocks = tf.tile(values, [1, period * layout.blocks // layout.columns])
    blocks = tf.reshape(blocks, (-1, period * layout.cells, 1, layout.channels))
    numbers = layout.cells * across * layout.channels
    parts = tf.reshape(tf.tile(blocks, [1, 1, across, 1]), (-1, period, numbers))
    turn = tf.math.invert_permutation(order.strips) % period
    turn = tf.tile(tf.reshape(turn, (rows, 1, strips)), [1, down, 1])
    padded = (-1, rows * down, strips * numbers)
    image = tf.reshape(tf.gather(parts, tf.reshape(turn, [-1]), axis=1), padded)
    if padded[1:] != (height, width * layout.channels):
        image = image[:, :height, : width * layout.channels]
    return tf.reshape(image, (-1, layout.pixels))


def _padded(values: tf.Tensor, layout: Layout) -> tf.Tensor:
    """Adds what sticks out of the image, as zeros."""
    (down, across), (rows, strips) = layout.block, layout.grid
    height, width = layout.size
    below, beside = rows * down - height, strips * layout.cells * across - width
    if not (below or beside):
        return values
    image = tf.reshape(values, (-1, height, width * layout.channels))
    return tf.pad(image, [[0, 0], [0, below], [0, beside * layout.channels]])


def _walsh_hadamard(values: tf.Tensor, order: int) -> tf.Tensor:
    """Multiplies rows `(batch, order)` by Sylvester's Hadamard matrix."""
    if order <= _LARGEST_ORDER:
        return tf.matmul(values, _hadamard(order, values.dtype))
    inner = min(_LARGEST_ORDER, 2 ** (order.bit_length() // 2))
    outer = order // inner
    rows = tf.reshape(values, (-1, outer, inner))
    rows = tf.transpose(tf.matmul(rows, _hadamard(inner, values.dtype)), (0, 2, 1))
    rows = _walsh_hadamard(tf.reshape(rows, (-1, outer)), outer)
    rows = tf.transpose(tf.reshape(rows, (-1, inner, outer)), (0, 2, 1))
    return tf.reshape(rows, (-1, order))


def _hadamard(order: int, dtype: tf.DType) -> tf.Tensor:
    index = np.arange(order)
    parity = np.bitwise_count(index[:, None] & index) & 1
    return tf.constant(1.0 - 2.0 * parity, dtype)
