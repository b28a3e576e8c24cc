r"""Quantization index modulation: distances, correlations and attractors.

A pixel of step size $\delta$ holds the bit 0 at the grey levels
$\dots, -1.5\delta, 0.5\delta, 2.5\delta, \dots$ and the bit 1 at
$\dots, -0.5\delta, 1.5\delta, 3.5\delta, \dots$. The codebook goes on below 0 and above
255: cut at 0, a black pixel would have one slope for both bits and no part in any
class's gradient. With $q(x, m, \delta)$ the distance to the nearest codeword of the bit
$m$, $q(x, 0) + q(x, 1) = \delta$, hence the distance of an image to a message

$$Q(x, m) = \sum_i \alpha_i q(x_i, m_i, \delta_i)
          = \sum_i \frac{\alpha_i \delta_i}{2}
          + \sum_i \alpha_i (1 - 2 m_i) (q(x_i, 0, \delta_i) - \frac{\delta_i}{2})$$

is linear in the bits: one triangle wave per pixel and one matrix product with the signs
$1 - 2m$ serve every message, forward and back. The first sum is the same for all images
and messages, and millions where images are large: in float32 one part in it that tells
two images apart would be lost. So what is computed here is the *centred* distance, the
second sum alone, and equation 3's shift is that of the centred distance, see
`centred_shift`.

Grey levels run from 0 to 255 here, and only here.

Reference:
    Zhang, Chang, Lee, Detection and Recovery of Adversarial Attacks with Injected
    Attractors, Section V-E; Chen and Wornell, Quantization index modulation, 2001.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps.ops.codes import Code, Layout
from keras_traps.ops.columns import Order, spread_by_message, sum_by_message

# So many numbers at a time: their waves stay in the processor's cache, and in memory
# that the C library does not give back to the system every time.
_BLOCK = 5 * 2**17

# Of so few numbers, all messages are written out: one product is then faster than sums
# by column. A product adds one pixel of an image after the other, and of very many the
# last come too late for float32.
_MOST_WRITTEN, _MOST_PIXELS = 2**18, 2**14

# A number that is added to this one is rounded to a multiple of 0.5, whose parity, the
# sum's last bit, is then that of the number of halves and one.
_ROUNDING = np.float32(1.5 * 2**22 + 0.5)

# How much farther up a pixel is taken to be where its slope is looked up, so that one
# at a kink is surely not below it, whatever was rounded on the way there.
_UPWARDS = np.float32(1.0 + 2.0**-21)

# Equation 3 has a pole at u = 1; from here on tanh is 1 in float32 anyway.
_LARGEST_U = 1.0 - 2.0**-10


class QIMTables(NamedTuple):
    """What distances are computed from: messages, step sizes and weights, digested.

    Args:
        layout: How images are cut up.
        is_written: Whether there are few enough numbers to write all messages out.
        scale: `(pixels,)`, float32: 1 / (2 step), the inverse of the wave's period.
        kernel: float32, the weighted period with its sign, that of the pattern,
            `(pixels,)`, or those of the messages that are written out,
            `(pixels, num_classes)`.
        order: The secret orders of the code.
    """

    layout: Layout
    is_written: bool
    scale: tf.Tensor
    kernel: tf.Tensor
    order: Order


def qim_tables(code: Code, steps: npt.ArrayLike, weights: npt.ArrayLike) -> QIMTables:
    """Prepares messages for `qim_distance` and `qim_decode`.

    Args:
        code: The messages.
        steps: `(pixels,)`, step sizes in grey levels, above 0.
        weights: `(pixels,)`, weights of the pixels.

    Returns:
        The tables, of at most 2**18 numbers or 2 for each pixel. Of steps in another
        unit and weights per unit, they are for images in that unit.
    """
    periods = 2.0 * np.asarray(steps, np.float64)
    kernel = code.pattern * np.asarray(weights, np.float64) * periods
    layout = code.layout
    is_written = (
        layout.pixels <= _MOST_PIXELS
        and layout.pixels * layout.classes <= _MOST_WRITTEN
    )
    if is_written:
        kernel = ((1.0 - 2.0 * code.bits()) * code.pattern * kernel).T
    # A layer may be built while a graph is.
    with tf.init_scope():
        return QIMTables(
            layout,
            is_written,
            tf.constant(1.0 / periods, tf.float32),
            tf.constant(kernel, tf.float32),
            Order(*map(tf.constant, (code.strips, code.places, code.rows))),
        )


def centred_wave(x: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """Distances of pixels to the bit 0, less their middle: what a sign is for.

    Args:
        x: `(..., pixels)`, float32 grey levels.
        scale: Scalar or `(pixels,)`, float32: the inverse of twice the step sizes.

    Returns:
        A tensor of the shape of `x`, float32, in periods: from -0.25 to 0.25.
    """
    # A quarter back, the wave of the bit 0 is the distance to the nearest integer.
    # Centred here and not in the sums: of black images nothing is left to round.
    turns = x * scale - 0.25
    return tf.abs(turns - tf.round(turns)) - 0.25


def centred_shift(
    a0: float, a1: float, steps: npt.ArrayLike, weights: npt.ArrayLike
) -> float:
    """Returns equation 3's A1 for centred distances.

    Args:
        a0: A0.
        a1: A1, as equation 3 has it, for Q.
        steps: `(pixels,)`, step sizes in grey levels.
        weights: `(pixels,)`, weights of the pixels.

    Returns:
        A1 - A0 times what centring takes from Q, computed in float64.
    """
    middle = 0.5 * np.dot(np.asarray(steps, np.float64), np.asarray(weights))
    return float(a1 - a0 * middle)


def qim_distance(x: tf.Tensor, tables: QIMTables) -> tf.Tensor:
    """Weighted, centred distances of images to messages, Q(x, m) less its middle.

    Args:
        x: `(batch, ...)`, float32 grey levels; `pixels` values per image.
        tables: What `qim_tables` returned.

    Returns:
        `(batch, num_messages)`, float32, in weighted grey levels; 0 half-way between a
        message and its complement. The gradient with respect to `x` is the analytic
        one; at a kink from 0 upwards it is the derivative from the right. The tables
        are constants to it.
    """
    return _with_gradient(_distance, _pull_back, x, tables)


def qim_correlation(
    distance: tf.Tensor, a0: tf.Tensor, a1: tf.Tensor, a2: tf.Tensor
) -> tf.Tensor:
    r"""Maps distances to correlations.

    $$S(r) = A_2 \tanh\left(\frac{u}{1 - u}\right), \quad u = A_0 r - A_1$$

    rises with u from -0.76 A2 through 0 at u = 0 to A2 at u = 1. The pole at u = 1 is
    cut off: above 1 - 2**-10 the value is that at the cut and the gradient 0.

    Args:
        distance: Any shape, float32: r, a centred distance.
        a0: Scalar, the scale of r; below 0 where a watermarked image is to have a
            high correlation.
        a1: Scalar, the shift of u for centred distances, see `centred_shift`.
        a2: Scalar, the largest correlation.

    Returns:
        A tensor of the shape and dtype of `distance`.

    Reference:
        Zhang, Chang, Lee, equation 3.
    """
    u = tf.minimum(a0 * distance - a1, _LARGEST_U)
    return a2 * tf.tanh(u / (1.0 - u))


def qim_decode(
    x: tf.Tensor,
    tables: QIMTables,
    a0: tf.Tensor,
    a1: tf.Tensor,
    a2: tf.Tensor,
    *,
    jit_compile: bool = False,
) -> tf.Tensor:
    """Correlations of images with messages: the watermark decoder W.

    Args:
        x: `(batch, ...)`, float32 grey levels.
        tables: What `qim_tables` returned.
        a0: Scalar; see `qim_correlation`.
        a1: Scalar.
        a2: Scalar.
        jit_compile: Whether XLA fuses the op: half the time, after a compilation for
            every batch size. Not for what is exported. Defaults to `False`.

    Returns:
        `(batch, num_messages)`, float32: w = S(Q(x, m)).

    Reference:
        Zhang, Chang, Lee, Section V-E.
    """
    constants = (a0, a1, a2)
    if not jit_compile:
        return _decode(x, tables, constants)
    # Each way is compiled for itself: between the two halves of one function, XLA
    # would copy x.
    distance = _with_gradient(_distance_compiled, _pull_back_compiled, x, tables)
    return _correlation(distance, *constants)


@functools.partial(tf.function, reduce_retracing=True)
def _decode(x: tf.Tensor, tables: QIMTables, constants: Any) -> tf.Tensor:
    return qim_correlation(qim_distance(x, tables), *constants)


_correlation = tf.function(qim_correlation, reduce_retracing=True)


class Embedding(NamedTuple):
    """Watermarked images and how far they lie.

    Args:
        image: The shape of the input, float32 grey levels in [0, 255].
        distance: `(batch,)`, float32: L2 distance to the input in grey levels.
    """

    image: tf.Tensor
    distance: tf.Tensor


def qim_embed(x: tf.Tensor, message: tf.Tensor, steps: tf.Tensor) -> Embedding:
    """Moves images to the nearest one that holds a message: an attractor.

    Each pixel goes to its nearest codeword in [0, 255], or, where its step size leaves
    none of its bit there, to the end of the range that is nearest to one.

    Args:
        x: `(batch, ...)`, float32 grey levels in [0, 255].
        message: `(pixels,)`, bits 0 and 1; or `(batch, pixels)`, one per image.
        steps: `(pixels,)`, float32 step sizes in grey levels.

    Returns:
        The watermarked images x_w with their distances.

    Reference:
        Zhang, Chang, Lee, Sections V-A and V-E.
    """
    flat = tf.reshape(x, (-1, tf.size(steps)))
    # The codewords of the bit 1 are those of 0 moved up by one step.
    bit = tf.cast(message, flat.dtype) * steps
    period = 2.0 * steps
    codeword = flat - _offset_from_codeword(flat - bit, steps)
    codeword = tf.where(codeword > 255.0, codeword - period, codeword)
    above = codeword + period
    is_nearer = tf.logical_and(codeword < 0.0, above - 255.0 < -codeword)
    codeword = tf.where(is_nearer, above, codeword)
    codeword = tf.clip_by_value(codeword, 0.0, 255.0)
    distance = tf.norm(codeword - flat, axis=-1)
    return Embedding(tf.reshape(codeword, tf.shape(x)), distance)


def _distance(x: tf.Tensor, tables: QIMTables) -> tf.Tensor:
    """Q(x, m) without a gradient: that is `_pull_back`."""
    layout, is_written, scale, kernel, order = tables
    x, scale, kernel = (tf.stop_gradient(tensor) for tensor in (x, scale, kernel))

    def project(values: tf.Tensor) -> tf.Tensor:
        wave = centred_wave(values, scale)
        if is_written:
            return tf.matmul(wave, kernel)
        return sum_by_message(wave * kernel, order, layout)

    return _by_blocks(project, tf.reshape(x, (-1, layout.pixels)))


def _pull_back(upstream: tf.Tensor, x: tf.Tensor, tables: QIMTables) -> tf.Tensor:
    """The gradient with respect to x, given that with respect to Q(x, m)."""
    layout, is_written, scale, kernel, order = tables
    # Here, and not for every block anew.
    slopes = kernel * (scale[:, None] if is_written else scale)
    scale = scale * _UPWARDS

    def pull_back(values: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
        if is_written:
            pull = tf.matmul(upstream, slopes, transpose_b=True)
        else:
            pull = spread_by_message(upstream, order, layout) * slopes
        # The bit 0's distance rises with x in every second half of a period.
        halves = tf.bitcast(values * scale + _ROUNDING, tf.int32)
        falls = tf.bitwise.left_shift(halves, 31)
        pull = tf.bitwise.bitwise_xor(tf.bitcast(pull, tf.int32), falls)
        return tf.bitcast(pull, tf.float32)

    pulls = _by_blocks(pull_back, tf.reshape(x, (-1, layout.pixels)), upstream)
    return tf.reshape(pulls, tf.shape(x))


_distance_compiled = tf.function(_distance, jit_compile=True)
_pull_back_compiled = tf.function(_pull_back, jit_compile=True)


def _with_gradient(
    distance: Callable[..., tf.Tensor],
    pull_back: Callable[..., tf.Tensor],
    x: tf.Tensor,
    tables: QIMTables,
) -> tf.Tensor:
    # The backward pass reads x anew, so that nothing but x is kept for it.
    @tf.custom_gradient
    def differentiable(images: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return pull_back(upstream, images, tables)

        return distance(images, tables), gradient

    return differentiable(x)


def _by_blocks(function: Callable[..., tf.Tensor], *matrices: tf.Tensor) -> tf.Tensor:
    """Calls a function that maps rows to rows with a few rows at a time."""
    # A batch of a size that the graph does not know is taken whole: what is exported
    # has no loop.
    rows = matrices[0].shape[0]
    most = max(1, _BLOCK // matrices[0].shape[1])
    if rows is None or rows <= most:
        return function(*matrices)
    # Of the sizes that leave no rest, which would have to be put together with the
    # others, the largest one, unless it is small.
    size = max(size for size in range(1, most + 1) if rows % size == 0)
    size = size if 2 * size > most else most
    whole = rows - rows % size

    def block(start: tf.Tensor) -> tf.Tensor:
        # Not `matrix[start : start + size]`: XLA has to know the size of a slice.
        parts = [tf.slice(m, (start, 0), (size, m.shape[1])) for m in matrices]
        return function(*parts)

    starts = tf.range(0, whole, size)
    blocks = tf.map_fn(block, starts, fn_output_signature=matrices[0].dtype)
    blocks = tf.reshape(blocks, (whole, blocks.shape[-1]))
    if whole == rows:
        return blocks
    rest = function(*(matrix[whole:] for matrix in matrices))
    return tf.concat([blocks, rest], axis=0)


def _offset_from_codeword(x: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
    """The way from the nearest codeword of bit 0 to x, in [-step, step)."""
    # floor(t + 0.5), not round: at a border it picks the upper codeword. Multiples of
    # the period are taken from x itself, so that no precision is lost to the division.
    period = 2.0 * steps
    centred = x - 0.5 * steps
    return centred - period * tf.floor(centred / period + 0.5)
