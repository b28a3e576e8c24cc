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

# So many images at a time that their waves stay in the processor's cache.
_BLOCK = 256

# So many pixels are summed in one go, and then these sums. Of a single image a product
# adds one pixel after the other, and of 800,000 the last come too late for float32.
_PIXELS = 4096

# Equation 3 has a pole at u = 1; from here on tanh is 1 in float32 anyway.
_LARGEST_U = 1.0 - 2.0**-10


def message_signs(messages: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Writes messages as what the distances multiply by, 1 - 2m.

    Args:
        messages: `(num_messages, pixels)`, bits 0 and 1.

    Returns:
        `(pixels, num_messages)`, float32: 1 for the bit 0, -1 for the bit 1.
    """
    return np.ascontiguousarray(1.0 - 2.0 * np.asarray(messages, np.float32).T)


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


def qim_distance(
    x: tf.Tensor, signs: tf.Tensor, steps: tf.Tensor, weights: tf.Tensor
) -> tf.Tensor:
    """Weighted, centred distances of images to messages, Q(x, m) less its middle.

    Args:
        x: `(batch, ...)`, float32 grey levels; `pixels` values per image.
        signs: `(pixels, num_messages)`, float32, what `message_signs` returns.
        steps: `(pixels,)`, float32 step sizes in grey levels, above 0.
        weights: `(pixels,)`, float32 weights of the pixels.

    Returns:
        `(batch, num_messages)`, float32, in weighted grey levels; 0 half-way between a
        message and its complement. The gradient with respect to `x` is the analytic
        one; at a kink it is the derivative from the right. `signs`, `steps` and
        `weights` are constants to it.
    """
    return _blockwise_distance(x, *_in_blocks(signs, steps, weights))


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
    signs: tf.Tensor,
    steps: tf.Tensor,
    weights: tf.Tensor,
    a0: tf.Tensor,
    a1: tf.Tensor,
    a2: tf.Tensor,
    *,
    jit_compile: bool = False,
) -> tf.Tensor:
    """Correlations of images with messages: the watermark decoder W.

    Args:
        x: `(batch, ...)`, float32 grey levels.
        signs: `(pixels, num_messages)`, float32, what `message_signs` returns.
        steps: `(pixels,)`, float32 step sizes in grey levels.
        weights: `(pixels,)`, float32.
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
    # Here, where the number of pixels is known.
    secrets, constants = _in_blocks(signs, steps, weights), (a0, a1, a2)
    if not jit_compile:
        return _decode(x, secrets, constants)
    # Each way is compiled for itself: between the two halves of one function, XLA
    # would copy x.
    distance = _with_gradient(_distance_compiled, _pull_back_compiled, x, *secrets)
    return _correlation(distance, *constants)


@functools.partial(tf.function, reduce_retracing=True)
def _decode(x: tf.Tensor, secrets: Any, constants: Any) -> tf.Tensor:
    return qim_correlation(_blockwise_distance(x, *secrets), *constants)


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


def _in_blocks(
    signs: tf.Tensor, steps: tf.Tensor, weights: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the secrets as `(blocks, pixels, ...)`, of at least `_PIXELS` pixels."""
    pixels, num_messages = signs.shape
    count, size = 1, -1
    if pixels is not None:
        most = max(1, pixels // _PIXELS)
        count = max(count for count in range(1, most + 1) if pixels % count == 0)
        size = pixels // count
    return (
        tf.reshape(signs, (count, size, num_messages or tf.shape(signs)[1])),
        tf.reshape(steps, (count, 1, size)),
        tf.reshape(weights, (count, 1, size)),
    )


def _blockwise_distance(x: tf.Tensor, *secrets: tf.Tensor) -> tf.Tensor:
    return _with_gradient(_distance, _pull_back, x, *secrets)


def _distance(
    x: tf.Tensor, signs: tf.Tensor, steps: tf.Tensor, weights: tf.Tensor
) -> tf.Tensor:
    """Q(x, m) without a gradient: that is `_pull_back`."""
    x, steps, weights = (tf.stop_gradient(tensor) for tensor in (x, steps, weights))
    blocks = tf.shape(signs)

    def project(values: tf.Tensor) -> tf.Tensor:
        values = tf.reshape(values, (-1, blocks[0], blocks[1]))
        values = tf.transpose(values, (1, 0, 2))
        # The weights go on the wave: weighing the signs would copy them at every call.
        wave = tf.abs(_offset_from_codeword(values, steps)) - 0.5 * steps
        return tf.reduce_sum(tf.matmul(weights * wave, signs), axis=0)

    return _by_blocks(project, tf.reshape(x, (-1, tf.size(steps))))


def _pull_back(
    upstream: tf.Tensor,
    x: tf.Tensor,
    signs: tf.Tensor,
    steps: tf.Tensor,
    weights: tf.Tensor,
) -> tf.Tensor:
    """The gradient with respect to x, given that with respect to Q(x, m)."""
    signs = tf.reshape(signs, (-1, tf.shape(signs)[2]))
    steps, weights = (tf.reshape(tensor, [-1]) for tensor in (steps, weights))

    def pull_back(values: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
        pull = weights * tf.matmul(upstream, signs, transpose_b=True)
        offset = _offset_from_codeword(values, steps)
        # Where steps are constants, the division becomes a product, which may take a
        # border for the cell below it: the offset is then one whole step.
        rises = tf.logical_and(offset >= 0, offset < steps)
        return tf.where(rises, pull, -pull)

    pulls = _by_blocks(pull_back, tf.reshape(x, (-1, tf.size(steps))), upstream)
    return tf.reshape(pulls, tf.shape(x))


_distance_compiled = tf.function(_distance, jit_compile=True)
_pull_back_compiled = tf.function(_pull_back, jit_compile=True)


def _with_gradient(
    distance: Callable[..., tf.Tensor],
    pull_back: Callable[..., tf.Tensor],
    x: tf.Tensor,
    *secrets: tf.Tensor,
) -> tf.Tensor:
    # The backward pass reads x anew, so that nothing but x is kept for it.
    @tf.custom_gradient
    def differentiable(images: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return pull_back(upstream, images, *secrets)

        return distance(images, *secrets), gradient

    return differentiable(x)


def _by_blocks(function: Callable[..., tf.Tensor], *matrices: tf.Tensor) -> tf.Tensor:
    """Calls a function that maps rows to rows with a few rows at a time."""
    # A batch of a size that the graph does not know is taken whole: what is exported
    # has no loop.
    rows = matrices[0].shape[0]
    if rows is None or rows <= _BLOCK:
        return function(*matrices)
    whole = rows - rows % _BLOCK

    def block(start: tf.Tensor) -> tf.Tensor:
        # Not `matrix[start : start + _BLOCK]`: XLA has to know the size of a slice.
        parts = [tf.slice(m, (start, 0), (_BLOCK, tf.shape(m)[1])) for m in matrices]
        return function(*parts)

    starts = tf.range(0, whole, _BLOCK)
    blocks = tf.map_fn(block, starts, fn_output_signature=matrices[0].dtype)
    rest = function(*(matrix[whole:] for matrix in matrices))
    return tf.concat([tf.reshape(blocks, (whole, tf.shape(rest)[1])), rest], axis=0)


def _offset_from_codeword(x: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
    """The way from the nearest codeword of bit 0 to x, in [-step, step)."""
    # floor(t + 0.5), not round: at a border it picks the upper codeword, whose slope is
    # the derivative from the right. Multiples of the period are taken from x itself, so
    # that no precision is lost to the division.
    period = 2.0 * steps
    centred = x - 0.5 * steps
    return centred - period * tf.floor(centred / period + 0.5)
